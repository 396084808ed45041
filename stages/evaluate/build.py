"""Scores every model on the same tokens and writes metrics, results and items."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.tokenizer import Tokenizer
from stages._documents import write_table
from stages._manifest import canonical, sha256_file
from stages._runner import StageError, StageIO
from stages.evaluate.baselines import Bigram, Unigram
from stages.evaluate.cloze import CHOICES, Item, make_items
from stages.evaluate.heldout import Split, drawn, every_nth, read_split
from stages.evaluate.settings import Params
from stages.evaluate.statistics import bits_per_byte, paired_bootstrap, wilson

if TYPE_CHECKING:
    from model.glm import GLM

Floats = NDArray[np.float64]
_CHECKPOINTS, _EXPORTS = "data/pretrain/checkpoints", "data/quantize"
_TOKENIZER = "data/tokenizer/tokenizer.model"
_DIGITS = 6
ITEMS = pa.schema(
    [
        pa.field("item", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("context", pa.string(), nullable=False),
        pa.field("choices", pa.list_(pa.string()), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("prediction", pa.int8(), nullable=False),
        pa.field("scores", pa.list_(pa.float64()), nullable=False),
    ]
)


@dataclass(frozen=True)
class Scores:
    """What one model made of the held-out text: nats of each document, log-probabilities [items, choices]."""

    nats: Floats
    choices: Floats


def checkpoints(io: StageIO) -> list[Path]:
    """All checkpoints in the order of their steps.

    Raises:
        StageError: there is none.
    """
    found = sorted(path for path in io.input(_CHECKPOINTS).glob("step-*") if path.is_dir())
    if not found:
        raise StageError("there is no checkpoint", file=_CHECKPOINTS, remedy="run `dvc repro --force pretrain`")
    return found


def exports(io: StageIO, parent: Path) -> dict[str, Path]:
    """The quantized exports by scheme.

    Raises:
        StageError: one was not made from `parent`.
    """
    from model.checkpoint import CONFIG, weights_file

    parent_sha256 = sha256_file(weights_file(parent))
    found = {file.parent.name: file.parent for file in sorted(io.input(_EXPORTS).glob(f"*/{CONFIG}"))}
    for name, folder in found.items():
        lineage = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["quantization"]
        if lineage["parent_sha256"] != parent_sha256:
            raise StageError(
                f"the export was made from other weights than those of {parent.name}",
                file=f"{_EXPORTS}/{name}/{CONFIG}",
                remedy="run `dvc repro quantize`",
            )
    return found


def load(folder: Path, params: Params, tokenizer: Path) -> GLM:
    """A checkpoint's model, checked against the tokens and windows that it is to score.

    Raises:
        StageError: another tokenizer, or sequences too short for the window.
    """
    from model.checkpoint import TOKENIZER, CheckpointError
    from model.quantization import load_for_inference

    name = f"{folder.parent.name}/{folder.name}"
    if (folder / TOKENIZER).read_bytes() != tokenizer.read_bytes():
        raise StageError("the checkpoint has another tokenizer", file=f"{name}/{TOKENIZER}", remedy="run `dvc repro`")
    try:
        model = load_for_inference(folder)
    except CheckpointError as error:
        raise StageError("the checkpoint cannot be read", file=name, remedy=f"restore it by `dvc checkout`: {error}") from error
    if params.window >= model.config.max_sequence:
        raise StageError(
            f"a window of {params.window} tokens does not fit sequences of {model.config.max_sequence}",
            file=name,
            remedy=f"set evaluate.window to {model.config.max_sequence - 1} or less",
        )
    return model


def score_model(model: GLM, documents: Sequence[NDArray[np.int32]], items: Sequence[Item], params: Params) -> Scores:
    """Held-out documents and cloze items by a GLM."""
    from model.scoring import Question, score_choices, score_documents

    questions = [Question(item.context, list(item.choices[:, None])) for item in items]
    return Scores(
        nats=score_documents(model, documents, params.window, params.context, params.batch_positions),
        choices=np.array(score_choices(model, questions, batch_positions=params.batch_positions)).reshape(len(items), CHOICES),
    )


def score_baseline(baseline: Unigram | Bigram, documents: Sequence[NDArray[np.int32]], items: Sequence[Item]) -> Scores:
    """Held-out documents and cloze items by an n-gram model."""
    return Scores(
        nats=np.array([baseline.nats(document) for document in documents]),
        choices=np.array([baseline.scores(item.context, item.choices) for item in items]).reshape(len(items), CHOICES),
    )


def by_group(heldout: Split, measure: Callable[[NDArray[np.bool_]], Any]) -> dict[str, dict[str, Any]]:
    """`measure` of the documents of each language and of each source."""
    return {
        "language": {lang: measure(heldout.lang == lang) for lang in sorted(set(heldout.lang.tolist()))},
        "source": {source: measure(heldout.source == source) for source in sorted(set(heldout.source.tolist()))},
    }


def differences(heldout: Split, scores: dict[str, Scores], exported: Sequence[str], params: Params) -> list[dict[str, Any]]:
    """Bits per byte of one model less another's, with intervals: the model against baselines, exports against the model."""
    pairs = [("fp32", "unigram"), ("fp32", "bigram"), *((name, "fp32") for name in exported)]
    rows = []
    for model, reference in pairs:
        for lang in sorted(set(heldout.lang.tolist())):
            here = heldout.lang == lang
            interval = paired_bootstrap(
                scores[model].nats[here], scores[reference].nats[here], heldout.bytes[here], params.bootstrap, params.seed
            )
            rows.append({"model": model, "reference": reference, "lang": lang, **_rounded(asdict(interval))})
    return rows


def cloze_results(items: Sequence[Item], scores: dict[str, Scores]) -> dict[str, dict[str, Any]]:
    """Accuracy of each model in each language, with Wilson's interval."""
    labels = np.array([item.label for item in items], dtype=np.int64)
    langs = np.array([item.lang for item in items], dtype=np.str_)
    results: dict[str, dict[str, Any]] = {}
    for name, score in scores.items():
        right = score.choices.argmax(axis=1) == labels if len(items) else np.zeros(0, dtype=bool)
        results[name] = {}
        for lang in sorted(set(langs.tolist())):
            correct, total = int(right[langs == lang].sum()), int((langs == lang).sum())
            results[name][lang] = {"correct": correct, "items": total, **_rounded(asdict(wilson(correct, total)))}
    return results


def item_rows(items: Sequence[Item], scores: dict[str, Scores], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """`items.parquet`: one row for each item and model."""
    rows = []
    for number, item in enumerate(items):
        shown = {
            "item": item.item,
            "lang": item.lang,
            "doc_id": item.doc_id,
            "context": tokenizer.decode(item.context),
            "choices": [tokenizer.decode([choice]).strip() for choice in item.choices],
            "label": item.label,
        }
        for name, score in scores.items():
            given = score.choices[number]
            rows.append({**shown, "model": name, "prediction": int(given.argmax()), "scores": given.round(_DIGITS).tolist()})
    return rows


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Score, compare, write."""
    import torch

    torch.set_num_threads(params.threads)
    tokenizer = Tokenizer(io.input(_TOKENIZER))
    encoded = io.input("data/encode")
    train = read_split(encoded, "train", every_nth(params.baselines.train_tokens))
    heldout = read_split(encoded, "heldout", drawn(params.heldout_tokens, params.seed))
    documents = [heldout.text_tokens(number) for number in range(len(heldout))]
    items = make_items(train, heldout, tokenizer, params.cloze, params.seed)
    unigram = Unigram.fit(train.tokens, tokenizer.piece_count, params.baselines.smoothing)
    bigram = Bigram.fit(train.tokens, unigram, params.baselines.discount)
    scores = {name: score_baseline(model, documents, items) for name, model in (("unigram", unigram), ("bigram", bigram))}
    *earlier, last = checkpoints(io)
    exported = exports(io, last)
    folders = {"fp32": last, **exported}
    for name in io.track(folders, "scoring", len(folders), "models"):
        scores[name] = score_model(load(folders[name], params, tokenizer.path), documents, items, params)
    results: dict[str, Any] = {
        "checkpoint": last.name,
        "heldout": by_group(heldout, lambda here: _size(heldout, here)),
        "heldout_share": round(heldout.share, _DIGITS),
        "baselines": {
            "train_tokens": len(train.tokens),
            "train_share": round(train.share, _DIGITS),
            "smoothing": params.baselines.smoothing,
            "discount": round(bigram.discount, _DIGITS),
        },
        "bits_per_byte": {name: _bits(heldout, score.nats) for name, score in scores.items()},
        "differences": differences(heldout, scores, list(exported), params),
        "checkpoints": _curve(params, io, heldout, earlier, last, scores, tokenizer.path),
        "cloze": cloze_results(items, scores),
    }
    metrics = _metrics(results)
    write_table(io.output / "items.parquet", ITEMS, item_rows(items, scores, tokenizer))
    (io.output / "results.json").write_text(canonical(results), encoding="utf-8")
    (io.output / "metrics.json").write_text(canonical(metrics), encoding="utf-8")
    for name, row in metrics["bpb"].items():
        io.log(f"{name}: " + ", ".join(f"{lang} {value:.4f} bits per byte" for lang, value in row.items()))
    cloze = {lang: sum(item.lang == lang for item in items) for lang in sorted({item.lang for item in items})}
    return {"models": sorted(scores), "checkpoints": len(results["checkpoints"]), "documents": len(documents), "items": cloze}


def _curve(
    params: Params, io: StageIO, heldout: Split, earlier: list[Path], last: Path, scores: dict[str, Scores], tokenizer: Path
) -> list[dict[str, Any]]:
    """Each checkpoint on the same part of the held-out text; the last one's scores are known already."""
    from model.scoring import score_documents

    if not params.checkpoint_tokens:
        return []
    chosen = drawn(params.checkpoint_tokens, params.seed)(heldout.doc_id, heldout.lang, np.diff(heldout.start))
    documents = [heldout.text_tokens(int(number)) for number in chosen]
    nats = {}
    for folder in io.track(earlier, "scoring", len(earlier), "earlier checkpoints"):
        model = load(folder, params, tokenizer)
        nats[folder.name] = score_documents(model, documents, params.window, params.context, params.batch_positions)
    nats[last.name] = scores["fp32"].nats[chosen]
    rows = []
    for name, row in nats.items():
        here = {lang: heldout.lang[chosen] == lang for lang in sorted(set(heldout.lang.tolist()))}
        bits = {lang: bits_per_byte(row[mask], heldout.bytes[chosen][mask]) for lang, mask in here.items()}
        floor = {lang: bits_per_byte(scores["unigram"].nats[chosen][m], heldout.bytes[chosen][m]) for lang, m in here.items()}
        ratio = {lang: bits[lang] / floor[lang] for lang in here}
        step = int(name.removeprefix("step-"))
        rows.append({"checkpoint": name, "step": step, "bpb": _rounded(bits), "ratio_to_unigram": _rounded(ratio)})
    return rows


def _metrics(results: dict[str, Any]) -> dict[str, Any]:
    bits = {name: groups["language"] for name, groups in results["bits_per_byte"].items()}
    ratios = {
        f"ratio_to_{reference}": {
            name: _rounded({lang: row[lang] / bits[reference][lang] for lang in row})
            for name, row in bits.items()
            if name not in ("unigram", "bigram")
        }
        for reference in ("unigram", "bigram")
    }
    accuracy = {name: {lang: row["value"] for lang, row in rows.items()} for name, rows in results["cloze"].items()}
    return {"bpb": bits, **ratios, "cloze_accuracy": accuracy}


def _bits(heldout: Split, nats: Floats) -> dict[str, dict[str, float]]:
    return by_group(heldout, lambda here: round(bits_per_byte(nats[here], heldout.bytes[here]), _DIGITS))


def _size(heldout: Split, here: NDArray[np.bool_]) -> dict[str, int]:
    tokens = int(np.diff(heldout.start)[here].sum()) - int(here.sum())
    return {"documents": int(here.sum()), "tokens": tokens, "bytes": int(heldout.bytes[here].sum())}


def _rounded(numbers: dict[str, float]) -> dict[str, float]:
    return {name: round(number, _DIGITS) for name, number in numbers.items()}

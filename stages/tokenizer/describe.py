"""What the stage reads and says: how much text there is, the sample of it, and what the model does to held-out text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from model.tokenizer import Tokenizer
from stages import _texts
from stages._manifest import canonical
from stages._runner import StageError, StageIO
from stages.tokenizer.measure import Fertility, beside_icetk, composition
from stages.tokenizer.params import TRAIN, Params
from stages.tokenizer.sampling import LANGUAGES, sample, shares

_COLUMNS = ("doc_id", "source", "lang", "text")


def training_lines(params: Params, io: StageIO) -> Iterator[str]:
    """The training sample."""
    available, share = _sampled(params, io)
    used = {language: round(share[language] * available[language]) for language in LANGUAGES}
    io.log(f"training {params.vocab_size:,} pieces on about {used['en']:,} bytes of English, {used['zh']:,} of Chinese")
    yield from sample(_documents(io, "train"), share, params.seed)


def describe(path: Path, params: Params, io: StageIO) -> dict[str, Any]:
    """Write tokenizer.json and report.json for the model at `path`, and give the counts."""
    available, share = _sampled(params, io)
    used = {language: round(share[language] * available[language]) for language in LANGUAGES}
    tokenizer = _loaded(path)
    multiple = params.pad_multiple * params.tensor_parallel
    description = {
        "model": "sentencepiece-unigram",
        "piece_count": tokenizer.piece_count,
        "padded_size": tokenizer.padded_size(multiple),
        "pad_multiple": multiple,
        "special": asdict(tokenizer.special),
    }
    _write(io.output / "tokenizer.json", description)
    measured = Fertility(tokenizer)
    for batch in _batches(io, "heldout", _COLUMNS):
        measured.add(batch.to_pylist())
    counts = composition(tokenizer)
    report = {
        "sample": {language: {"available_bytes": available[language], "share": share[language]} for language in LANGUAGES},
        "heldout": measured.by_language(),
        "sources": measured.by_source(),
        "composition": counts,
        "comparison": beside_icetk(counts),
    }
    _write(io.output / "report.json", report)
    for language, row in measured.by_language().items():
        io.log(f"{language}: {row['bytes_per_token']} bytes per token, {row['byte_fallback_share']:.2%} byte pieces (held out)")
    return {"pieces": tokenizer.piece_count, "sample_bytes": used}


def _sampled(params: Params, io: StageIO) -> tuple[dict[str, int], dict[str, float]]:
    """Bytes of training text by language, and the share of them that is taken."""
    available = _available(io)
    return available, shares(params, available)


def _loaded(path: Path) -> Tokenizer:
    """The trained model.

    Raises:
        StageError: it loses text, as one does whose sample had no blank: it writes SentencePiece's sign for it instead.
    """
    try:
        return Tokenizer(path)
    except ValueError as error:
        remedy = "train on text with blanks too (tokenizer.english_share above 0), or raise tokenizer.character_coverage"
        raise StageError(
            f"the trained model cannot be used: {str(error).replace(str(path), path.name)}", file=TRAIN, remedy=remedy
        ) from error


def _available(io: StageIO) -> dict[str, int]:
    """Bytes of training text by language."""
    available: Counter[str] = Counter()
    for batch in _batches(io, "train", ("doc_id", "lang", "text")):
        sizes = pc.binary_length(batch["text"]).to_pylist()
        for language, size in zip(batch["lang"].to_pylist(), sizes, strict=True):
            available[language] += size
    return available


def _documents(io: StageIO, split: str) -> Iterator[dict[str, Any]]:
    for batch in _batches(io, split, _COLUMNS):
        yield from batch.to_pylist()


def _batches(io: StageIO, split: str, columns: tuple[str, ...]) -> Iterator[Any]:
    """Record batches of the documents of a split, in order; their text is valid UTF-8, and never empty."""
    folder = f"data/decontaminate/{split}/documents"
    files = sorted(str(file) for file in io.input(f"data/decontaminate/{split}").glob("documents/*.parquet"))
    for part in _texts.parts(files, folder):
        for _, batch in _texts.read(part, columns):
            yield batch


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(canonical(data), encoding="utf-8")

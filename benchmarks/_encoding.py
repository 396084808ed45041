"""Tokenizer and encode beside SentencePiece itself and kitoken: speed, ids, the cost of a 150k vocabulary and what it gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sentencepiece

from benchmarks import _planted, _project
from benchmarks._bench import Bench
from benchmarks._measure import Row, Speed, Work, faster, interleaved
from benchmarks._planted import Planted
from stages._engine import EngineSettings
from stages._runner import StageIO

SECTION, TRAINING = "Encode: Parquet to token shards", "Tokenizer of 150,000 pieces from 50 MB"
_MODEL = "data/tokenizer/tokenizer.model"
_BLANK = "\u2581"
_ASKED_BYTES = 200_000_000
_TRAINING_BYTES = 70_000_000  # of each language: cleaning, deduplication and the held-out part leave more than 25 MB
_TRAINING = {"vocab_size": 150_000, "seed_pieces": 750_000, "sample_bytes": 50_000_000, "english_share": 0.5}


def rows(bench: Bench, train: bool = False) -> list[Row]:
    """Speed and ids of encode; `train` adds the training of a large vocabulary, which takes minutes."""
    table = _encode_rows(bench)
    return table + (_training_rows(bench) if train else [])


def _encode_rows(bench: Bench) -> list[Row]:
    """MB per CPU second from documents in Parquet to shards on disk, and how many ids differ from SentencePiece's."""
    table: list[Row] = []
    model = bench.project / _MODEL
    alone, kitoken = _sentencepiece(model), _kitoken(model)
    works, texts = {}, {}
    for lang in _planted.LANGUAGES:
        texts[lang], size = bench.documents(lang, bench.size)
        root = _encode_project(bench, lang, texts[lang])
        jobs: dict[str, Callable[[], Any]] = {
            "ours": lambda root=root: encode(root),
            "numpy": lambda lang=lang: _sentencepiece(model).encode(texts[lang], return_type="numpy", num_threads=1),
            "lists": lambda lang=lang: _sentencepiece(model).encode(texts[lang], num_threads=1),
        }
        if kitoken is not None:
            jobs["kitoken"] = lambda lang=lang: kitoken.encode_all(texts[lang])
        works |= {f"{lang} {name}": Work(job, size, len(texts[lang])) for name, job in jobs.items()}
    speeds = interleaved(works, bench.rounds)
    for lang in _planted.LANGUAGES:
        ours, note = speeds[f"{lang} ours"], f"{len(texts[lang]):,} documents; read, checked, encoded, written"
        table.append(faster(SECTION, lang, ours, "sentencepiece, arrays", speeds[f"{lang} numpy"], note=note))
        table.append(faster(SECTION, lang, ours, "sentencepiece, lists", speeds[f"{lang} lists"], note="its own default"))
        table.append(faster(SECTION, lang, ours, "kitoken", speeds.get(f"{lang} kitoken")))
    both = [_sum([speeds[f"{lang} {name}"] for lang in _planted.LANGUAGES]) for name in ("ours", "numpy")]
    table.append(faster(SECTION, "both languages", both[0], "sentencepiece, arrays", both[1], target=0.9))
    for lang in _planted.LANGUAGES:
        root = bench.work / f"encode-{lang}"
        table += _id_rows(lang, texts[lang], alone, kitoken, root)
    return [*table, _process_row(bench)]


def encode(root: Path) -> None:
    """The encode stage on the project at `root`, in this process, without sandbox and records."""
    from stages.encode import Params, run

    shutil.rmtree(root / "runs", ignore_errors=True)
    io = StageIO("encode", root, ["data/decontaminate", "data/tokenizer"], "data/encode", EngineSettings(kind="inline"))
    shutil.rmtree(io.output, ignore_errors=True)
    io.output.mkdir(parents=True)
    run(Params(1 << 26), io)
    io.collect()


def _encode_project(bench: Bench, name: str, texts: list[str], shards: int = 4) -> Path:
    """A project with these documents as its training split, and a few characters as the held-out one."""
    root = _project.make(bench.work / f"encode-{name}")
    _planted.write(Planted(name, texts, []), root / "data/decontaminate/train", shards)
    _planted.write(Planted(name, [texts[0][:99]], []), root / "data/decontaminate/heldout", 1)
    (root / _MODEL).parent.mkdir()
    shutil.copyfile(bench.project / _MODEL, root / _MODEL)
    return root


def _id_rows(lang: str, texts: list[str], alone: Any, kitoken: Any, root: Path) -> list[Row]:
    """Documents whose ids are not those of SentencePiece, of ours and of kitoken.

    SentencePiece takes U+2581 for a blank; a document that holds one is ours to encode without loss, and is counted apart.
    """
    expected = alone.encode(texts, return_type="numpy")
    plain = [_BLANK not in text for text in texts]
    stream = _tokens(root / "data/.encode.partial", "train")
    table = pq.read_table(root / "data/.encode.partial/train.documents.parquet", columns=["offset", "length"])
    places = zip(table["offset"].to_pylist(), table["length"].to_pylist(), strict=True)
    ours = [stream[offset : offset + length - 1] for offset, length in places]
    different = sum(
        not np.array_equal(*pair) for pair, same in zip(zip(ours, expected, strict=True), plain, strict=True) if same
    )
    note = f"of {len(texts):,}; {plain.count(False)} more hold U+2581, which SentencePiece turns into a blank"
    what = f"{lang}: documents with other ids than sentencepiece's"
    found = [Row(SECTION, what, "documents", different, sense="<=", target=0, note=note)]
    if kitoken is None:
        return [*found, Row(SECTION, f"{what}, kitoken", "documents", None, note="not installed")]
    theirs = kitoken.encode_all(texts)
    wrong = sum(not np.array_equal(*pair) for pair in zip(theirs, expected, strict=True))
    return [*found, Row(SECTION, f"{what}, kitoken", "documents", wrong, note=f"of {len(texts):,}")]


def _process_row(bench: Bench) -> Row:
    """CPU seconds of the whole process, scaled to the text that is asked for; what does not grow with it is not scaled."""
    small, large = ({lang: bench.documents(lang, size) for lang in _planted.LANGUAGES} for size in (100_000, bench.size))
    cost = {}
    for name, chosen in (("small", small), ("large", large)):
        texts = [text for documents, _ in chosen.values() for text in documents]
        root = _encode_project(bench, name, texts)
        _project.configure(root, {})
        cost[name] = _project.run_stage(root, "encode"), sum(size for _, size in chosen.values())
    (first, few), (run, many) = cost["small"], cost["large"]
    scaled = first.cpu + (run.cpu - first.cpu) * (_ASKED_BYTES - few) / (many - few)
    note = f"{run.cpu:.1f} CPU s on {many / 1e6:.0f} MB, {first.cpu:.1f} to start; {run.resident / 2**20:,.0f} MiB resident"
    return Row(SECTION, "the whole process, 200 MB", "CPU s", scaled, sense="<=", target=15.0, note=note)


def _training_rows(bench: Bench) -> list[Row]:
    """CPU and memory of the tokenizer stage at 150,000 pieces, and what it does to held-out text.

    The text goes through clean, dedup and decontaminate first: what a tokenizer is trained on is what these leave.
    """
    root = _project.make(bench.work / "training")
    for lang in _planted.LANGUAGES:
        _planted.write(Planted(lang, bench.documents(lang, _TRAINING_BYTES)[0], []), root / "data/corpus", 4)
    published = {"tokenizer": _TRAINING, "clean": {"rules_may_be_idle": ["all"]}, "dedup": {"may_match_nothing": True}}
    _project.configure(root, {**published, "decontaminate": {"may_match_nothing": ["heldout"]}})
    for stage in ("clean", "dedup", "decontaminate"):
        bench.say(f"preparing the training text: {stage}")
        _project.run_stage(root, stage)
    bench.say("training 150,000 pieces")
    run = _project.run_stage(root, "tokenizer")
    report = json.loads((root / "data/tokenizer/report.json").read_text(encoding="utf-8"))
    manifest = json.loads((root / "data/tokenizer/manifest.json").read_text(encoding="utf-8"))
    heldout, used = report["heldout"], manifest["counts"]["sample_bytes"]
    note = " and ".join(f"{size / 1e6:.1f} MB {lang}" for lang, size in sorted(used.items()))
    alone = f"the stage alone, when it measures: {run.resident / 1e6:,.0f}"
    table = [
        Row(TRAINING, "training, all processes", "CPU s", run.cpu, sense="<=", target=200.0, note=note),
        Row(TRAINING, "stage and trainer, resident together", "MB", run.family / 1e6, sense="<=", target=1000.0, note=alone),
    ]
    for lang, most in (("en", 0.255), ("zh", 0.65)):
        said = f"{heldout[lang]['bytes'] / 1e6:.2f} MB, {heldout[lang]['byte_fallback_share']:.2%} byte pieces"
        value = heldout[lang]["tokens_per_character"]
        table.append(Row(TRAINING, f"{lang}: held-out text", "tokens/char", value, sense="<=", target=most, note=said))
    each = [heldout[lang]["bytes_per_token"] for lang in ("en", "zh")]
    note = f"{each[0]:.2f} of English, {each[1]:.2f} of Chinese"
    return [
        *table,
        Row(TRAINING, "bytes per token, larger : smaller", "", max(each) / min(each), sense="<=", target=1.1, note=note),
    ]


def _tokens(folder: Path, split: str) -> np.ndarray:
    shards = [pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in sorted(folder.glob(f"{split}-*.arrow"))]
    return pa.concat_tables(shards)["token"].to_numpy()


def _sentencepiece(model: Path) -> Any:
    """SentencePiece with a model just loaded, as the stage loads it."""
    return sentencepiece.SentencePieceProcessor(model_file=str(model))


def _kitoken(model: Path) -> Any:
    """kitoken's encoder of the same model, None where it is not installed."""
    if find_spec("kitoken") is None:
        return None
    import kitoken

    return kitoken.Kitoken.from_sentencepiece_file(str(model))


def _sum(speeds: list[Speed]) -> Speed:
    return Speed(sum(s.cpu for s in speeds), sum(s.bytes for s in speeds), sum(s.documents for s in speeds))

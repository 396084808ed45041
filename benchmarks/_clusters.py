"""Parquet to clusters: speed, memory, recall and precision of near-duplicate removal, at threshold 0.8 on 5-grams."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import _ours, _peers, _planted, _project
from benchmarks._bench import SHARDS, Bench
from benchmarks._measure import Row, Speed, Work, interleaved, wall_seconds
from benchmarks._planted import Planted
from benchmarks._quality import Judge, Quality

SPEED = "Parquet to clusters (128 permutations, threshold 0.8; documents for each CPU second)"
QUALITY = "Recall and precision on the planted corpus (threshold 0.8)"
SCALE = "Clusters: memory and workers"
THRESHOLD = 0.8
_CHECKS = {"signature": "signatures checked at 0.75", "exact": "exact check at 0.8"}
_DATATROVE_BYTES, _TRAPS, _SPILL = 1_000_000, 400, 2**26
_TARGETS = {("signature", "en"): 30.0, ("signature", "zh"): 45.0, ("exact", "en"): 12.0, ("exact", "zh"): 15.0}
_RENSA = 5.0
_SIMILAR = {"en": 0.985, "zh": 0.99}
_PRECISE, _BYTES_EACH, _TWO_WORKERS = 0.999, 700.0, 1.8


def rows(bench: Bench) -> list[Row]:
    """Ours with each check beside the peers' jobs, on the same shards."""
    table = []
    for lang in _planted.LANGUAGES:
        table += _language(bench, lang)
    return [*table, *_scale(bench)]


def _language(bench: Bench, lang: str) -> list[Row]:
    files, corpus = bench.files[lang], bench.planted[lang]
    found: dict[str, Any] = {}

    def keep(name: str, job: Callable[[], Any]) -> Work:
        return Work(lambda: found.update({name: job()}), corpus.bytes, len(corpus.texts))

    works = {
        f"ours, {check} check": keep(f"ours, {check} check", partial(_ours.clusters, bench.work / "dedup", files, check))
        for check in ("signature", "exact")
    }
    if _peers.installed("datasketch"):
        works["datasketch"] = keep("datasketch", partial(_peers.datasketch_job, files, lang, THRESHOLD))
    if _peers.installed("rensa"):
        works["rensa 16 x 8"] = keep("rensa 16 x 8", partial(_peers.rensa_job, files, lang, THRESHOLD))
    works["ours, exact check"].run()  # compiles, warms the page cache
    speeds = interleaved(works, max(1, bench.rounds - 1))
    compared = [(check, peer) for check in ("signature", "exact") for peer in ("datasketch", "rensa 16 x 8")]
    table = [_speed_row(lang, check, peer, speeds, "not installed") for check, peer in compared]
    datatrove = _datatrove(bench, lang)
    if isinstance(datatrove, Speed):
        speeds["datatrove 14 x 8"] = datatrove
    table.append(_speed_row(lang, "exact", "datatrove 14 x 8", speeds, str(datatrove)))
    judge = Judge(corpus, THRESHOLD)
    for name, result in found.items():
        table += _quality_rows(lang, name, judge.measure(_numbers(result) if name.startswith("ours") else result))
    return table


def _numbers(pairs: list[tuple[str, str]]) -> list[tuple[int, int]]:
    return [(_planted.row_number(a), _planted.row_number(b)) for a, b in pairs]


def _speed_row(lang: str, check: str, peer: str, speeds: dict[str, Speed], missing: str) -> Row:
    ours = speeds[f"ours, {check} check"]
    what, theirs = f"{lang}, ours 32 x 4, {_CHECKS[check]}", speeds.get(peer)
    target = {"datasketch": _TARGETS[check, lang], "rensa 16 x 8": _RENSA if check == "signature" else None}.get(peer)
    if theirs is None:
        return Row(SPEED, what, "docs/s", ours.rate, peer, of="ratio", note=missing)
    ratio = ours.megabytes / theirs.megabytes
    note = "" if theirs.bytes == ours.bytes else f"{peer} on {theirs.bytes / 1e6:.1f} MB; ratio by MB"
    return Row(SPEED, what, "docs/s", ours.rate, peer, theirs.rate, ratio, "ratio", ">=", target, note)


def _datatrove(bench: Bench, lang: str) -> Speed | str:
    """Its speed on a part of the corpus, or what keeps it from running; the first run loads its word tokeniser."""
    if not _peers.datatrove_words(lang):
        return "not installed"
    texts, size = bench.sample(lang, _DATATROVE_BYTES)
    works = {}
    for name, part in (("warm", [*texts[:10], *texts[:10]]), ("timed", texts)):
        folder = bench.work / f"datatrove-{name}-{lang}"
        _planted.write(Planted(lang, part, []), folder, 1)
        job = partial(_peers.datatrove_job, sorted((folder / "documents").glob("*.parquet")), lang, folder)
        works[name] = Work(job, size, len(texts))
    return _peers.complaint(works["warm"].run) or interleaved({"it": works["timed"]}, 1)["it"]


def _quality_rows(lang: str, name: str, quality: Quality) -> list[Row]:
    ours = name.startswith("ours")
    exact = name == "ours, exact check"
    note = f"{name}; {quality.pairs:,} pairs, largest cluster {quality.largest}"
    shares = {
        "exact copies found": (quality.exact, 1.0 if ours else None),
        "pairs of J >= 0.8 found": (quality.similar, _SIMILAR[lang] if ours else None),
        "precision: joined pairs of J >= 0.8": (quality.precision, _PRECISE if exact else None),
        "copies of J < 0.8 joined (not asked for)": (quality.dissimilar, None),
    }
    return [Row(QUALITY, f"{lang}: {what}", "share", share, target=asked, note=note) for what, (share, asked) in shares.items()]


def _scale(bench: Bench) -> list[Row]:
    files = [file for lang in _planted.LANGUAGES for file in bench.files[lang]]
    return [*_wrong_joins(bench, files), *_memory(bench), _workers(files, bench)]


def _wrong_joins(bench: Bench, files: list[Path]) -> list[Row]:
    """One run over both languages, with English texts that claim to be Chinese and with texts that hold no unit at all."""
    folder = bench.work / "traps"
    relabelled = Planted("zh", bench.planted["en"].texts[:_TRAPS], [])
    unitless = Planted("en", [mark * length for mark in "?!…。" for length in range(1, _TRAPS // 4)], [])
    _planted.write(relabelled, folder, 1, "relabelled")
    _planted.write(unitless, folder, 1, "unitless")
    traps = sorted((folder / "documents").glob("*.parquet"))
    found = _ours.clusters(bench.work / "mixed", [*files, *traps], "exact")
    crossing = sum(_source(a)[-2:] != _source(b)[-2:] for a, b in found)
    empty = sum("unitless-en" in (_source(a), _source(b)) for a, b in found)
    note = f"{len(relabelled.texts)} English texts stand there again as Chinese"
    return [
        Row(QUALITY, "joins across languages", "pairs", crossing, sense="<=", target=0, note=note),
        Row(
            QUALITY, "joins of documents without a unit", "pairs", empty, sense="<=", target=0, note=f"of {len(unitless.texts)}"
        ),
    ]


def _source(doc_id: str) -> str:
    return doc_id.partition("/")[0]


def _memory(bench: Bench) -> list[Row]:
    """How memory grows with the number of documents, from half of the shards to all, at a `max_memory` that makes it spill."""
    counts = [sum(len(corpus.texts) for corpus in bench.planted.values()) // 2]
    counts.append(2 * counts[0])
    table = []
    for check, what, target in (("signature", "signatures and bands", _BYTES_EACH), ("exact", "exact check too", None)):
        used = []
        for shards in (SHARDS // 2, SHARDS):
            files = [str(file) for files in bench.files.values() for file in files[:shards]]
            code = f"from pathlib import Path; from benchmarks import _ours; _ours.clusters({_call(bench, files, check)})"
            used.append(_project.run(["-c", code], _project.ROOT, bench.work / "memory.log", {}))
        each = (used[1].anonymous - used[0].anonymous) / (counts[1] - counts[0])
        note = f"{counts[0]:,} to {counts[1]:,} documents, max_memory {_SPILL >> 20} MiB; peak {used[1].resident >> 20} MiB"
        table.append(Row(SCALE, f"{what}: bytes for each document", "bytes", each, sense="<=", target=target, note=note))
    return table


def _call(bench: Bench, files: list[str], check: str) -> str:
    return f"Path({str(bench.work / 'memory')!r}), [*map(Path, {files!r})], {check!r}, memory={_SPILL}"


def _workers(files: list[Path], bench: Bench) -> Row:
    walls = {}
    for workers in (1, 2):
        job = partial(_ours.clusters, bench.work / "workers", files, "exact", workers)
        job()  # starts the workers
        walls[workers] = min(wall_seconds(job) for _ in range(bench.rounds))
    ratio = walls[1] / walls[2]
    return Row(SCALE, "2 workers to 1, on the clock", "x", ratio, target=_TWO_WORKERS, note="needs two idle cores")

"""The whole chain from raw Parquet to packed Arrow: the real stages, each as its own process, in a project of its own."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks import _planted, _project
from benchmarks._bench import Bench
from benchmarks._measure import Row
from benchmarks._planted import Planted
from benchmarks._project import Run
from stages.instruct.build import SAMPLES

SECTION = "Whole chain: raw Parquet to packed Arrow"
STAGES = ("corpus", "clean", "dedup", "decontaminate", "encode", "pack")
PARALLEL = ("corpus", "clean", "dedup", "decontaminate")
WORKERS = (1, 2, 4)
_ASKED_BYTES, _ASKED_SECONDS, _ASKED_RESIDENT = 200e6, 30.0, 2 * 2**30
_ASKED_FASTER, _JUDGED_BYTES = 1.8, 100e6
_RAW_SHARDS, _SHARDS, _WARM_BYTES = 4, 16, 1_000_000


def rows(bench: Bench) -> list[Row]:
    """CPU seconds and memory of every stage, how much sooner several workers are done, and whether they change a byte."""
    root = make(bench, _raw(bench, _WARM_BYTES)[0])
    for _ in range(2):  # the first compiles the kernels, once and for all of this project
        started = sum(_project.run_stage(root, stage).cpu for stage in STAGES)
    raw, size = _raw(bench, bench.chain)
    configure(root, raw, bench.chain)
    runs, hashes = {}, {}
    for workers in WORKERS:
        rounds = 1 if workers > 2 else bench.rounds
        tried = {stage: _runs(root, stage, workers, rounds) for stage in (STAGES if workers == 1 else PARALLEL)}
        runs[workers] = {stage: _best(found) for stage, found in tried.items()}
        hashes[workers] = {stage: _manifest(root, stage) for stage in PARALLEL}
        bench.say(f"chain with {workers} workers: {sum(run.cpu for run in runs[workers].values()):.1f} CPU s")
    table = [_stage_row(stage, run, size) for stage, run in runs[1].items()]
    total = sum(run.cpu for run in runs[1].values())
    note = f"measured {total:.1f} CPU s on {size / 1e6:.0f} MB, {started:.1f} on 1 MB (process starts, imports)"
    scaled = started + (total - started) * _ASKED_BYTES / size
    table.append(Row(SECTION, "all stages, scaled to 200 MB", "CPU s", scaled, sense="<=", target=_ASKED_SECONDS, note=note))
    table.append(_memory_row(runs[1], size))
    for workers in WORKERS[1:]:
        same = sum(hashes[workers][stage] == hashes[1][stage] for stage in PARALLEL)
        what = f"stages with equal bytes, {workers} workers to 1"
        table.append(Row(SECTION, what, f"of {len(PARALLEL)}", same, target=len(PARALLEL)))
        table.append(_workers_row(workers, runs, size))
    return table


def _runs(root: Path, stage: str, workers: int, rounds: int) -> list[Run]:
    return [_project.run_stage(root, stage, workers) for _ in range(rounds)]


def _best(runs: list[Run]) -> Run:
    """The cheapest of some runs of one stage, each from its start, with the shortest time that one of them took."""
    return replace(min(runs, key=lambda run: run.cpu), wall=min(run.wall for run in runs))


def _workers_row(workers: int, runs: dict[int, dict[str, Run]], size: int) -> Row:
    """How much sooner several workers are done with the stages before encode; judged for two, of a text that takes a while."""
    one, several = ([runs[number][stage].wall for stage in PARALLEL] for number in (1, workers))
    each = ", ".join(f"{stage} {a / b:.2f}" for stage, a, b in zip(PARALLEL, one, several, strict=True))
    judged = workers == 2 and size >= _JUDGED_BYTES
    note = f"on {size / 1e6:.0f} MB, by the clock, process starts counted: {each}"
    faster = sum(one) / sum(several)
    return Row(SECTION, f"{workers} workers to 1", "x", faster, target=_ASKED_FASTER if judged else None, note=note)


def _stage_row(stage: str, run: Run, size: int) -> Row:
    note = f"{run.wall:.1f} s on the clock, {run.resident / 2**20:,.0f} MiB resident"
    return Row(SECTION, stage, "CPU s", run.cpu, note=f"{note}, {size / 1e6 / run.cpu:.1f} MB/s")


def _memory_row(runs: dict[str, Run], size: int) -> Row:
    stage, largest = max(runs.items(), key=lambda item: item[1].resident)
    what = f"resident memory, largest stage ({stage})"
    note = f"corpus of {size / 2**20:,.0f} MiB; asked for one of 2 GiB"
    return Row(SECTION, what, "MiB", largest.resident / 2**20, sense="<=", target=_ASKED_RESIDENT / 2**20, note=note)


def _write_raw(corpus: Planted, folder: Path) -> None:
    """The corpus as a data set that others publish: columns `id`, `text`, `url` in Parquet shards."""
    folder.mkdir(parents=True, exist_ok=True)
    step = -(-len(corpus.texts) // _RAW_SHARDS)
    for shard, start in enumerate(range(0, len(corpus.texts), step)):
        texts = corpus.texts[start : start + step]
        ids = [f"{corpus.lang}-{number}" for number in range(start, start + len(texts))]
        urls = [f"https://example.org/{name}" for name in ids]
        table = pa.table({"id": ids, "text": pa.array(texts, pa.large_string()), "url": urls})
        pq.write_table(table, folder / f"{corpus.lang}-{shard:05d}.parquet", compression="zstd", row_group_size=2048)


def _raw(bench: Bench, size: int) -> tuple[Path, int]:
    """A folder of raw Parquet in both languages, and the bytes of its text."""
    folder, total = bench.work / f"raw-{size}", 0
    for lang in _planted.LANGUAGES:
        corpus = _planted.plant(lang, _planted.read_texts(bench.text, lang), size // 2)
        _write_raw(corpus, folder)
        total += corpus.bytes
    return folder, total


def make(bench: Bench, raw: Path) -> Path:
    """A project of its own with the built project's tokenizer, whose corpus is `raw`."""
    root = _project.make(bench.work / "chain")
    configure(root, raw, _WARM_BYTES)
    shutil.copytree(bench.project / "data/tokenizer", root / "data/tokenizer")
    (root / "data/instruct").mkdir()
    pq.write_table(SAMPLES.empty_table(), root / "data/instruct/samples.parquet")
    return root


def configure(root: Path, raw: Path, size: int) -> None:
    """Laptop parameters, but the raw text, shards for every worker, and the published shape of a sequence, text alone."""
    published = yaml.safe_load((_project.ROOT / "profiles/130b.yaml").read_text(encoding="utf-8"))["pack"]
    _project.configure(
        root,
        {
            "corpus": {"origins": [_origin(raw)], "shard_bytes": max(2**20, size // _SHARDS)},
            "clean": {"rules_may_be_idle": ["all"]},
            "dedup": {"may_match_nothing": True},
            "decontaminate": {"may_match_nothing": ["heldout"]},
            "pack": published | {"instruction_share": 0.0},
        },
    )


def _origin(raw: Path) -> dict[str, Any]:
    described = {"reader": "parquet", "licence": "LicenseRef-PublicDomain", "rights": "a benchmark's own, never published"}
    sources = [
        {"id": f"raw-{lang}", "members": [f"{lang}-*.parquet"], "lang": lang, "columns": {"id": "id"}, **described}
        for lang in _planted.LANGUAGES
    ]
    return {"kind": "local", "path": str(raw), "sources": sources}


def _manifest(root: Path, stage: str) -> str:
    """Digest of a stage's manifest, which holds that of every file of its output."""
    return hashlib.sha256((root / "data" / stage / "manifest.json").read_bytes()).hexdigest()

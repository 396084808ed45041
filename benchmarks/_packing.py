"""Packing beside a per-sample Python collator, writing, the published loss figures, and memory by the size of the text."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks import _project
from benchmarks._bench import Bench
from benchmarks._measure import Row, Work, interleaved
from model import masking
from model.masking import Draws, MaskingConfig
from model.packed import GMASK_KIND, MASK_KIND
from model.tokenizer import SPECIAL
from stages import _storage
from stages.pack import kernel
from stages.pack.kernel import LOST, SAMPLES, TARGETS, Batch, Rules, Runs, Scratch
from stages.pack.shard import batch_rows, record_batch, schema

SECTION, FIGURES, MEMORY = "Pack: tokens to samples", "Pack: the published figures", "Pack: memory by the size of the text"
CONFIGS = {
    "L = 2,048": MaskingConfig(2048, 4, 2046, 1840, 0.7, 0.2, 0.15, 3.0, 39, 0.02, 32, 0.02),
    "L = 256": MaskingConfig(256, 4, 254, 224, 0.7, 0.2, 0.15, 3.0, 39, 0.02, 16, 0.02),
}
PUBLISHED = MaskingConfig(2048, 4, 2000, 2000, 0.7, 0.2, 0.15, 3.0, 39, 0.02, 32, 0.02, "published")
_SEED, _POSITIONS, _SLOW_POSITIONS, _FIGURE_ROWS, _BATCHES = 1130, 1 << 24, 1 << 19, 200_000, 4
_COLLATED = 4_000  # rows that the published collator was run on


class Job:
    """A number of samples to pack from made-up tokens, with room for all that comes of it."""

    def __init__(self, config: MaskingConfig, samples: int) -> None:
        self.config, self.samples, self.rules = config, samples, Rules.of(config)
        rows = min(samples, batch_rows(config))
        self.batch, self.runs, self.scratch = Batch.empty(rows, config), Runs.empty(rows, config), Scratch.of(config)
        self.tally = np.zeros((3, 4), np.int64)
        kinds = np.empty(samples, np.int8)
        length = int(kernel.draw_kinds(_SEED, 0, 0, self.rules, kinds))
        self.tokens = (np.arange(length, dtype=np.int32) * 7919) % 12_000 + 8
        self.bounds = np.append(np.arange(0, length, 400), length)  # documents of 400 tokens
        self.sizes = np.where(kinds == GMASK_KIND, config.gmask_row, config.mask_row)
        most = len(self.runs.start) + len(self.bounds)
        self.pieces = tuple(np.empty(most, kind) for kind in (np.int64, np.int64, np.int32, np.int32))

    def compiled(self) -> None:
        """As the stage does it: kinds, samples, documents behind them."""
        self.tally[:] = 0
        at = 0
        for first in range(0, self.samples, len(self.batch.kind)):
            part = self.batch.part(0, min(len(self.batch.kind), self.samples - first))
            length = int(kernel.draw_kinds(_SEED, 0, first, self.rules, part.kind))
            tokens = self.tokens[at : at + length]
            found = kernel.pack_text(_SEED, 0, first, tokens, part, self.rules, self.scratch, self.runs, self.tally)
            document = at // 400
            kernel.trace(self.runs, found, document, len(self.bounds), self.bounds[document:] - at, first, self.pieces)
            at += length

    def by_sample(self) -> None:
        """The readable collator: one sample after another, by the definition."""
        at = 0
        for number, size in enumerate(self.sizes.tolist()):
            draws = Draws(_SEED, 0, number)
            kind = masking.sample_kind(draws, self.config)
            make = masking.gmask_sample if kind == GMASK_KIND else masking.mask_sample
            make(self.tokens[at : at + size], draws, self.config, SPECIAL)
            at += size


def rows(bench: Bench) -> list[Row]:
    """Speed of packing and writing, and the figures of the published truncation."""
    table: list[Row] = []
    for name, config in CONFIGS.items():
        fast, slow = Job(config, _POSITIONS // config.sequence_length), Job(config, _SLOW_POSITIONS // config.sequence_length)
        fast.compiled()  # compiles
        writer = Job(config, batch_rows(config))
        writer.compiled()
        file = bench.work / "written.arrow"
        works = {
            "ours": Work(fast.compiled, 0, _POSITIONS),
            "collator": Work(slow.by_sample, 0, _SLOW_POSITIONS),
            "write": Work(lambda writer=writer, file=file: write(writer, file, _BATCHES), 0, _BATCHES * writer.samples),
        }
        speeds = interleaved(works, bench.rounds)
        ours, theirs, written = (speeds[key].rate for key in works)
        per_sample = file.stat().st_size / (_BATCHES * writer.samples)
        note = f"{ours / config.sequence_length:,.0f} samples/s"
        table += [
            Row(SECTION, f"{name}: samples and their documents", "M positions/s", ours / 1e6, target=10.0, note=note),
            Row(
                SECTION, f"{name}: the same beside", "M positions/s", ours / 1e6, "per-sample Python collator", theirs / 1e6,
                ours / theirs, "ratio", target=20.0, note="equal to it sample by sample (tests)",
            ),
            Row(
                SECTION, f"{name}: Arrow written", "samples/s", written, target=80_000.0,
                note=f"{written * per_sample / 1e6:,.0f} MB/s, {per_sample:,.0f} bytes a sample, flushed to the disk",
            ),
        ]  # fmt: skip
    return table + figures()


def write(job: Job, file: Path, batches: int) -> None:
    """Write a packed batch again and again, as the stage writes a shard."""
    columns = schema(job.config)
    with _storage.atomic_output(file) as stream, pa.ipc.new_file(stream, columns) as writer:
        for _ in range(batches):
            writer.write_batch(record_batch(job.batch, columns))


def figures() -> list[Row]:
    """Loss tokens with the published truncation, and with ours, beside what the published collator gave on 4,000 rows."""
    cut, kept = (tally(config, _FIGURE_ROWS) for config in (PUBLISHED, CONFIGS["L = 2,048"]))
    mask, gmask = (cut[kind, TARGETS] / cut[kind, SAMPLES] for kind in (MASK_KIND, GMASK_KIND))
    share, lost = cut[MASK_KIND, SAMPLES] / _FIGURE_ROWS, cut[MASK_KIND, LOST] / cut[MASK_KIND, [TARGETS, LOST]].sum()
    drawn, longer = published_gmask(_COLLATED), published_gmask(_FIGURE_ROWS)
    note = f"U[400, 2000] has mean 1,200, ours {gmask:,.1f}; 1,206 came from 2,800 sequences, standard error 8.7"
    again = f"{drawn:,.1f}; over {_FIGURE_ROWS:,} rows the same draws give {longer:,.1f}"
    collator, per_mask = "published collator, 4,000 rows", kept[MASK_KIND, TARGETS] / kept[MASK_KIND, SAMPLES]
    return [
        Row(FIGURES, "loss tokens of a MASK sequence", "", mask, collator, 250.7, mask / 250.7),
        Row(FIGURES, "difference from 250.7", "tokens", abs(mask - 250.7), sense="<=", target=2.0),
        Row(FIGURES, "loss tokens of a gMASK sequence", "", gmask, collator, 1206, gmask / 1206),
        Row(FIGURES, "difference from 1,206", "its std. errors", abs(gmask - 1206) / 8.7, sense="<=", target=1.0, note=note),
        Row(
            FIGURES, "difference, by the published draws of rows 0-3,999", "tokens", abs(drawn - 1206), sense="<=", target=6.0,
            note=again,
        ),
        Row(FIGURES, "share of MASK sequences", "", share, collator, 0.3, share / 0.3),
        Row(FIGURES, "share of MASK targets cut off", "", lost, "simulated", 0.358, lost / 0.358),
        Row(
            FIGURES, "loss tokens of a MASK sequence, keep_all", "", per_mask,
            note=f"{kept[MASK_KIND, LOST]} cut off; rows of 1,840 tokens, not 2,000",
        ),
    ]  # fmt: skip


def published_gmask(rows: int) -> float:
    """Mean length of [gMASK] targets in rows 0 to `rows` - 1 of 2,000 tokens, as the published collator draws them.

    Its generator is Python's, seeded with a number that another one, seeded with the row's number, draws: row for row the same
    in every run, so that a mean over the first few thousand rows has an error of its own, always the same.
    """
    lengths = []
    for row in range(rows):
        generator = random.Random(random.Random(row).randint(0, 2**32 - 1))
        if generator.random() >= 1 - PUBLISHED.gmask_probability:
            lengths.append(generator.randint(400, 2000))
    return sum(lengths) / len(lengths)


def tally(config: MaskingConfig, rows: int) -> Any:
    """[kind, (samples, targets, lost, beyond)] of so many rows; each batch has the same tokens, as they decide nothing."""
    job, total = Job(config, batch_rows(config)), np.zeros((3, 4), np.int64)
    tokens = np.full(len(job.batch.kind) * max(config.gmask_row, config.mask_row), 8, np.int32)
    for first in range(0, rows, len(job.batch.kind)):
        part = job.batch.part(0, min(len(job.batch.kind), rows - first))
        kernel.pack_text(_SEED, 0, first, tokens, part, job.rules, job.scratch, job.runs, total)
    return total


def memory_rows(bench: Bench) -> list[Row]:
    """Largest memory of the stage on some text and on ten times as much: the project's tokens, repeated."""
    root = _project.make(bench.work / "memory")
    _project.configure(root, {})
    table, anonymous, bytes_each = [], [], _bytes_per_token(bench.project)
    _repeat(bench.project, root, 1)
    _project.run_stage(root, "pack")  # compiles
    for size in (bench.chain, 10 * bench.chain):
        tokens = _repeat(bench.project, root, int(size / bytes_each))
        run = _project.run_stage(root, "pack")
        counts = yaml.safe_load((root / "data/pack/manifest.json").read_text(encoding="utf-8"))["counts"]
        samples = sum(counts[f"{kind}_samples"] for kind in ("gmask", "mask", "instruction"))
        anonymous.append(run.anonymous)
        note = f"{tokens / 1e6:,.0f} M tokens, {samples:,} samples, {run.cpu:.1f} CPU s"
        resident = f"{run.resident / 2**20:,.0f} MiB with mapped files"
        row = Row(MEMORY, f"{size / 1e6:,.0f} MB of text", "MiB", run.anonymous / 2**20, note=f"{note}; {resident}")
        table.append(row)
    ratio = anonymous[1] / anonymous[0]
    return [*table, Row(MEMORY, "ten times the text : the text", "", ratio, sense="<=", target=1.15, note="anonymous memory")]


def _bytes_per_token(project: Path) -> float:
    table = pq.read_table(project / "data/encode/train.documents.parquet", columns=["bytes", "length"])
    return float(table["bytes"].to_numpy().sum() / table["length"].to_numpy().sum())


def _repeat(project: Path, root: Path, least: int) -> int:
    """Lay the project's training tokens out below `root`, again and again, until there are `least`; gives their number."""
    encode = root / "data/encode"
    shutil.rmtree(encode, ignore_errors=True)
    encode.mkdir(parents=True)
    shutil.copytree(project / "data/instruct", root / "data/instruct", dirs_exist_ok=True)
    (encode / "manifest.json").write_text("{}", encoding="utf-8")
    files = sorted((project / "data/encode").glob("train-*.arrow"))
    tokens = np.concatenate([pa.ipc.open_file(file).read_all()["token"].to_numpy() for file in files])
    table = pq.read_table(project / "data/encode/train.documents.parquet", columns=["length"])
    lengths: Any = table["length"].to_numpy()
    times = -(-least // len(tokens))
    for time in range(times):
        with pa.ipc.new_file(str(encode / f"train-{time:05d}.arrow"), pa.schema([("token", pa.int32())])) as writer:
            writer.write_table(pa.table({"token": tokens}), max_chunksize=1 << 20)
    every = np.tile(lengths.astype(np.int64), times)
    columns = {"shard": np.repeat(np.arange(times, dtype=np.int32), len(lengths)), "length": every.astype(np.int32)}
    pq.write_table(pa.table(columns | {"offset": np.cumsum(every) - every}), encode / "train.documents.parquet")
    return len(tokens) * times

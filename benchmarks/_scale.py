"""Resident memory of every stage from raw Parquet to packed Arrow, over a corpus as large as is asked for.

Where the real text ends before that, it is taken again with the words (English) or characters (Chinese) of each line in another
order: no duplicate of what was there before, yet with its lengths, words and scripts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import _chain, _planted, _project
from benchmarks._bench import Bench
from benchmarks._measure import Row

SECTION = "Memory over a large corpus, raw Parquet to packed Arrow"
_RESIDENT = 2 * 2**30
_SHARD_BYTES = 2**27


def rows(bench: Bench) -> list[Row]:
    """Largest memory of each stage's process, and its CPU seconds."""
    raw, size = bench.work / "scale-raw", 0
    for lang in _planted.LANGUAGES:
        size += _write(_texts(bench.text, lang, bench.scale // 2), lang, raw)
    bench.say(f"scale: {size / 2**30:.2f} GiB of raw text")
    root = _chain.make(bench, raw)
    _chain.configure(root, raw, size)
    table = []
    for stage in _chain.STAGES:
        run = _project.run_stage(root, stage)
        note = f"{run.anonymous / 2**20:,.0f} MiB of it the process's own, {run.cpu:.0f} CPU s, {size / 1e6 / run.cpu:.1f} MB/s"
        resident = run.resident / 2**20
        bench.say(f"scale: {stage}: {resident:,.0f} MiB, {note}")
        table.append(Row(SECTION, stage, "MiB", resident, sense="<=", target=_RESIDENT / 2**20, note=note))
    return table


def _texts(folder: Path, lang: str, size: int) -> Iterator[str]:
    """Texts of about `size` bytes of UTF-8 together."""
    total = 0
    for turn in count():
        rng = random.Random(turn)
        for text in _planted.read_texts(folder, lang):
            if total >= size:
                return
            given = "\n".join(_shuffled(line, lang, rng) for line in text.split("\n")) if turn else text
            total += len(given.encode())
            yield given


def _shuffled(line: str, lang: str, rng: random.Random) -> str:
    between = " " if lang == "en" else ""
    units = line.split(" ") if lang == "en" else list(line)
    rng.shuffle(units)
    return between.join(units)


def _write(texts: Iterator[str], lang: str, folder: Path) -> int:
    """Raw Parquet shards with columns `id`, `text`, `url`; returns the bytes of text."""
    folder.mkdir(parents=True, exist_ok=True)
    total, shard, number = 0, 0, 0
    batch: list[str] = []
    held = 0

    def flush() -> None:
        ids = [f"{lang}-{number + row}" for row in range(len(batch))]
        urls = [f"https://example.org/{name}" for name in ids]
        table = pa.table({"id": ids, "text": pa.array(batch, pa.large_string()), "url": urls})
        pq.write_table(table, folder / f"{lang}-{shard:05d}.parquet", compression="zstd", row_group_size=2048)

    for text in texts:
        batch.append(text)
        held += len(text.encode())
        if held >= _SHARD_BYTES:
            flush()
            total, shard, number, batch, held = total + held, shard + 1, number + len(batch), [], 0
    if batch:
        flush()
    return total + held

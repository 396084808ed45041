"""Random samples from the memory map, beside Megatron-LM's .bin/.idx files and Parquet of the same samples."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks._bench import Bench
from benchmarks._measure import Row, Work, interleaved
from benchmarks._packing import CONFIGS, Job, write
from stages.pack.shard import batch_rows
from stages.pretrain.data import PackedSamples

SECTION = "Load: random samples, warm"
_BATCHES, _READS, _ROW_GROUP, _PARQUET_READS = 16, 32_768, 1000, 64
_BATCH, _MICRO_BATCH = 256, 8
_MAGIC, _INT32 = b"MMIDIDX\x00\x00", 4


class Indexed:
    """Megatron-LM's pair of files: all sequences end to end in .bin; lengths and places of each in .idx, both memory-mapped.

    Format as documented by its `IndexedDataset`: magic, version (u64), code of the type (u8), sequences (u64), documents (u64),
    lengths (int32), places in bytes (int64), first sequence of each document (int64).
    """

    def __init__(self, stem: Path) -> None:
        index = np.memmap(stem.with_suffix(".idx"), mode="r")
        count = struct.unpack_from("<Q", index, 18)[0]
        self._lengths = np.frombuffer(index, np.int32, count, 34)
        self._places = np.frombuffer(index, np.int64, count, 34 + 4 * count)
        self._tokens = memoryview(np.memmap(stem.with_suffix(".bin"), mode="r"))

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return np.frombuffer(self._tokens, np.int32, self._lengths[row], self._places[row])

    @staticmethod
    def write(stem: Path, sequences: list[NDArray[np.int32]]) -> None:
        """Write matrices of sequences, one behind the other."""
        with stem.with_suffix(".bin").open("wb") as stream:
            for matrix in sequences:
                stream.write(matrix.tobytes())
        lengths = np.concatenate([np.full(len(matrix), matrix.shape[1], np.int32) for matrix in sequences])
        places = np.cumsum(4 * lengths.astype(np.int64)) - 4 * lengths
        header = _MAGIC + struct.pack("<QBQQ", 1, _INT32, len(lengths), len(lengths) + 1)
        parts = (lengths, places, np.arange(len(lengths) + 1, dtype=np.int64))
        stem.with_suffix(".idx").write_bytes(header + b"".join(part.tobytes() for part in parts))


def rows(bench: Bench) -> list[Row]:
    """Samples per CPU second, as arrays of a batch, at both sequence lengths."""
    return [row for name, config in CONFIGS.items() for row in _rows(bench, name, Job(config, batch_rows(config)))]


def _rows(bench: Bench, name: str, job: Job) -> list[Row]:
    folder = bench.work / f"load-{job.config.sequence_length}"
    folder.mkdir()
    job.compiled()
    write(job, folder / "samples-00000.arrow", _BATCHES)
    Indexed.write(folder / "samples", [job.batch.input_ids] * _BATCHES)
    _write_parquet(job, folder / "samples.parquet")
    samples, indexed, parquet = PackedSamples(folder), Indexed(folder / "samples"), pq.ParquetFile(folder / "samples.parquet")
    chosen = np.random.default_rng(1).integers(0, len(samples), _READS)
    out = np.empty((_BATCH, job.config.sequence_length), np.int32)
    if not np.array_equal(samples.column("input_ids", chosen[:99]), np.stack([indexed[row] for row in chosen[:99].tolist()])):
        raise RuntimeError("the two files differ")

    def ours() -> None:
        for start in range(0, _READS, _BATCH):
            samples.column("input_ids", chosen[start : start + _BATCH], out)

    def megatron() -> None:
        for start in range(0, _READS, _BATCH):
            for place, row in enumerate(chosen[start : start + _BATCH]):
                out[place] = indexed[row]

    def from_parquet() -> None:
        for row in chosen[:_PARQUET_READS].tolist():
            group, inside = divmod(row % job.samples, _ROW_GROUP)
            parquet.read_row_group(group, columns=["input_ids"])["input_ids"][inside].values.to_numpy()

    def batches() -> None:
        for start in range(0, _READS // 8, _MICRO_BATCH):
            samples.batch(chosen[start : start + _MICRO_BATCH])

    works = {
        "ours": Work(ours, 0, _READS),
        "megatron": Work(megatron, 0, _READS),
        "parquet": Work(from_parquet, 0, _PARQUET_READS),
        "batches": Work(batches, 0, _READS // 8),
    }
    speeds = {key: speed.rate for key, speed in interleaved(works, bench.rounds).items()}
    mine, length = speeds["ours"], job.config.sequence_length
    note = f"{mine * 4 * length / 1e9:.1f} GB/s out of {len(samples):,} samples, {_BATCH} at a time"
    rate = speeds["batches"] * length / 1e6
    made = f"{rate:,.0f} M positions/s: ids, targets and positions as int64, {_MICRO_BATCH} at a time"
    return [
        Row(SECTION, f"{name}: input ids", "samples/s", mine, target=250_000.0, note=note),
        _beside(name, mine, "Megatron-style .bin/.idx", speeds["megatron"], 0.9),
        _beside(name, mine, "Parquet, row groups of 1,000", speeds["parquet"]),
        Row(SECTION, f"{name}: batches as training gets them", "samples/s", speeds["batches"], note=made),
    ]


def _beside(name: str, ours: float, peer: str, theirs: float, target: float | None = None) -> Row:
    return Row(SECTION, f"{name}: input ids", "samples/s", ours, peer, theirs, ours / theirs, "ratio", ">=", target)


def _write_parquet(job: Job, file: Path) -> None:
    ids = job.batch.input_ids
    lists: Any = pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel()), ids.shape[1])
    pq.write_table(pa.table({"input_ids": lists}), file, row_group_size=_ROW_GROUP, compression="zstd")

"""Makes one shard of samples and the table of the documents in it, a record batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.masking import MaskingConfig
from stages import _storage
from stages.pack import kernel
from stages.pack.kernel import Batch, Rules, Runs, Scratch
from stages.pack.layout import Stretch
from stages.pack.sources import Documents, Instructions, Ring

BATCH_POSITIONS = 2**22  # of a record batch: 16 MB of input ids
PIECES = pa.schema([("sample", pa.int64()), ("doc_index", pa.int64()), ("doc_offset", pa.int32()), ("length", pa.int32())])


@dataclass(frozen=True)
class Task:
    """One shard.

    Attributes:
        samples, pieces: addresses to write.
        number: of its first sample, through all epochs.
        stretches: its samples.
        seed, config: decide each sample.
        ring, documents, instructions: what samples are made of.
    """

    samples: str
    pieces: str
    number: int
    stretches: tuple[Stretch, ...]
    seed: int
    config: MaskingConfig
    ring: Ring
    documents: Documents
    instructions: Instructions


def batch_rows(config: MaskingConfig) -> int:
    """Samples in a record batch."""
    return max(1, BATCH_POSITIONS // config.sequence_length)


def schema(config: MaskingConfig) -> pa.Schema:
    """Arrow schema of packed samples (docs/data.md)."""
    columns = Batch.empty(0, config)._asdict()
    return pa.schema([pa.field(name, _type(column), nullable=False) for name, column in columns.items()])


def record_batch(batch: Batch, kind: pa.Schema) -> pa.RecordBatch:
    """The columns as Arrow arrays over the same memory."""
    return pa.record_batch([_array(column) for column in batch], schema=kind)


def write_shard(task: Task) -> dict[str, Any]:
    """Write both files of a shard; gives its tally (see `kernel`)."""
    rules, scratch, columns = Rules.of(task.config), Scratch.of(task.config), schema(task.config)
    rows = batch_rows(task.config)
    room, tally, number = Batch.empty(rows, task.config), np.zeros((3, 4), np.int64), task.number
    with (
        _storage.atomic_output(task.samples) as samples,
        _storage.atomic_output(task.pieces) as pieces,
        pa.ipc.new_file(samples, columns) as writer,
        pq.ParquetWriter(pieces, PIECES, compression="zstd") as table,
    ):
        for parts in batches(task.stretches, rows):
            filled = 0
            for part in parts:
                fill, into = _fill_instructions if part.place is None else _fill_text, room.part(filled, filled + part.count)
                table.write_batch(fill(task, part, into, rules, scratch, tally, number + filled))
                filled += part.count
            writer.write_batch(record_batch(room.part(0, filled), columns))
            number += filled
    return {"tally": tally.tolist()}


def batches(stretches: tuple[Stretch, ...], rows: int) -> Iterator[list[Stretch]]:
    """The stretches of each record batch of `rows` samples; the last may have fewer."""
    waiting: list[Stretch] = []
    for stretch in stretches:
        waiting.append(stretch)
        if sum(one.count for one in waiting) == rows:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _fill_text(
    task: Task, part: Stretch, into: Batch, rules: Rules, scratch: Scratch, tally: NDArray[np.int64], number: int
) -> pa.RecordBatch:
    length = int(kernel.draw_kinds(task.seed, part.epoch, part.first, rules, into.kind))
    tokens = task.ring.take(part.place or 0, length)
    runs = Runs.empty(part.count, task.config)
    found = kernel.pack_text(task.seed, part.epoch, part.first, tokens, into, rules, scratch, runs, tally)
    first, bounds = task.documents.within(part.place or 0, length)
    most = found + len(bounds)
    pieces = (np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int32), np.empty(most, np.int32))
    written = kernel.trace(runs, found, first, task.documents.count, bounds, number, pieces)
    return pa.record_batch([column[:written] for column in pieces], schema=PIECES)


def _fill_instructions(
    task: Task, part: Stretch, into: Batch, rules: Rules, scratch: Scratch, tally: NDArray[np.int64], number: int
) -> pa.RecordBatch:
    chosen = np.empty((part.count, task.config.blocks), np.int64)
    kernel.draw_instructions(task.seed, part.epoch, part.first, task.instructions.count, chosen)
    ids, bounds, prompt, document = task.instructions.take(chosen.ravel())
    order = np.arange(chosen.size, dtype=np.int64).reshape(chosen.shape)
    kernel.pack_instructions(part.epoch, order, ids, bounds, prompt, into, rules, tally)
    sample = np.repeat(np.arange(number, number + part.count), task.config.blocks)
    columns = [sample, document, np.zeros(len(sample), np.int32), np.diff(bounds).astype(np.int32)]
    return pa.record_batch([pa.array(column) for column in columns], schema=PIECES)


def _type(column: NDArray[Any]) -> pa.DataType:
    kind = pa.from_numpy_dtype(column.dtype)
    return pa.list_(kind, column.shape[1]) if column.ndim == 2 else kind


def _array(column: NDArray[Any]) -> pa.Array:
    flat = pa.array(column.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, column.shape[1]) if column.ndim == 2 else flat

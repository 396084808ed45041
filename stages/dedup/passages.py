"""Optional, before all else: exact copies of lines or paragraphs in later documents are removed.

A passage counts as a copy where its units are equal (`_ngrams.units`). Its first document in the order of the corpus keeps it,
as often as it stands there; short ones, of fewer than `passage_units` units, stay everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages import _documents, _units
from stages.dedup import tables
from stages.dedup.params import Params

PASSAGES = pa.schema([("doc_id", pa.string()), ("removed", pa.int64()), ("characters", pa.int64()), ("emptied", pa.bool_())])
_MARKED = pa.schema([("high", pa.uint64()), ("low", pa.uint64()), ("document", pa.int64()), ("passage", pa.int64())])
_COPIED = pa.schema([("shard", pa.int32()), ("passage", pa.int64())])
_BETWEEN = {"lines": "\n", "paragraphs": "\n\n"}


@dataclass(frozen=True)
class MarkTask:
    """Passages of one shard."""

    shard: str
    target: str
    params: Params


def mark_passages(task: MarkTask) -> dict[str, int]:
    """Write fingerprint, document and number inside the shard of every passage that is long enough."""
    columns: list[list[NDArray[np.generic]]] = [[np.empty(0, kind)] for kind in (np.uint64, np.uint64, np.int64, np.int64)]
    documents = passages = 0
    for batch in _documents.read_batches(task.shard, ["text"]):
        texts, owners = _split(batch["text"], task.params)
        marks, units = _units.fingerprints(texts, np.zeros(len(texts), np.uint64))
        rows = np.flatnonzero(units >= task.params.passage_units)
        for column, values in zip(
            columns, (marks[rows, 0], marks[rows, 1], owners[rows] + documents, rows + passages), strict=True
        ):
            column.append(values)
        documents, passages = documents + len(batch), passages + len(texts)
    made = [np.concatenate(column) for column in columns]
    tables.write(task.target, _MARKED, made)
    return {"documents": documents, "passages": passages, "marked": len(made[0])}


@dataclass(frozen=True)
class MatchTask:
    """Marked passages of all shards whose fingerprint begins with the `bits` bits of `part`."""

    layout: tables.Layout
    part: int
    bits: int
    target: str


def match_passages(task: MatchTask) -> dict[str, int]:
    """Write the passages that an earlier document has too, by shard."""
    columns: list[list[NDArray[Any]]] = [[], [], [], [], []]
    for number, (start, address) in enumerate(zip(task.layout.starts, task.layout.tables, strict=False)):
        batch = tables.open_table(address).get_batch(0)
        high, low, document, passage = (tables.column(batch, name) for name in _MARKED.names)
        rows = np.flatnonzero(high >> np.uint64(64 - task.bits) == task.part) if task.bits else np.arange(len(high))
        taken = (high[rows], low[rows], document[rows] + start, passage[rows], np.full(len(rows), number))
        for column, values in zip(columns, taken, strict=True):
            column.append(values)
    high, low, document, passage, shards = map(np.concatenate, columns)
    order = np.lexsort((document, low, high))
    high, low, document, passage, shards = (values[order] for values in (high, low, document, passage, shards))
    new = np.ones(len(order), bool)
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    copied = np.flatnonzero(document != document[new][np.cumsum(new) - 1])
    copied = copied[np.lexsort((passage[copied], shards[copied]))]
    tables.write(task.target, _COPIED, [shards[copied].astype(np.int32), passage[copied]])
    return {"copied": len(copied)}


@dataclass(frozen=True)
class CutTask:
    """One shard without the passages that `copied` (addresses of what `match_passages` writes) names."""

    shard: str
    number: int
    copied: tuple[str, ...]
    target: str
    record: str
    params: Params


def cut_passages(task: CutTask) -> dict[str, int]:
    """Write the shard again, without documents of which nothing is left, and a record (PASSAGES) of what was cut."""
    copied = [np.empty(0, np.int64)]
    for address in task.copied:
        batch = tables.open_table(address).get_batch(0)
        low, high = np.searchsorted(tables.column(batch, "shard"), [task.number, task.number + 1])
        copied.append(tables.column(batch, "passage")[low:high])
    numbers, records = np.sort(np.concatenate(copied)), []

    def left() -> Iterator[pa.RecordBatch]:
        passages = 0
        for batch in _documents.read_batches(task.shard, _documents.SCHEMA.names):
            texts, owners = _split(batch["text"], task.params)
            low, high = np.searchsorted(numbers, [passages, passages + len(texts)])
            gone = numbers[low:high] - passages
            passages += len(texts)
            shorter = _without(texts, owners, gone, len(batch), task.params)
            removed = np.bincount(owners[gone], minlength=len(batch))
            emptied = (removed > 0) & (pc.utf8_length(pc.utf8_trim_whitespace(shorter)).to_numpy() == 0)
            lost = pc.subtract(pc.utf8_length(batch["text"]), pc.utf8_length(shorter)).cast(pa.int64())
            record = pa.record_batch([batch["doc_id"], pa.array(removed), lost, pa.array(emptied)], schema=PASSAGES)
            records.append(record.filter(pa.array(removed > 0)))
            yield (
                batch.set_column(batch.schema.get_field_index("text"), "text", shorter)
                .filter(pa.array(~emptied))
                .cast(_documents.SCHEMA)
            )

    documents = _documents.write_batches(task.target, _documents.SCHEMA, left())
    table = pa.Table.from_batches(records, PASSAGES)
    _documents.write_batches(task.record, PASSAGES, table.to_batches())
    return {"documents": documents, "emptied": int(pc.sum(table["emptied"]).as_py() or 0), "removed": len(numbers)}


def _split(texts: pa.Array, params: Params) -> tuple[pa.Array, NDArray[np.int64]]:
    """The passages of texts, one after the other, and the number of the text that each belongs to."""
    lists = pc.split_pattern(texts, _BETWEEN[str(params.passages)])
    return lists.flatten(), pc.list_parent_indices(lists).to_numpy()


def _without(passages: pa.Array, owners: NDArray[np.int64], gone: NDArray[np.int64], texts: int, params: Params) -> pa.Array:
    """Texts put together again from their passages but those in `gone`."""
    staying = np.ones(len(passages), bool)
    staying[gone] = False
    lengths = np.bincount(owners[staying], minlength=texts)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    lists = pa.ListArray.from_arrays(offsets.astype(np.int32), passages.filter(pa.array(staying)))
    return pc.binary_join(lists, pa.scalar(_BETWEEN[str(params.passages)], passages.type))

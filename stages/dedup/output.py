"""Last step: the surviving documents shard by shard, and the index that `glm dedup query` asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages import _documents
from stages.dedup import tables
from stages.dedup.candidates import sorted_bands
from stages.dedup.params import Params

REMOVED = pa.schema([("document", pa.int64()), ("exact", pa.bool_())])
BAND = pa.schema([("key", pa.uint64()), ("document", pa.int64())])
_ROWS = 4096


@dataclass(frozen=True)
class WriteTask:
    """Documents of one shard, the first of which has the number `start`, without those in `removed` (REMOVED)."""

    shard: str
    start: int
    removed: str
    target: str


def write_survivors(task: WriteTask) -> dict[str, dict[str, int]]:
    """Write the shard again; gives survivors by language, and removed documents by source and kind."""
    removed = tables.open_table(task.removed).get_batch(0)
    numbers, exact = tables.column(removed, "document"), removed["exact"].to_numpy(zero_copy_only=False)
    kept, lost = Counter[str](), Counter[str]()

    def survivors() -> Iterator[pa.RecordBatch]:
        start = task.start
        for batch in _documents.read_batches(task.shard, _documents.SCHEMA.names):
            low, high = np.searchsorted(numbers, [start, start + len(batch)])
            staying = np.ones(len(batch), bool)
            staying[numbers[low:high] - start] = False
            for row, copy in zip(numbers[low:high] - start, exact[low:high], strict=True):
                lost[f"{batch['source'][int(row)]}: {'exact' if copy else 'near'}"] += 1
            left = batch.filter(pa.array(staying))
            kept.update(left["lang"].to_pylist())
            start += len(batch)
            yield left

    _documents.write_batches(task.target, _documents.SCHEMA, _regroup(survivors()))
    return {"kept": dict(kept), "lost": dict(lost)}


def _regroup(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of `_ROWS`, at least one batch."""
    waiting = _documents.SCHEMA.empty_table()
    for batch in batches:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch.cast(_documents.SCHEMA)])])
        while len(waiting) >= _ROWS:
            yield _one(waiting.slice(0, _ROWS))
            waiting = waiting.slice(_ROWS)
    yield _one(waiting)


def _one(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)


@dataclass(frozen=True)
class IndexTask:
    """Signatures of one shard's survivors."""

    table: str
    start: int
    removed: str
    target: str
    params: Params


def index_schema(params: Params) -> pa.Schema:
    """Of the index's signature tables: row i is document i of the shard that has the same name."""
    fields = [("doc_id", pa.string()), ("lang", pa.string()), ("signature", pa.list_(pa.uint32(), params.permutations))]
    return pa.schema(fields, metadata=tables.header(params))


def index_shard(task: IndexTask) -> int:
    """Write the signature table of a shard's survivors; gives their number."""
    schema = index_schema(task.params)
    table = tables.open_table(task.table, schema.names, tables.header(task.params)).get_batch(0)
    numbers = removed_numbers(task.removed)
    staying = np.ones(len(table), bool)
    staying[numbers[(numbers >= task.start) & (numbers < task.start + len(table))] - task.start] = False
    left = table.filter(pa.array(staying))
    tables.write(task.target, schema, [left[name] for name in schema.names])
    return len(left)


@dataclass(frozen=True)
class IndexBandsTask:
    """Some bands of all survivors."""

    layout: tables.Layout
    bands: tuple[int, ...]
    removed: str
    memory: int
    targets: tuple[str, ...]
    params: Params


def index_bands(task: IndexBandsTask) -> int:
    """Write (key, document) of each band, sorted; documents are numbered through the shards' survivors; gives their number."""
    numbers, schema = removed_numbers(task.removed), BAND.with_metadata(tables.header(task.params))
    parts = sorted_bands(task.layout, task.bands, numbers, task.memory, task.params)
    for (_, band), target in zip(groupby(parts, itemgetter(0)), task.targets, strict=True):
        with tables.writer(target, schema) as output:
            for _, keys, documents in band:
                columns: list[Any] = [pa.array(keys), pa.array(documents - np.searchsorted(numbers, documents))]
                output.write_batch(pa.record_batch(columns, schema=schema))
    return task.layout.documents - len(numbers)


def removed_numbers(address: str) -> NDArray[np.int64]:
    """Sorted numbers of the removed documents."""
    return tables.column(tables.open_table(address).get_batch(0), "document")

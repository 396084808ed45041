"""Fourth step, shard by shard: what is needed to compare the members of candidate components, sorted into their parts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages import _documents, _jit, _units
from stages.dedup import tables
from stages.dedup.params import Params

_kernel = _jit.kernels(__file__)


@dataclass(frozen=True)
class GatherTask:
    """Members (`components.MEMBERS`) of one shard, with all that is needed to compare them."""

    shard: str
    table: str
    start: int
    members: str
    parts: int
    target: str
    params: Params


GATHERED = pa.schema(  # signatures and sets of shingles are empty where a document has nothing to be near to
    [
        ("document", pa.int64()),
        ("head", pa.int64()),
        ("near", pa.bool_()),
        ("doc_id", pa.string()),
        ("characters", pa.int64()),
        ("signature", pa.large_list(pa.uint32())),
        ("shingles", pa.large_list(pa.uint64())),
    ]
)


def gather(task: GatherTask) -> dict[str, int]:
    """Write the shard's members (GATHERED), one record batch for each part; gives the number of sets of shingles made."""
    params = task.params
    table = tables.open_table(task.table, ("doc_id", "characters", "signature"), tables.header(params)).get_batch(0)
    members = tables.open_table(task.members).get_batch(0)
    low, high = np.searchsorted(tables.column(members, "document"), [task.start, task.start + len(table)])
    mine = members.slice(low, high - low)
    parts, near = tables.column(mine, "part"), mine["near"].to_numpy(zero_copy_only=False)
    values, splits = np.empty(0, np.uint64), np.zeros(int(near.sum()) + 1, np.int64)
    if params.verify == "exact" and near.any():
        values, splits = shingle_sets(task.shard, tables.column(mine, "document")[near] - task.start, params)
    order = np.argsort(parts, kind="stable")
    mine, near, place = mine.take(pa.array(order)), near[order], np.where(near, np.cumsum(near) - 1, -1)[order]
    rows = tables.column(mine, "document") - task.start
    signatures = tables.matrix(table, "signature")[rows[near]].reshape(-1)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(near * np.int64(params.permutations))])
    ids = table.select(["doc_id", "characters"]).take(pa.array(rows))
    light = [
        *mine.select(["document", "head", "near"]).columns,
        *ids.columns,
        pa.LargeListArray.from_arrays(starts, signatures),
    ]
    bounds = np.searchsorted(parts[order], np.arange(task.parts + 1))
    with tables.writer(task.target, GATHERED) as output:
        for begin, end in pairwise(bounds.tolist()):  # sets are many times larger than all else: those of one part at a time
            shingles = pa.LargeListArray.from_arrays(*_take_runs(values, splits, place[begin:end]))
            columns = [*(column.slice(begin, end - begin) for column in light), shingles]
            output.write_batch(pa.record_batch(columns, schema=GATHERED))
    return {"sets": len(splits) - 1 if len(values) else 0}


def shingle_sets(shard: str, rows: NDArray[np.int64], params: Params) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Sets of shingles of some rows of a shard: the sorted, distinct 64-bit hashes of each, and where each set begins."""
    sets, lengths, start = [np.empty(0, np.uint64)], [np.zeros(1, np.int64)], 0
    for batch in _documents.read_batches(shard, ["lang", "text"]):
        low, high = np.searchsorted(rows, [start, start + len(batch)])
        chosen = batch.take(pa.array(rows[low:high] - start))
        start += len(batch)
        sizes = np.array([params.ngram[lang] for lang in chosen["lang"].to_pylist()], np.int64)
        hashes, splits = _units.ngram_hashes(chosen["text"], sizes, params.max_characters)
        for begin, end in pairwise(splits):
            hashes[begin:end].sort()
        values, splits = _distinct(hashes, splits)
        sets.append(values)
        lengths.append(np.diff(splits))
    return np.concatenate(sets), np.cumsum(np.concatenate(lengths))


@_kernel
def _take_runs(values: Any, splits: Any, numbers: Any) -> Any:
    """Where the runs of these numbers begin when they stand one after the other, and their values; -1 is a run of none."""
    places = np.zeros(len(numbers) + 1, np.int64)
    for row in range(len(numbers)):
        number = numbers[row]
        places[row + 1] = places[row] + (splits[number + 1] - splits[number] if number >= 0 else 0)
    taken = np.empty(places[-1], values.dtype)
    for row in range(len(numbers)):
        begin, end, source = places[row], places[row + 1], splits[numbers[row]]
        for place in range(end - begin):
            taken[begin + place] = values[source + place]
    return places, taken


@_kernel
def _distinct(values: Any, splits: Any) -> Any:
    """Sorted runs without repetitions: the values, and where each run begins."""
    kept, places, filled = np.empty(len(values), np.uint64), np.zeros(len(splits), np.int64), 0
    for run in range(len(splits) - 1):
        for place in range(splits[run], splits[run + 1]):
            if place == splits[run] or values[place] != values[place - 1]:
                kept[filled] = values[place]
                filled += 1
        places[run + 1] = filled
    return kept[:filled].copy(), places

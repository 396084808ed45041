"""Documents that several parts of one split dump hold: each part's reader knows only its own, so they are found behind it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages import _storage
from stages._documents import read_batches, read_shard, write_shard
from stages.corpus.params import Params, Source
from stages.corpus.plan import Task
from stages.corpus.shelf import Shelf, Tally

Results = list[dict[str, Any]]


def without_repeats(
    tasks: Sequence[Task], results: Results, params: Params
) -> tuple[Results, list[dict[str, Any]], dict[str, str]]:
    """The results as if one reader had read each split file: of documents with one id the first is kept.

    Args:
        tasks: all of the stage, in order.
        results: of `reading.read_units`, one for each task.
        params: the stage's.

    Returns:
        The corrected results, the rows of the quarantine that are new, and by the address of each shard that lost documents
        the address of what is left of it. Nothing is changed in place: a stage that is killed here begins again from `results`.

    Raises:
        StageError: there is one, and the policy is to stop.
    """
    corrected, refused = list(results), list[dict[str, Any]]()
    replaced: dict[str, str] = {}
    for origin in params.origins:
        numbers = [n for n, task in enumerate(tasks) if task.origin == origin and any(unit.shares_ids for unit in task.units)]
        for source in origin.sources if numbers else ():
            shards = {
                n: [tasks[n].shard(source, k) for k in range(results[n]["sources"][source.id]["shards"])] for n in numbers
            }
            ids = _repeated([shard for mine in shards.values() for shard in mine])
            seen: set[str] = set()
            for number in numbers if ids else ():
                shelf = Shelf(source, params, partial(tasks[number].shard, source))
                for shard in shards[number]:
                    left = _storage.join(tasks[number].work, "once", shard.rpartition("/")[2])
                    if _rewrite(shard, left, ids, seen, shelf):
                        replaced[shard] = left
                if shelf.refused:
                    corrected[number] = _corrected(corrected[number], source, shelf)
                    refused += shelf.refused
    return corrected, refused, replaced


def _repeated(shards: Sequence[str]) -> set[str]:
    """The ids that stand more than once in some shards; read as a column, about 60 bytes for each document."""
    columns = [batch["doc_id"].cast(pa.large_string()) for shard in shards for batch in read_batches(shard, ["doc_id"])]
    counts = pc.value_counts(pa.chunked_array(columns, pa.large_string()))
    return set(counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist())


def _rewrite(shard: str, left: str, ids: set[str], seen: set[str], shelf: Shelf) -> int:
    """Write a shard without the documents of `ids` that were seen before, where it has any; their number."""
    names = [name for batch in read_batches(shard, ["doc_id"]) for name in batch["doc_id"].to_pylist()]
    if ids.isdisjoint(names):
        return 0
    kept = []
    before = len(shelf.refused)
    for row in read_shard(shard):
        if row["doc_id"] in seen:
            file, _, page = row["path"].rpartition("#")
            size = len(row["text"].encode())
            shelf.refuse(shelf.selector.prefix + file, f"duplicate id ({row['doc_id']})", page, size)
            shelf.tally.documents -= 1
            shelf.tally.bytes -= size
            continue
        if row["doc_id"] in ids:
            seen.add(row["doc_id"])
        kept.append(row)
    if len(shelf.refused) > before:
        write_shard(left, kept)
    return len(shelf.refused) - before


def _corrected(result: dict[str, Any], source: Source, shelf: Shelf) -> dict[str, Any]:
    """A task's result with the changes that `shelf` counted."""
    changed = Tally()
    changed.add(result["sources"][source.id])
    changed.add(shelf.tally.to_plain())
    return {**result, "sources": {**result["sources"], source.id: changed.to_plain()}}

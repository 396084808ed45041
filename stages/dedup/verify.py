"""Fifth step: exact similarities inside candidate components, and the survivor of each cluster.

Similarity is not transitive. A group is a connected component of similar documents; its most senior document survives and takes
with it those that are similar to itself; the most senior of the rest does the same, until none is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages import _jit
from stages.dedup import components, tables
from stages.dedup.candidates import split
from stages.dedup.gather import GATHERED
from stages.dedup.params import CLUSTERS, Params

_kernel = _jit.kernels(__file__, components.__file__)

MEMBERS = pa.schema([("document", pa.int64()), *CLUSTERS])


@dataclass(frozen=True)
class SettleTask:
    """One part of all shards' members (`gather`), and its candidate pairs (`components.edges`), to clusters."""

    gathered: tuple[str, ...]
    edges: str
    part: int
    target: str
    params: Params


class Sets(NamedTuple):
    """What m documents are compared by: signatures, uint32[m, permutations], and sorted sets of 64-bit shingle hashes.

    `floor` is the number of equal values from which two signatures let the sets be compared; where `exact` is 0 there are no
    sets, and the signatures decide.
    """

    signatures: NDArray[np.uint32]
    shingles: NDArray[np.uint64]
    splits: NDArray[np.int64]
    floor: float
    exact: int


def settle(task: SettleTask) -> dict[str, int]:
    """Write the clusters (MEMBERS) of one part; gives the number of pairs that were found similar and joined two groups."""
    read = [tables.open_table(address).get_batch(task.part) for address in task.gathered]
    members = pa.Table.from_batches(read, GATHERED).combine_chunks().to_batches()[0]
    pairs = tables.column(tables.open_table(task.edges).get_batch(task.part), "pair")
    document = tables.column(members, "document")
    near = np.flatnonzero(members["near"].to_numpy(zero_copy_only=False))
    first, second = (np.searchsorted(document[near], side) for side in split(pairs))
    sets = _sets(members, near, task.params)
    parent = np.arange(len(near))
    joined = _link(parent, first, second, sets, task.params.threshold)
    head = np.searchsorted(document, tables.column(members, "head"))
    rank = _seniority(members)
    senior = np.empty(len(document), np.int64)
    order = np.argsort(-rank)
    senior[head[order]] = order  # the last that is written stays: the most senior of the copies
    group = components.roots(parent)
    ordered = np.lexsort((rank[senior[near]], group))
    leader, survivor, value = _elect(ordered, group, sets, task.params.threshold)
    rows = _rows(members, head, senior, near, leader, survivor, value)
    tables.write(task.target, MEMBERS, rows)
    return {"joined": int(joined), "members": len(rows[0])}


def _sets(members: pa.RecordBatch, near: NDArray[np.int64], params: Params) -> Sets:
    signatures = members["signature"].flatten().to_numpy().reshape(len(near), params.permutations)
    shingles = members["shingles"]
    splits = np.concatenate([np.zeros(1, np.int64), np.cumsum(pc.list_value_length(shingles).to_numpy()[near])])
    floor = params.floor * params.permutations
    return Sets(signatures, shingles.flatten().to_numpy(), splits, floor, int(params.verify == "exact"))


def _seniority(members: pa.RecordBatch) -> NDArray[np.int64]:
    """Rank of each document: 0 for the longest text, of equally long ones that with the smallest doc_id."""
    order = pc.sort_indices(members, [("characters", "descending"), ("doc_id", "ascending")]).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _rows(
    members: pa.RecordBatch,
    head: NDArray[np.int64],
    senior: NDArray[np.int64],
    near: NDArray[np.int64],
    leader: NDArray[np.int64],
    survivor: NDArray[np.int64],
    value: NDArray[np.float64],
) -> list[Any]:
    """Columns of MEMBERS, without the documents that turned out to be like no other.

    Args:
        members: a part, m rows.
        head: row of each row's head.
        senior: row of the most senior copy of each head.
        near: rows of the k heads that were compared.
        leader: first of its group, of each of the k.
        survivor: that it belongs to, of each of the k.
        value: its similarity with the survivor, of each of the k.
    """
    here = np.arange(len(head))
    group, cluster, jaccard = here.copy(), here.copy(), np.ones(len(head))
    group[near], cluster[near], jaccard[near] = near[leader], near[survivor], value
    heads = np.flatnonzero(head == here)
    copies, clustered, grouped = (np.bincount(of, minlength=len(head)) for of in (head, cluster[heads], group[heads]))
    ours = cluster[head] == head  # is the survivor or a copy of it
    survives = ours & (here == senior[head])
    exact = ours & (~survives | ((clustered[head] == 1) & (copies[head] > 1)))
    kept = pa.array((grouped[group[head]] > 1) | (copies[head] > 1))
    ids = members["doc_id"]
    columns = [
        members["document"],
        ids,
        ids.take(pa.array(senior[cluster[head]])),
        pa.array(survives),
        pa.array(np.where(exact, "exact", "near"), pa.string()),
        pa.array(jaccard[head]),
        ids.take(pa.array(senior[group[head]])),
    ]
    return [column.filter(kept) for column in columns]


@_kernel
def _similarity(one: int, two: int, sets: Any) -> float:
    """Jaccard similarity of two documents, or 0 where their signatures already differ too much."""
    equal = np.uint32(0)
    for place in range(sets.signatures.shape[1]):
        equal += np.uint32(sets.signatures[one, place] == sets.signatures[two, place])
    if equal < sets.floor:
        return 0.0
    if not sets.exact:
        return equal / sets.signatures.shape[1]
    at, end = sets.splits[one], sets.splits[one + 1]
    other, stop = sets.splits[two], sets.splits[two + 1]
    total, common = end - at + stop - other, 0
    while at < end and other < stop:
        left, right = sets.shingles[at], sets.shingles[other]
        common += left == right
        at += left <= right
        other += right <= left
    return common / (total - common)


@_kernel
def _link(parent: Any, first: Any, second: Any, sets: Any, threshold: float) -> int:
    """Join the groups of similar pairs; a pair whose documents already share a group can add nothing and is not compared."""
    joined = 0
    for pair in range(len(first)):
        one, two = components.root(parent, first[pair]), components.root(parent, second[pair])
        if one != two and _similarity(first[pair], second[pair], sets) >= threshold:
            parent[max(one, two)] = min(one, two)
            joined += 1
    return joined


@_kernel
def _elect(ordered: Any, group: Any, sets: Any, threshold: float) -> Any:
    """For each of k documents the most senior of its group, the survivor that it belongs to, and their similarity.

    Args:
        ordered: the documents by group, in each group in order of seniority, int64[k].
        group: of each document, int64[k].
        sets: of the documents.
        threshold: similarity from which a survivor takes a document with it.
    """
    leader, survivor, value = np.empty_like(ordered), np.empty_like(ordered), np.ones(len(ordered))
    begin = 0
    for end in range(1, len(ordered) + 1):
        if end < len(ordered) and group[ordered[end]] == group[ordered[begin]]:
            continue
        leader[ordered[begin:end]] = ordered[begin]
        rest = ordered[begin:end].copy()
        while len(rest):
            first, left = rest[0], 0
            survivor[first] = first
            for other in rest[1:]:
                similarity = _similarity(first, other, sets)
                if similarity >= threshold:
                    survivor[other], value[other] = first, similarity
                else:
                    rest[left] = other
                    left += 1
            rest = rest[:left]
        begin = end
    return leader, survivor, value

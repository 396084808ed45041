"""Third step: candidate components, which no later step has to look across, shared out into parts of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages import _jit
from stages.dedup import tables
from stages.dedup.candidates import PAIRS, split

_kernel = _jit.kernels(__file__)

PART = 16_000_000  # values of documents that are compared by one task, at most: of shingles about one for each character
_PARTS, _LEAST = 8, 1_000_000  # a small corpus makes so many smaller ones, for as many workers, but none smaller than that
MEMBERS = pa.schema([("document", pa.int64()), ("head", pa.int64()), ("part", pa.int32()), ("near", pa.bool_())])


class Members(NamedTuple):
    """Documents in a candidate component, by number, int64[m] and so on.

    Attributes:
        document: number.
        head: the first document with the same fingerprint: the document itself, or that which it copies.
        part: of the corpus that its component belongs to.
        near: whether it is a head, and has another head in its component.
    """

    document: NDArray[np.int64]
    head: NDArray[np.int64]
    part: NDArray[np.int32]
    near: NDArray[np.bool_]


def share_out(
    layout: tables.Layout,
    copies: tuple[NDArray[np.int64], NDArray[np.int64]],
    pairs: Iterable[NDArray[np.uint64]],
    values: int | None = None,
) -> Members:
    """Connected components of copies and pairs, in parts of at most about `PART` values; no component lies in two parts.

    Args:
        layout: of signature tables.
        copies: documents and their heads, sorted by document.
        pairs: of candidates.
        values: of each document that will be compared; None stands for all of its shingles.
    """
    parent = np.arange(layout.documents)
    for part in pairs:
        join(parent, *split(part))
    near = _shared(roots(parent))  # copies are in no pair
    join(parent, *copies)
    root = roots(parent)
    members = np.flatnonzero(_shared(root))
    heads = np.arange(layout.documents)
    heads[copies[0]] = copies[1]
    near = near[members]
    weights = _lengths(layout, members) if values is None else np.full(len(members), values)
    return Members(members, heads[members], _parts(root[members], weights * near), near)


def _shared(roots: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether other documents have the same root."""
    shared: NDArray[np.bool_] = np.bincount(roots)[roots] > 1
    return shared


def _lengths(layout: tables.Layout, documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Characters of documents."""
    lengths = np.empty(len(documents), np.int64)
    for shard, places in layout.inside(documents):
        batch = tables.open_table(layout.tables[shard], ("characters",)).get_batch(0)
        lengths[places] = tables.column(batch, "characters")[documents[places] - layout.starts[shard]]
    return lengths


def _parts(roots: NDArray[np.int64], weights: NDArray[np.int64]) -> NDArray[np.int32]:
    names, places = np.unique(roots, return_inverse=True)
    sums = np.bincount(places, weights + 1, minlength=len(names)).astype(np.int64)
    size = min(PART, max(_LEAST, int(sums.sum()) // _PARTS))
    parts: NDArray[np.int32] = ((np.cumsum(sums) - sums) // size).astype(np.int32)
    return parts[places]


def edges(members: Members, pairs: Iterable[NDArray[np.uint64]]) -> Iterator[pa.RecordBatch]:
    """Candidate pairs by part, one record batch (PAIRS) for each."""
    found = np.concatenate([np.empty(0, np.uint64), *pairs])
    parts = members.part[np.searchsorted(members.document, split(found)[0])]
    found = found[np.argsort(parts, kind="stable")]
    places = np.searchsorted(np.sort(parts), np.arange(1, count(members)))
    for chunk in np.split(found, places):
        yield pa.record_batch([pa.array(chunk)], schema=PAIRS)


def count(members: Members) -> int:
    """Number of parts."""
    return int(members.part.max(initial=-1)) + 1


@_kernel
def root(parent: Any, node: Any) -> Any:
    """The smallest node known to be connected with `node` (union-find, path halving)."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@_kernel
def join(parent: Any, first: Any, second: Any) -> None:
    """Connect pairs of nodes."""
    for pair in range(len(first)):
        one, two = root(parent, first[pair]), root(parent, second[pair])
        parent[max(one, two)] = min(one, two)


@_kernel
def roots(parent: Any) -> Any:
    """The smallest connected node of every node."""
    found = np.empty(len(parent), np.int64)
    for node in range(len(parent)):
        found[node] = root(parent, node)
    return found

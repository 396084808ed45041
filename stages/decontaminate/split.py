"""Which documents are held out: whole groups of similar documents, drawn by a keyed hash."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def split(entries: pa.Table, share: float, seed: int) -> NDArray[np.bool_]:
    """Which rows of `entries` (source, group, bytes: one row a document) are held out.

    For each source its groups are taken in the order of SHA-256(seed, group) until `share` of its bytes is reached. A group
    that would pass the mark by more than half of it is left out, but a source of two groups or more gives at least one, its
    smallest. A group of several sources belongs to the first of them by name.
    """
    group = entries["group"].combine_chunks().dictionary_encode()
    of_row, names = group.indices.to_numpy(), group.dictionary
    size = np.zeros(len(names), np.int64)
    np.add.at(size, of_row, entries["bytes"].to_numpy())
    owner = _first_source(entries["source"], of_row, len(names))
    chosen = np.zeros(len(names), np.bool_)
    for source in np.unique(owner):
        members = np.flatnonzero(owner == source)
        chosen[_draw(members, names.take(members), size[members], share, seed)] = True
    return chosen[of_row]


def _first_source(sources: pa.ChunkedArray, of_row: NDArray[np.int32], groups: int) -> NDArray[np.int64]:
    """Rank by name of each group's first source."""
    encoded = sources.combine_chunks().dictionary_encode()
    rank = np.argsort(pc.sort_indices(encoded.dictionary).to_numpy())
    owner = np.full(groups, len(rank), np.int64)
    np.minimum.at(owner, of_row, rank[encoded.indices.to_numpy()])
    return owner


def _draw(members: NDArray[np.int64], names: pa.Array, size: NDArray[np.int64], share: float, seed: int) -> list[int]:
    keys = np.fromiter((_key(seed, name.as_py()) for name in names), np.uint64, len(names))
    goal, taken = share * int(size.sum()), 0
    chosen = []
    for place in np.argsort(keys, kind="stable").tolist():
        if taken >= goal:
            break
        if taken + int(size[place]) <= 1.5 * goal:
            chosen.append(int(members[place]))
            taken += int(size[place])
    if not chosen and len(names) > 1 and share > 0:
        smallest = min(np.flatnonzero(size == size.min()).tolist(), key=lambda place: names[place].as_py())
        chosen = [int(members[smallest])]
    return chosen


def _key(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")

"""Second step: copies by fingerprint, candidate pairs band by band, and a first look at the pairs' signatures.

Documents go by their numbers (`tables.Layout`), a pair as one integer: the smaller number in the high half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages import _jit
from stages.dedup import tables
from stages.dedup.params import Params
from stages.dedup.signatures import band_name

_kernel = _jit.kernels(__file__)

MOST_DOCUMENTS = 2**32
RANGE, _RANGES = 2**16, 64  # documents whose pairs one task looks at, at least, and the number of such tasks, at most
SMALL_BUCKET = 16  # up to here every two documents of a bucket are a pair
_MANY, _GROUP = 2**20, 16  # up to so many documents a task takes so many bands
_BYTES = 64  # of memory, for each document of a band that is being sorted
_SLOTS = 4  # for each key, by which those that stand there once are told from others
_PAIRS_AT_ONCE = 2**16
_FEW = 32  # so many are sorted by insertion

COPIES = pa.schema([("document", pa.int64()), ("head", pa.int64())])
PAIRS = pa.schema([("pair", pa.uint64())])


@dataclass(frozen=True)
class CopyTask:
    """Copies among the documents whose fingerprint begins with the `bits` bits of `part`."""

    layout: tables.Layout
    part: int
    bits: int
    target: str


def find_copies(task: CopyTask) -> dict[str, int]:
    """Write (document, head) for each document that has the fingerprint of one before it; the head is the first of them."""
    names = ("fingerprint_0", "fingerprint_1")
    found: list[tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64]]] = []
    for start, batch in _shards(task.layout, names):
        high, low = (tables.column(batch, name) for name in names)
        rows = np.flatnonzero(_of_part(high, task.part, task.bits))
        found.append((rows + start, high[rows], low[rows]))
    documents, high, low = (np.concatenate(columns) for columns in zip(*found, strict=True))
    order = np.argsort(high)
    twice, again = np.zeros(len(order), bool), high[order][1:] == high[order][:-1]
    twice[1:] |= again
    twice[:-1] |= again
    chosen = order[twice]
    documents, high, low = documents[chosen], high[chosen], low[chosen]
    order = np.lexsort((documents, low, high))
    documents, high, low = documents[order], high[order], low[order]
    first = np.ones(len(documents), bool)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    heads = documents[first][np.cumsum(first) - 1]
    tables.write(task.target, COPIES, [documents[~first], heads[~first]])
    return {"copies": int((~first).sum())}


@dataclass(frozen=True)
class BandTask:
    """Candidate pairs of some bands among the documents that are not in `left_out` (COPIES)."""

    layout: tables.Layout
    bands: tuple[int, ...]
    left_out: str
    memory: int
    target: str
    params: Params


def find_pairs(task: BandTask) -> dict[str, int]:
    """Write the bands' pairs, sorted, one record batch for each of the `ranges` of first documents."""
    parts, largest = [np.empty(0, np.uint64)], 0
    left_out = tables.column(tables.open_table(task.left_out).get_batch(0), "document")
    for _, key, document in _taken(task.layout, task.bands, left_out, task.memory, task.params):
        shared = _shared(key)
        made, most = _bucket_pairs(*_in_order(key[shared], document[shared]), SMALL_BUCKET)
        parts.append(made)
        largest = max(largest, int(most), int(len(key) > 0))
    pairs = np.unique(np.concatenate(parts))
    starts = range(0, task.layout.documents, _range(task.layout))
    edges = np.searchsorted(pairs, [np.uint64(start) << np.uint64(32) for start in starts])
    with tables.writer(task.target, PAIRS) as output:
        for part in np.split(pairs, edges[1:]):
            output.write_batch(pa.record_batch([pa.array(part)], schema=PAIRS))
    return {"pairs": len(pairs), "largest_bucket": largest}


def ranges(layout: tables.Layout) -> int:
    """The number of tasks that share the pairs, by their first documents."""
    return max(1, -(-layout.documents // _range(layout)))


def _range(layout: tables.Layout) -> int:
    return max(RANGE, -(-layout.documents // _RANGES))


def band_groups(layout: tables.Layout, params: Params) -> list[tuple[int, ...]]:
    """The bands that one task looks at, one after the other: few where opening files would cost more than sorting."""
    each = 1 if layout.documents > _MANY else _GROUP
    return [tuple(range(first, min(first + each, params.bands))) for first in range(0, params.bands, each)]


def sorted_bands(
    layout: tables.Layout, bands: tuple[int, ...], left_out: NDArray[np.int64], memory: int, params: Params
) -> Iterator[tuple[int, NDArray[np.uint64], NDArray[np.int64]]]:
    """(band, keys, documents) in order of key and document, each band in as many parts as fit into `memory` bytes one by one.

    Args:
        layout: signature tables.
        bands: numbers.
        left_out: sorted numbers of documents that take no part.
        memory: bytes.
        params: of the tables.
    """
    for band, key, document in _taken(layout, bands, left_out, memory, params):
        yield band, *_in_order(key, document)


def _taken(
    layout: tables.Layout, bands: tuple[int, ...], left_out: NDArray[np.int64], memory: int, params: Params
) -> Iterator[tuple[int, NDArray[np.uint64], NDArray[np.int64]]]:
    """The same as `sorted_bands`, each part in order of document."""
    bits = max(0, (layout.documents * _BYTES - 1) // memory).bit_length()
    shards = list(_shards(layout, tuple(map(band_name, bands)), tables.header(params)))
    staying = np.ones(layout.documents, bool)
    staying[left_out] = False
    for band in bands:
        for part in range(1 << bits):
            taken = [_take(tables.column(batch, band_name(band)), staying, start, part, bits) for start, batch in shards]
            keys, documents = zip(*taken, strict=True)
            yield band, np.concatenate(keys), np.concatenate(documents)


def _in_order(key: NDArray[np.uint64], document: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    order = np.argsort(key)
    key, document = key[order], document[order]
    _sort_ties(key, document)
    return key, document


@dataclass(frozen=True)
class ScreenTask:
    """Pairs of all bands whose first document lies in one range, to those with signatures that agree often enough."""

    layout: tables.Layout
    pairs: tuple[str, ...]
    part: int
    target: str
    params: Params


def screen(task: ScreenTask) -> dict[str, int]:
    """Write the pairs whose signatures agree in at least `Params.floor` of their values."""
    found = [tables.column(tables.open_table(address).get_batch(task.part), "pair") for address in task.pairs]
    pairs = np.unique(np.concatenate(found))
    values = [
        tables.matrix(batch, "signature") for _, batch in _shards(task.layout, ("signature",), tables.header(task.params))
    ]
    kept = [np.empty(0, np.uint64)]
    for begin in range(0, len(pairs), _PAIRS_AT_ONCE):
        chunk = pairs[begin : begin + _PAIRS_AT_ONCE]
        documents, places = np.unique(np.concatenate(split(chunk)), return_inverse=True)
        rows = np.concatenate(
            [values[shard][documents[part] - task.layout.starts[shard]] for shard, part in task.layout.inside(documents)]
        )
        equal = _agreement(rows, places[: len(chunk)], places[len(chunk) :])
        kept.append(chunk[equal >= task.params.floor * task.params.permutations])
    near = np.concatenate(kept)
    tables.write(task.target, PAIRS, [near])
    return {"candidates": len(pairs), "screened": len(near)}


def split(pairs: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and second documents of pairs."""
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _shards(
    layout: tables.Layout, names: tuple[str, ...], expected: dict[bytes, bytes] | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    for start, address in zip(layout.starts, layout.tables, strict=False):
        yield start, tables.open_table(address, names, expected).get_batch(0)


def _of_part(keys: NDArray[np.uint64], part: int, bits: int) -> NDArray[np.bool_]:
    """Which keys begin with the bits of `part`."""
    return keys >> np.uint64(64 - bits) == part if bits else np.ones(len(keys), bool)


@_kernel
def _take(keys: Any, staying: Any, start: int, part: int, bits: int) -> Any:
    """Keys, and the numbers of their documents, that begin with the `bits` bits of `part` and whose document is `staying`."""
    chosen, documents, filled = np.empty(len(keys), np.uint64), np.empty(len(keys), np.int64), 0
    for row in range(len(keys)):
        chosen[filled], documents[filled] = keys[row], start + row
        filled += staying[start + row] and (bits == 0 or keys[row] >> np.uint64(64 - bits) == np.uint64(part))
    return chosen[:filled], documents[:filled]


@_kernel
def _shared(keys: Any) -> Any:
    """Places of all keys that stand there twice or more often, and of a few others."""
    bits = 10
    while 1 << bits < _SLOTS * len(keys):
        bits += 1
    seen, twice = np.zeros(1 << bits, np.bool_), np.zeros(1 << bits, np.bool_)
    for key in keys:
        slot = key & np.uint64((1 << bits) - 1)
        twice[slot] |= seen[slot]
        seen[slot] = True
    places, filled = np.empty(len(keys), np.int64), 0
    for place in range(len(keys)):
        places[filled] = place
        filled += twice[keys[place] & np.uint64((1 << bits) - 1)]
    return places[:filled]


@_kernel
def _sort_ties(keys: Any, documents: Any) -> None:
    """Bring documents with equal keys, which stand together, into ascending order."""
    begin = 0
    for end in range(1, len(keys) + 1):
        if end == len(keys) or keys[end] != keys[begin]:
            if end - begin > _FEW:
                documents[begin:end].sort()
            else:
                for place in range(begin + 1, end):
                    low = place
                    while low > begin and documents[low] < documents[low - 1]:
                        documents[low], documents[low - 1] = documents[low - 1], documents[low]
                        low -= 1
            begin = end


@_kernel
def _bucket_pairs(keys: Any, documents: Any, small: int) -> Any:
    """Pairs of documents that share a key, and the number of documents in the largest bucket.

    In a bucket of more than `small` documents each is paired with the first and with the one before it, so that the number of
    pairs grows with the number of documents only. Two documents of a large bucket that resemble each other more than they
    resemble these two meet in other bands, or through the documents between them.
    """
    count, largest, begin = 0, 0, 0
    for end in range(1, len(keys) + 1):
        if end == len(keys) or keys[end] != keys[begin]:
            members = end - begin
            count += members * (members - 1) // 2 if members <= small else 2 * members - 3
            largest, begin = max(largest, members), end
    pairs = np.empty(count, np.uint64)
    filled, begin = 0, 0
    for end in range(1, len(keys) + 1):
        if end == len(keys) or keys[end] != keys[begin]:
            for later in range(begin + 1, end):
                for earlier in range(begin if end - begin <= small else later - 1, later):
                    pairs[filled] = _pair(documents[earlier], documents[later])
                    filled += 1
                if end - begin > small and later > begin + 1:
                    pairs[filled] = _pair(documents[begin], documents[later])
                    filled += 1
            begin = end
    return pairs, largest


@_kernel
def _pair(first: Any, second: Any) -> Any:
    return (np.uint64(first) << np.uint64(32)) | np.uint64(second)


@_kernel
def _agreement(rows: Any, first: Any, second: Any) -> Any:
    """Number of equal values in pairs of signatures."""
    equal = np.zeros(len(first), np.int64)
    for pair in range(len(first)):
        one, two = rows[first[pair]], rows[second[pair]]
        count = np.uint32(0)
        for place in range(rows.shape[1]):
            count += np.uint32(one[place] == two[place])
        equal[pair] = count
    return equal

"""Hashes of n-grams that roll from one n-gram to the next, sets of them, and the places in texts where those of a set stand.

The hash of an n-gram is a polynomial over those of its units, modulo 2^64, mixed at last: a unit more and a unit less is all
that the next one takes (Karp and Rabin 1987). Like any hash it may be that of another n-gram too; what `find` gives carries
the n-gram itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages import _jit, _units, _xxh64
from stages._xxh64 import eight

Hashes = NDArray[np.uint64]
FOUND = pa.schema([("text", pa.int64()), ("start", pa.int64()), ("hash", pa.uint64()), ("ngram", pa.large_string())])
MIX = 0xD6E8FEB86659FD93  # odd; a test sets it to nothing, so that all n-grams have one hash
_BASE, _ONE, _OTHER = np.uint64(0x9FB21C651E98DF25), np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F)
_ALL, _B1, _B3, _B6, _B8 = (np.uint64(value) for value in (2**64 - 1, 1, 3, 6, 8))
_B29, _B32, _B63, _B64 = (np.uint64(value) for value in (29, 32, 63, 64))
_ROOM = 1024  # places found, and 64 bytes for each, before more is needed

_kernel = _jit.kernels(__file__, _units.__file__, _xxh64.__file__)


def ngram_hashes(texts: pa.Array, n: int) -> tuple[Hashes, NDArray[np.int64]]:
    """The hash of every n-gram of every text, in order, and where each text's begin and end; none of fewer than n units."""
    data, offsets = _units.utf8(texts)
    hashes, splits = _all_hashes(data, offsets, n, np.uint64(MIX), _units.tables())
    return hashes, splits


def find(texts: pa.Array, n: int, wanted: HashSet) -> pa.RecordBatch:
    """Every place where an n-gram stands whose hash is wanted, as rows of `FOUND`: the text's number, the unit at which it
    begins, its hash and its units joined by blanks; in the order of the texts and places."""
    data, offsets = _units.utf8(texts)
    rows, hashes, ends, grams = _find(data, offsets, n, np.uint64(MIX), _units.tables(), *wanted.arrays)
    ngrams = pa.LargeStringArray.from_buffers(len(hashes), pa.py_buffer(ends), pa.py_buffer(grams))
    return pa.RecordBatch.from_arrays([pa.array(rows[0]), pa.array(rows[1]), pa.array(hashes), ngrams], schema=FOUND)


def once(found: pa.RecordBatch) -> pa.RecordBatch:
    """Of the rows of `find`, for each text and n-gram the first."""
    codes = found["ngram"].dictionary_encode().indices.to_numpy().astype(np.int64)
    _, first = np.unique(found["text"].to_numpy() * (len(codes) + 1) + codes, return_index=True)
    return found.take(pa.array(np.sort(first)))


def distinct(hashes: Hashes) -> Hashes:
    """The different ones, sorted; of many different values faster than `np.unique`, which hashes them once more."""
    ordered = np.sort(hashes)
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


class HashSet:
    """A set of 64-bit hashes: a table of bits answers for most that are not in it, buckets by the highest bits for the rest."""

    BYTES = 24  # at most, for each hash

    def __init__(self, ordered: Hashes) -> None:
        size = max(10, len(ordered).bit_length())
        bits = _marked(ordered, np.zeros(1 << (size - 2), np.uint64))  # 16 to 32 bits for each hash
        shift = np.uint64(65 - size)  # a bucket holds one or two
        starts = np.searchsorted(ordered >> shift, np.arange((1 << (size - 1)) + 1, dtype=np.uint64))
        self.arrays = bits, ordered, starts, shift

    def contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Which of the hashes are in the set."""
        found: NDArray[np.bool_] = _contained(hashes, *self.arrays)
        return found


@_kernel
def _marked(hashes: Any, bits: Any) -> Any:
    last = np.uint64(len(bits) - 1)
    for value in hashes:
        bits[(value >> _B6) & last] |= _B1 << (value & _B63)
    return bits


@_kernel
def _places(hashes: Any, count: int, bits: Any, ordered: Any, starts: Any, shift: Any, places: Any) -> int:
    """Write the places of the first `count` hashes that are in the set to `places`, int64[>= count + 1]; their number."""
    last, likely = np.uint64(len(bits) - 1), 0
    for number in range(count):  # without a branch: what the table of bits lets pass cannot be foreseen
        value = hashes[number]
        places[likely] = number
        likely += (bits[(value >> _B6) & last] >> (value & _B63)) & _B1
    found = 0
    for entry in range(likely):
        number = places[entry]
        value = hashes[number]
        bucket = value >> shift
        for place in range(starts[bucket], starts[bucket + _B1]):
            if ordered[place] == value:
                places[found] = number
                found += 1
                break
    return found


@_kernel
def _contained(hashes: Any, bits: Any, ordered: Any, starts: Any, shift: Any) -> Any:
    found, places = np.zeros(len(hashes), np.bool_), np.empty(len(hashes) + 1, np.int64)
    found[places[: _places(hashes, len(hashes), bits, ordered, starts, shift, places)]] = True
    return found


@_kernel
def _mixed(value: Any) -> Any:
    value = (value ^ (value >> _B32)) * _ONE
    value = (value ^ (value >> _B29)) * _OTHER
    return value ^ (value >> _B32)


@_kernel
def _unit(normal: Any, at: Any, stop: Any) -> Any:
    """The hash of one unit: of at most eight bytes no two have the same."""
    value = np.uint64(0)
    while stop - at > _B8:
        value = _mixed(value ^ eight(normal, at))
        at += _B8
    return _mixed(value ^ (eight(normal, at) & (_ALL >> (_B64 - ((stop - at) << _B3)))))


@_kernel
def _roll(room: Any, units: int, n: int, mix: Any, of_unit: Any, hashes: Any) -> int:
    """Write the hashes of the n-grams of a text that `_units.normalise` has just written to `room`; their number."""
    power = _B1
    for _ in range(n):
        power *= _BASE
    for number in range(units):
        start, behind = np.uint64(room.starts[number]), np.uint64(room.starts[number + 1])
        of_unit[number] = _unit(room.normal, start, behind - _B1)
    value = np.uint64(0)
    for number in range(units):
        value = value * _BASE + of_unit[number]
        if number >= n:
            value -= of_unit[number - n] * power
        if number >= n - 1:
            last = (value ^ (value >> _B32)) * mix
            hashes[number - n + 1] = last ^ (last >> _B32)
    return max(0, units - n + 1)


@_kernel
def _all_hashes(text: Any, offsets: Any, n: int, mix: Any, table: Any) -> Any:
    most = _units.longest(offsets)
    room, of_unit = _units.rooms(most), np.empty(most + 1, np.uint64)
    hashes = np.empty(max(offsets[-1] - offsets[0], 0) + 1, np.uint64)
    splits = np.zeros(len(offsets), np.int64)
    for number in range(len(offsets) - 1):
        units, _ = _units.normalise(text, offsets[number], offsets[number + 1], table, room)
        filled = splits[number]
        splits[number + 1] = filled + _roll(room, units, n, mix, of_unit, hashes[filled:])
    return hashes[: splits[-1]].copy(), splits


@_kernel
def _find(text: Any, offsets: Any, n: int, mix: Any, table: Any, bits: Any, ordered: Any, starts: Any, shift: Any) -> Any:
    most = _units.longest(offsets)
    room, of_unit, hashes = _units.rooms(most), np.empty(most + 1, np.uint64), np.empty(most + 1, np.uint64)
    places = np.empty(most + 2, np.int64)
    rows, values, ends = np.empty((2, _ROOM), np.int64), np.empty(_ROOM, np.uint64), np.zeros(_ROOM + 1, np.int64)
    grams = np.empty(64 * _ROOM, np.uint8)
    found = 0
    for number in range(len(offsets) - 1):
        units, _ = _units.normalise(text, offsets[number], offsets[number + 1], table, room)
        count = _roll(room, units, n, mix, of_unit, hashes)
        for place in places[: _places(hashes, count, bits, ordered, starts, shift, places)]:
            if found == len(values):
                rows = np.concatenate((rows, np.empty_like(rows)), 1)
                values, ends = np.append(values, np.empty_like(values)), np.append(ends, np.empty(found, np.int64))
            begin, size = room.starts[place], room.starts[place + n] - 1 - room.starts[place]
            while ends[found] + size > len(grams):
                grams = np.append(grams, np.empty_like(grams))
            grams[ends[found] : ends[found] + size] = room.normal[begin : begin + size]
            rows[0, found], rows[1, found], values[found] = number, place, hashes[place]
            ends[found + 1] = ends[found] + size
            found += 1
    return rows[:, :found].copy(), values[:found].copy(), ends[: found + 1].copy(), grams[: ends[found]].copy()

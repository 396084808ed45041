"""The units and n-grams of `_ngrams` for whole Arrow columns: numba kernels over UTF-8 bytes, equal to it bit for bit.

A text is normalised to its units joined by blanks, so that an n-gram is a slice of it: the same bytes as `_ngrams.ngrams` gives
as a string. Its hash is XXH64 of these bytes (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md).
"""

from __future__ import annotations

import re
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages import _jit, _ngrams, _vectors, _xxh64
from stages._vectors import BLOCK, SLACK
from stages._xxh64 import Lanes, digest, xxh64

__all__ = [
    "Room",
    "Tables",
    "capped",
    "characters",
    "digest",
    "fingerprint",
    "fingerprints",
    "hash_normalised",
    "longest",
    "ngram_hashes",
    "normalise",
    "rooms",
    "tables",
    "utf8",
    "xxh64",
]

GROWTH = 3  # normalised bytes for each byte of a text, at most, and one more
_POINTS = 0x40000  # no letter or digit stands above, nor does anything there fold
_APART, _SINGLE, _WORD, _DROPPED, _FOLDED = range(5)
_BLANK = 32

_HIGH, _ALL = np.uint64(0x8080808080808080), np.uint64(0xFFFFFFFFFFFFFFFF)
_B0, _B1, _B2, _B3, _B4, _B6, _B12 = map(np.uint64, (0, 1, 2, 3, 4, 6, 12))
_B15, _B63, _BLOCK, _SLACK = map(np.uint64, (15, 63, BLOCK, SLACK))

_kernel = _jit.kernels(__file__, _xxh64.__file__, _vectors.__file__)


class Tables(NamedTuple):
    """What becomes of each code point: its kind, and the code points that it folds to; and a short cut for most bytes."""

    kind: NDArray[np.uint8]
    folding: NDArray[np.uint32]
    splits: NDArray[np.int64]
    folded: NDArray[np.uint32]
    ascii: NDArray[np.uint8]  # by byte: a folded letter or digit, a blank for what is apart, 0 for what needs a closer look


class Room(NamedTuple):
    """What `normalise` writes of a text, and what it and `hash_normalised` need besides.

    Units i to j - 1, joined by blanks, are normal[starts[i] : starts[j] - 1].
    """

    normal: NDArray[np.uint8]  # the units, casefolded, a blank behind each
    starts: NDArray[np.int64]  # where each unit begins, and one more, as if another unit followed
    block: NDArray[np.uint8]
    lanes: Lanes


@cache
def tables() -> Tables:
    """The tables of this Python's Unicode version."""
    return Tables(**_jit.kept("units", _tables, __file__, _ngrams.__file__))


def _tables() -> dict[str, NDArray[Any]]:
    """The fields of `Tables`, made from the definitions in `_ngrams`."""
    text = "".join(map(chr, range(_POINTS)))
    kind = np.zeros(_POINTS, np.uint8)
    for run in re.finditer(rf"[{_ngrams.SINGLE}]+|[^\W_{_ngrams.SINGLE}]+", text):
        kind[run.start() : run.end()] = _SINGLE if _ngrams.is_unspaced(run[0]) else _WORD
    folding = [point for point, character in enumerate(text) if character.casefold() != character]
    folded = [list(map(ord, text[point].casefold())) for point in folding]
    plain = [ord(text[byte].casefold()) if kind[byte] == _WORD else _BLANK for byte in range(128)]
    kind[folding] = _FOLDED
    kind[list(_ngrams.APOSTROPHES)] = _DROPPED
    ascii_ = np.array([0 if kind[byte] == _DROPPED else plain[byte] for byte in range(128)] + [0] * 128, np.uint8)
    splits = np.cumsum([0, *map(len, folded)], dtype=np.int64)
    points, parts = np.array(folding, np.uint32), np.array(list(chain(*folded)), np.uint32)
    return {"kind": kind, "folding": points, "splits": splits, "folded": parts, "ascii": ascii_}


def utf8(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of a string or large_string array without nulls, and the n + 1 places where its values begin and end."""
    if texts.null_count:
        raise ValueError(f"{texts.null_count} values are null")
    wide = pa.types.is_large_string(texts.type)
    _, places, data = texts.buffers()
    stored = np.frombuffer(places, np.int64 if wide else np.int32, len(texts) + 1 + texts.offset)[texts.offset :]
    values, offsets = np.frombuffer(data or b"", np.uint8), stored.astype(np.int64, copy=False)
    values.setflags(write=False)  # of whatever buffers they come: a kernel is compiled for each kind of array by itself
    offsets.setflags(write=False)
    return values, offsets


def ngram_hashes(texts: pa.Array, sizes: NDArray[np.int64], limit: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """XXH64 of every n-gram of every text, in order.

    Args:
        texts: string array of m texts.
        sizes: n for each text, int64[m].
        limit: characters of a text that are looked at.

    Returns:
        hashes: all texts' hashes, one text after the other; that of a text with fewer than n units is one hash of all its
            units joined by blanks, that of a text without units one of the text itself, as in `_ngrams.shingles`.
        splits: where each text's hashes begin and end, int64[m + 1].
    """
    data, offsets = utf8(texts)
    result: tuple[NDArray[np.uint64], NDArray[np.int64]] = _ngram_hashes(data, offsets, sizes, limit, tables())
    return result


def fingerprints(texts: pa.Array, seeds: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """128 bits that texts share where their sequences of units are equal (or, without units, the texts themselves).

    Args:
        texts: string array of m texts.
        seeds: texts with different seeds never share a fingerprint, uint64[m].

    Returns:
        fingerprints: uint64[m, 2], XXH64 of the units joined by blanks, with the seed and with the seed plus one.
        units: of each text, int64[m].
    """
    data, offsets = utf8(texts)
    result: tuple[NDArray[np.uint64], NDArray[np.int64]] = _fingerprints(data, offsets, seeds, tables())
    return result


@_kernel
def _decode(text: Any, at: Any, stop: Any) -> Any:
    """The code point that begins at `at` and the place behind it; 0, a separator, for a byte that begins none."""
    lead = np.uint32(text[at])
    if lead < 0x80:
        return lead, at + _B1
    if lead < 0xC2 or lead > 0xF4:
        return np.uint32(0), at + _B1
    size = _B2 if lead < 0xE0 else _B3 if lead < 0xF0 else _B4
    if at + size > stop:
        return np.uint32(0), at + _B1
    second = np.uint32(text[at + _B1]) & np.uint32(0x3F)
    if size == _B2:
        return np.uint32((lead & np.uint32(0x1F)) << np.uint32(6)) | second, at + size
    third = np.uint32(second << np.uint32(6)) | (np.uint32(text[at + _B2]) & np.uint32(0x3F))
    if size == _B3:
        return np.uint32((lead & np.uint32(0x0F)) << np.uint32(12)) | third, at + size
    fourth = np.uint32(third << np.uint32(6)) | (np.uint32(text[at + _B3]) & np.uint32(0x3F))
    return np.uint32((lead & np.uint32(0x07)) << np.uint32(18)) | fourth, at + size


@_kernel
def _encode(point: Any, normal: Any, length: Any) -> Any:
    """Write a code point as UTF-8 behind normal[:length] and return the new length."""
    if point < 0x80:
        normal[length] = point
        return length + _B1
    size = _B2 if point < 0x800 else _B3 if point < 0x10000 else _B4
    last = size - _B1
    for step in range(last):
        normal[length + last - np.uint64(step)] = 0x80 | (point & np.uint32(0x3F))
        point >>= np.uint32(6)
    normal[length] = (np.uint32(0xF00) >> np.uint32(size)) & np.uint32(0xFF) | point
    return length + size


@_kernel
def _append(point: Any, kind: Any, units: Any, length: Any, inside: Any, normal: Any, starts: Any) -> Any:
    """Add a folded code point: (units, length, 1 where a word is open)."""
    if kind == _DROPPED:
        return units, length, inside
    if kind != _WORD:
        normal[length] = 32
        length += inside  # ends the open word, if one is
        inside = _B0
    if kind == _APART:
        return units, length, inside
    starts[units] = length
    units += _B1 - inside
    length = _encode(point, normal, length)
    if kind == _WORD:
        return units, length, _B1
    normal[length] = 32
    return units, length + _B1, _B0


@_kernel
def _plain(text: Any, at: Any, stop: Any, room: Any, units: Any, length: Any, inside: Any) -> Any:
    """Take ASCII text from `at` to what needs a closer look, in blocks: the place behind it, (units, length, inside)."""
    special = _B0
    while stop - at >= _BLOCK and special == _B0:
        letters, special = _vectors.letters(text, at, room.block)
        size = _vectors.lowest(special)
        keep = _ALL >> (_BLOCK - size)
        letters &= keep
        edges = (letters ^ ((letters << _B1) | inside)) & keep  # where words begin and end, by turns
        begin = _B0
        if not inside:
            begin = _vectors.lowest(edges)
            edges &= edges - _B1
        while begin < size:
            end = min(_vectors.lowest(edges), size)
            _vectors.move(room.block, begin, room.normal, length)
            if end - begin > _SLACK:
                _vectors.move(room.block, begin + _SLACK, room.normal, length + _SLACK)
            room.starts[units] = length
            units += _B1 - inside
            length += end - begin
            room.normal[length] = _BLANK
            inside = np.uint64(edges == _B0)
            length += _B1 - inside
            edges &= edges - _B1
            begin = _vectors.lowest(edges)
            edges &= edges - _B1
        at += size
    return at, units, length, inside


@_kernel
def normalise(text: Any, begin: int, end: int, table: Any, room: Any) -> Any:
    """The units of text[begin:end] (UTF-8), casefolded.

    Args:
        text: uint8, of many texts.
        begin: first byte of this one.
        end: behind its last byte.
        table: of `tables`.
        room: of `rooms`, which is filled.

    Returns:
        The number of units, and the length of all units joined by blanks.
    """
    normal, starts = room.normal, room.starts
    units, length, inside, at, stop = _B0, _B0, _B0, np.uint64(begin), np.uint64(end)
    while at < stop:
        lead = np.uint64(text[at])
        value = table.ascii[lead]
        if value >= _BLANK:
            if stop - at >= _BLOCK and _xxh64.eight(text, at) & _HIGH == _B0:
                at, units, length, inside = _plain(text, at, stop, room, units, length, inside)
                continue
            letter = _B1 if value > _BLANK else _B0  # without branches: a letter is written, a blank only behind a word
            normal[length] = value
            starts[units] = length
            units += letter & ~inside
            length += letter | inside
            inside = letter
            at += _B1
            continue
        if lead >> _B4 == 14 and stop - at >= _B3:  # three bytes: nearly all of a Chinese text, by another short cut
            one, two, three = text[at], text[at + _B1], text[at + _B2]
            kind = table.kind[(lead & _B15) << _B12 | (np.uint64(two) & _B63) << _B6 | np.uint64(three) & _B63]
            if kind <= _SINGLE:
                normal[length] = _BLANK
                length += inside
                inside = _B0
                starts[units] = length
                normal[length], normal[length + _B1], normal[length + _B2], normal[length + _B3] = one, two, three, _BLANK
                units += _B1 if kind == _SINGLE else _B0
                length += _B4 if kind == _SINGLE else _B0
                at += _B3
                continue
        point, at = _decode(text, at, stop)
        kind = table.kind[point] if point < _POINTS else _APART
        if kind != _FOLDED:
            units, length, inside = _append(point, kind, units, length, inside, normal, starts)
            continue
        entry = np.searchsorted(table.folding, point)
        for part in range(table.splits[entry], table.splits[entry + 1]):
            point = table.folded[part]
            units, length, inside = _append(point, table.kind[point], units, length, inside, normal, starts)
    if inside:
        normal[length] = _BLANK
        length += _B1
    starts[units] = length
    return np.int64(units), np.int64(length) - 1


@_kernel
def hash_normalised(text: Any, begin: int, end: int, size: int, room: Any, units: int, length: int, hashes: Any) -> int:
    """Write XXH64 of every n-gram (n = `size`) of a text to `hashes`, uint64[>= bytes + 1], and return their number.

    `normalise` has just written text[begin:end] to `room` and given `units` and `length`. See `ngram_hashes`.
    """
    if units < size:
        hashes[0] = xxh64(room.normal, 0, length, _B0) if units else xxh64(text, begin, end, _B0)
        return 1
    count = units - size + 1
    _xxh64.hash_runs(room.normal, room.starts, size, count, room.lanes, hashes)
    return count


@_kernel
def characters(text: Any, begin: int, end: int) -> int:
    """Code points of text[begin:end]."""
    count = 0
    for at in range(np.uint64(begin), np.uint64(end)):
        count += text[at] & 0xC0 != 0x80
    return count


@_kernel
def capped(text: Any, begin: int, end: int, limit: int) -> int:
    """Behind the last byte of the first `limit` characters of text[begin:end]."""
    if end - begin <= limit or characters(text, begin, end) <= limit:
        return end
    left = limit
    for at in range(begin, end):
        if text[at] & 0xC0 != 0x80:
            if left == 0:
                return at
            left -= 1
    return end


@_kernel
def longest(offsets: Any) -> int:
    """Bytes of the longest text."""
    most = 0
    for number in range(len(offsets) - 1):
        most = max(most, offsets[number + 1] - offsets[number])
    return most


@_kernel
def rooms(most: int) -> Any:
    """Room for a text of `most` bytes."""
    normal, block = np.empty(GROWTH * most + 1 + SLACK, np.uint8), np.empty(BLOCK + SLACK, np.uint8)
    return Room(normal, np.empty(most + 2, np.int64), block, _xxh64.lanes())


@_kernel
def _ngram_hashes(text: Any, offsets: Any, sizes: Any, limit: int, table: Any) -> Any:
    room = rooms(longest(offsets))
    hashes = np.empty(max(offsets[-1] - offsets[0], 0) + len(sizes), np.uint64)
    splits = np.zeros(len(offsets), np.int64)
    for number in range(len(sizes)):
        begin, filled = offsets[number], splits[number]
        end = capped(text, begin, offsets[number + 1], limit)
        units, length = normalise(text, begin, end, table, room)
        count = hash_normalised(text, begin, end, sizes[number], room, units, length, hashes[filled:])
        splits[number + 1] = filled + count
    return hashes[: splits[-1]].copy(), splits


@_kernel
def fingerprint(text: Any, begin: int, end: int, room: Any, units: int, length: int, seed: Any) -> Any:
    """The two halves of `fingerprints` of a text that `normalise` has just written to `room`."""
    if units:
        return xxh64(room.normal, 0, length, seed), xxh64(room.normal, 0, length, seed + _B1)
    return xxh64(text, begin, end, seed), xxh64(text, begin, end, seed + _B1)


@_kernel
def _fingerprints(text: Any, offsets: Any, seeds: Any, table: Any) -> Any:
    room = rooms(longest(offsets))
    found, units = np.empty((len(seeds), 2), np.uint64), np.empty(len(seeds), np.int64)
    for number in range(len(seeds)):
        begin, end = offsets[number], offsets[number + 1]
        units[number], length = normalise(text, begin, end, table, room)
        found[number] = fingerprint(text, begin, end, room, units[number], length, seeds[number])
    return found, units

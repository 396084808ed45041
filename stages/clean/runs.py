"""Runs of bytes in a document, its units or its lines: which of them are equal."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from stages._jit import kernels

EXACT = 7  # bytes that a key holds as they are
PRIME = -7046029254386353131  # 2 ** 64 / golden ratio, odd
_HASHED = np.int64(-(1 << 63))  # the sign of a key that is a hash
# Of eight bytes in one number; unsigned, as sums may reach the highest bit.
_LOWEST, _HIGHEST, _SMALL = (np.uint64(0x0101010101010101 * byte) for byte in (0x01, 0x80, 0x20))
_FROM_A, _BEHIND_Z, _FROM_0, _BEHIND_9 = (np.uint64(0x0101010101010101 * (0x80 - byte)) for byte in (0x61, 0x7B, 0x30, 0x3A))
_BELOW = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)  # the first bytes of eight
_ONE, _SEVEN, _FIFTY_SIX = np.uint64(1), np.uint64(7), np.uint64(56)
_SLOTS = 16

_jit = kernels(__file__)
inlined = numba.njit(inline="always")  # for small functions of arrays: a call counts references to each, which takes longer


class Runs(NamedTuple):
    """Runs in the order of the document; rooms that are filled again for every document.

    Attributes:
        keys: int64, see `run_key`.
        starts: int64, places in the buffer.
        sizes: int64, bytes.
        lengths: int64, characters.
    """

    keys: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


@inlined
def enter(runs, index, key, start, size, length):  # type: ignore[no-untyped-def]
    """Make an entry."""
    runs.keys[index], runs.starts[index], runs.sizes[index], runs.lengths[index] = key, start, size, length


def byte_key(run: bytes) -> int:
    """What `run_key` gives for a run of at most `EXACT` bytes."""
    return int.from_bytes(run, "little") | len(run) << 8 * EXACT


@inlined
def run_key(buffer, start, end):  # type: ignore[no-untyped-def]
    """What equal runs have in common: a few bytes and their number themselves, or a hash, which is negative."""
    size = end - start
    key = np.int64(0)
    if size <= EXACT:
        for offset in range(size):
            key |= np.int64(buffer[start + offset]) << 8 * offset
        return key | size << 8 * EXACT
    for place in range(start, end - 8, 8):
        key = _mixed(key ^ np.int64(eight_bytes(buffer, place)))
    return _mixed(key ^ np.int64(eight_bytes(buffer, end - 8)) ^ size) | _HASHED


@inlined
def ascii_word(buffer, place, end):  # type: ignore[no-untyped-def]
    """ASCII letters and digits from `place` on, at most eight and none behind `end`: how many, how many letters, their key.

    All eight bytes are judged at once, the highest bit of each saying whether it is one: words end everywhere, and a processor
    guesses wrongly where.
    """
    if place + 8 > len(buffer):
        return _last_word(buffer, place, end)
    eight = eight_bytes(buffer, place)
    bits = eight & ~_HIGHEST
    small = bits | _SMALL
    letters = (small + _FROM_A) & ~(small + _BEHIND_Z)
    digits = (bits + _FROM_0) & ~(bits + _BEHIND_9)
    words = (letters | digits) & ~eight & _HIGHEST
    others = words ^ _HIGHEST
    size = min(_ones((others - _ONE) & ~others & _HIGHEST), end - place)  # of the bits below the lowest of the others
    inside = _BELOW[size]
    return size, _ones(letters & words & inside), np.int64(eight & inside) | size << 8 * EXACT


@_jit
def _last_word(buffer, place, end):  # type: ignore[no-untyped-def]
    """The same byte by byte, where there are no eight bytes."""
    size = letters = 0
    key = np.int64(0)
    while size < 8 and place + size < end:
        byte = np.int64(buffer[place + size])
        letter = 0x61 <= byte | 0x20 <= 0x7A
        if not letter and not 0x30 <= byte <= 0x39:
            break
        letters += 1 if letter else 0
        key |= byte << 8 * size
        size += 1
    return size, letters, key | size << 8 * EXACT


@inlined
def _ones(marks):  # type: ignore[no-untyped-def]
    """How many bytes have their highest bit set, where no other bit is: their sum, in the highest byte of the product."""
    return np.int64(((marks >> _SEVEN) * _LOWEST) >> _FIFTY_SIX)


@inlined
def _mixed(value):  # type: ignore[no-untyped-def]
    value *= PRIME
    return value ^ (value >> 32)


@inlined
def eight_bytes(buffer, place):  # type: ignore[no-untyped-def]
    """Eight bytes as one number: the compiler makes one load of them."""
    at, value = np.uint64(place), np.uint64(0)
    for index in range(8):
        value |= np.uint64(buffer[at + np.uint64(index)]) << np.uint64(8 * index)
    return value


@_jit
def slots(entries):  # type: ignore[no-untyped-def]
    """Size of an open-addressing table of so many entries."""
    size = _SLOTS
    while size < 2 * entries:
        size *= 2
    return size


@inlined
def cleared(table, entries):  # type: ignore[no-untyped-def]
    """Empty as much of the table as `entries` need; the mask of that part."""
    size = slots(entries)
    table[:size] = -1
    return size - 1


@inlined
def slot_of(key, mask):  # type: ignore[no-untyped-def]
    """Where to look for a key first."""
    key *= PRIME
    return (key >> 32) & mask


@_jit
def first_equal(buffer, runs, number, table, first, uses):  # type: ignore[no-untyped-def]
    """first[i]: the earliest run with the same bytes as run i; uses[i], where that is i itself: how many there are."""
    keys, starts, sizes = runs.keys, runs.starts, runs.sizes
    mask = cleared(table, number)
    for i in range(number):
        key = keys[i]
        slot = slot_of(key, mask)
        j = table[slot]
        while j >= 0 and not (keys[j] == key and (key >= 0 or _equal(buffer, starts[j], sizes[j], starts[i], sizes[i]))):
            slot = (slot + 1) & mask
            j = table[slot]
        if j < 0:
            table[slot] = j = i
            uses[i] = 0
        first[i] = j
        uses[j] += 1


@inlined
def _equal(buffer, left, left_size, right, right_size):  # type: ignore[no-untyped-def]
    if left_size != right_size:
        return False
    for offset in range(left_size):  # noqa: SIM110 (numba has no generators to give to all)
        if buffer[left + offset] != buffer[right + offset]:
            return False
    return True

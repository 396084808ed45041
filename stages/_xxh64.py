"""XXH64 (Collet, "xxHash fast digest algorithm", specification 0.1.1) for kernels: of one run of bytes, and of many at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages import _jit, _vectors

_P1, _P2, _P3 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
_P4, _P5 = np.uint64(0x85EBCA77C2B2AE63), np.uint64(0x27D4EB2F165667C5)
_B0, _B1, _B2, _B3, _B4 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
_B5, _B6, _B7, _B8 = np.uint64(5), np.uint64(6), np.uint64(7), np.uint64(8)
_B11, _B12, _B16, _B18, _B23 = np.uint64(11), np.uint64(12), np.uint64(16), np.uint64(18), np.uint64(23)
_B24, _B27, _B29, _B31, _B32, _B33 = np.uint64(24), np.uint64(27), np.uint64(29), np.uint64(31), np.uint64(32), np.uint64(33)
_B40, _B48, _B56, _B64 = np.uint64(40), np.uint64(48), np.uint64(56), np.uint64(64)
_BYTE, _HALF = np.uint64(0xFF), np.uint64(0xFFFFFFFF)
_AT_ONCE = 256  # runs: what is held of them stays in the first-level cache

_kernel = _jit.kernels(__file__, _vectors.__file__)


class Lanes(NamedTuple):
    """Room for `hash_runs`, for up to `_AT_ONCE` runs."""

    value: NDArray[np.uint64]  # what is hashed of each so far
    left: NDArray[np.uint64]  # bytes that are left to hash, fewer than 32
    tail: NDArray[np.uint64]  # 32 bytes from where these begin, [runs, 4]
    head: NDArray[np.uint64]  # the first 32 bytes of each run that has as many, [long runs, 4]
    begun: NDArray[np.uint64]  # what is hashed of these bytes
    long: NDArray[np.int64]  # numbers of these runs


def digest(data: bytes, seed: int = 0) -> int:
    """XXH64 of some bytes."""
    return int(xxh64(np.frombuffer(data, np.uint8), 0, len(data), np.uint64(seed)))


@_kernel
def lanes() -> Any:
    """Room for `hash_runs`."""
    value, left, long = np.empty(_AT_ONCE, np.uint64), np.empty(_AT_ONCE, np.uint64), np.empty(_AT_ONCE, np.int64)
    tail, head, begun = np.empty(4 * _AT_ONCE, np.uint64), np.empty(4 * _AT_ONCE, np.uint64), np.empty(_AT_ONCE, np.uint64)
    return Lanes(value, left, tail, head, begun, long)


@_kernel
def _rotate(value: Any, bits: Any) -> Any:
    return (value << bits) | (value >> (_B64 - bits))


@_kernel
def _four(data: Any, at: Any) -> Any:
    low = np.uint64(data[at]) | (np.uint64(data[at + _B1]) << _B8)
    return low | (np.uint64(data[at + _B2]) << _B16) | (np.uint64(data[at + _B3]) << _B24)


@_kernel
def eight(data: Any, at: Any) -> Any:
    """Eight bytes (uint8) as a little-endian uint64; becomes one load."""
    low = _four(data, at) | (np.uint64(data[at + _B4]) << _B32) | (np.uint64(data[at + _B5]) << _B40)
    return low | (np.uint64(data[at + _B6]) << _B48) | (np.uint64(data[at + _B7]) << _B56)


@_kernel
def _round(lane: Any, value: Any) -> Any:
    return _rotate(lane + value * _P2, _B31) * _P1


@_kernel
def _take_8(value: Any, data: Any) -> Any:
    return _rotate(value ^ _round(_B0, data), _B27) * _P1 + _P4


@_kernel
def _take_4(value: Any, data: Any) -> Any:
    return _rotate(value ^ (data * _P1), _B23) * _P2 + _P3


@_kernel
def _take_1(value: Any, data: Any) -> Any:
    return _rotate(value ^ (data * _P5), _B11) * _P1


@_kernel
def _merge(one: Any, two: Any, three: Any, four: Any) -> Any:
    value = _rotate(one, _B1) + _rotate(two, _B7) + _rotate(three, _B12) + _rotate(four, _B18)
    for lane in (one, two, three, four):
        value = (value ^ _round(_B0, lane)) * _P1 + _P4
    return value


@_kernel
def _stripes(data: Any, at: Any, total: Any, seed: Any) -> Any:
    """What has been hashed of `total` >= 32 bytes when fewer than 32 are left."""
    one, two, three, four = seed + _P1 + _P2, seed + _P2, seed, seed - _P1
    for place in range(at, at + (total & ~(_B32 - _B1)), _B32):
        one, two = _round(one, eight(data, place)), _round(two, eight(data, place + _B8))
        three, four = _round(three, eight(data, place + _B16)), _round(four, eight(data, place + _B24))
    return _merge(one, two, three, four) + total


@_kernel
def _choose(condition: Any, one: Any, other: Any) -> Any:
    return one if condition else other


@_kernel
def _avalanche(value: Any) -> Any:
    value = (value ^ (value >> _B33)) * _P2
    value = (value ^ (value >> _B29)) * _P3
    return value ^ (value >> _B32)


@_kernel
def xxh64(data: Any, begin: int, end: int, seed: Any) -> Any:
    """XXH64 of data[begin:end] (uint8) with a uint64 seed."""
    at, stop = np.uint64(begin), np.uint64(end)  # unsigned: numba need not ask whether an index counts from the end
    total = stop - at
    value = _stripes(data, at, total, seed) if total >= _B32 else seed + _P5 + total
    at += total & ~(_B32 - _B1)
    while stop - at >= _B8:
        value = _take_8(value, eight(data, at))
        at += _B8
    if stop - at >= _B4:
        value = _take_4(value, _four(data, at))
        at += _B4
    while at < stop:
        value = _take_1(value, np.uint64(data[at]))
        at += _B1
    return _avalanche(value)


@_kernel
def hash_sixteens(data: Any, seed: Any, hashes: Any) -> None:
    """XXH64 of data[16 * i : 16 * i + 16] (uint8) for all i < len(hashes), as `xxh64` gives it; several at a time."""
    for number in range(len(hashes)):
        first, second = eight(data, np.uint64(16 * number)), eight(data, np.uint64(16 * number + 8))
        hashes[number] = _avalanche(_take_8(_take_8(seed + _P5 + _B16, first), second))


@_kernel
def hash_runs(data: Any, starts: Any, step: int, count: int, room: Any, hashes: Any) -> None:
    """XXH64 (seed 0) of the runs data[starts[i] : starts[i + step] - 1], i = 0 to `count` - 1, written to `hashes`.

    As `xxh64` gives it, but without branches that depend on a run's length, so that several runs go through each instruction.

    Args:
        data: uint8; `_vectors.SLACK` bytes must follow the last run.
        starts: int64[>= count + step], ascending.
        step: see above.
        count: of runs.
        room: of `lanes`.
        hashes: uint64[>= count].
    """
    for begin in range(0, count, _AT_ONCE):
        end = min(count, begin + _AT_ONCE)
        long = _collect(data, starts, step, begin, end, room)
        _stripe(data, starts, step, begin, long, room)
        _finish(room, hashes[begin:end])


@_kernel
def _collect(data: Any, starts: Any, step: int, begin: int, end: int, room: Any) -> Any:
    """Fill the room, but for what is hashed of long runs; gives their number."""
    long, first, behind = _B0, np.uint64(begin), np.uint64(begin + step)
    for number in range(np.uint64(end - begin)):
        at = np.uint64(starts[first + number])
        total = np.uint64(starts[behind + number]) - _B1 - at
        _vectors.move(data, at, room.head, _B4 * long)
        room.long[long] = number
        long += np.uint64(total >= _B32)
        room.value[number], room.left[number] = _P5 + total, total & (_B32 - _B1)
        _vectors.move(data, at + (total & ~(_B32 - _B1)), room.tail, _B4 * number)
    return long


@_kernel
def _stripe(data: Any, starts: Any, step: int, begin: int, long: Any, room: Any) -> None:
    """What is hashed of long runs when fewer than 32 bytes are left."""
    head = room.head
    for entry in range(np.int64(long)):
        one, two = _round(_P1 + _P2, head[4 * entry]), _round(_P2, head[4 * entry + 1])
        three, four = _round(_B0, head[4 * entry + 2]), _round(_B0 - _P1, head[4 * entry + 3])
        room.begun[entry] = _merge(one, two, three, four) - _P5
    for entry in range(long):
        number = room.long[entry]
        value = room.value[number] + room.begun[entry]  # there stands what is hashed of a short run: _P5 and its length
        total = room.value[number] - _P5
        if total >= _B32 + _B32:
            value = _stripes(data, np.uint64(starts[begin + number]), total, _B0)
        room.value[number] = value


@_kernel
def _finish(room: Any, hashes: Any) -> None:
    tail = room.tail
    for number in range(len(hashes)):
        value, left = room.value[number], room.left[number]
        first, second, third, last = tail[4 * number], tail[4 * number + 1], tail[4 * number + 2], tail[4 * number + 3]
        value = _choose(left >= _B8, _take_8(value, first), value)
        value = _choose(left >= _B16, _take_8(value, second), value)
        value = _choose(left >= _B24, _take_8(value, third), value)
        last = _choose(left >= _B24, last, _choose(left >= _B16, third, _choose(left >= _B8, second, first)))
        value = _choose(left & _B4, _take_4(value, last & _HALF), value)
        last >>= (left & _B4) << _B3
        left &= _B3
        value = _choose(left >= _B1, _take_1(value, last & _BYTE), value)
        value = _choose(left >= _B2, _take_1(value, (last >> _B8) & _BYTE), value)
        value = _choose(left >= _B3, _take_1(value, (last >> _B16) & _BYTE), value)
        hashes[number] = _avalanche(value)

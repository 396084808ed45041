"""XXH64 (Collet, "xxHash fast digest algorithm", specification 0.1.1) for kernels: of one run of bytes, and of many at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages import _jit

_P1, _P2, _P3 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
_P4, _P5 = np.uint64(0x85EBCA77C2B2AE63), np.uint64(0x27D4EB2F165667C5)
_B0, _B1, _B2, _B3, _B4 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
_B5, _B6, _B7, _B8 = np.uint64(5), np.uint64(6), np.uint64(7), np.uint64(8)
_B11, _B12, _B16, _B18, _B23 = np.uint64(11), np.uint64(12), np.uint64(16), np.uint64(18), np.uint64(23)
_B24, _B27, _B29, _B31, _B32, _B33 = np.uint64(24), np.uint64(27), np.uint64(29), np.uint64(31), np.uint64(32), np.uint64(33)
_B40, _B48, _B56, _B64 = np.uint64(40), np.uint64(48), np.uint64(56), np.uint64(64)
_BYTE, _HALF = np.uint64(0xFF), np.uint64(0xFFFFFFFF)
_AT_ONCE = 256  # runs: what is held of them stays in the first-level cache

_kernel = _jit.kernels(__file__)


class Lanes(NamedTuple):
    """Room for `hash_runs`, for up to `_AT_ONCE` runs: what is hashed of each so far, and what of it is left to hash."""

    value: NDArray[np.uint64]
    left: NDArray[np.uint64]  # bytes, fewer than 32
    first: NDArray[np.uint64]  # 8 bytes from where these begin, and so on
    second: NDArray[np.uint64]
    third: NDArray[np.uint64]
    last: NDArray[np.uint64]  # 8 bytes from where fewer than 8 are left
    long: NDArray[np.int64]  # numbers of the runs of 32 bytes and more


def digest(data: bytes, seed: int = 0) -> int:
    """XXH64 of some bytes."""
    return int(xxh64(np.frombuffer(data, np.uint8), 0, len(data), np.uint64(seed)))


@_kernel
def lanes() -> Any:
    """Room for `hash_runs`."""
    one, two, three = np.empty(_AT_ONCE, np.uint64), np.empty(_AT_ONCE, np.uint64), np.empty(_AT_ONCE, np.uint64)
    four, five, six = np.empty(_AT_ONCE, np.uint64), np.empty(_AT_ONCE, np.uint64), np.empty(_AT_ONCE, np.uint64)
    return Lanes(one, two, three, four, five, six, np.empty(_AT_ONCE, np.int64))


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
def _stripes(data: Any, at: Any, total: Any, seed: Any) -> Any:
    """What has been hashed of `total` >= 32 bytes when fewer than 32 are left."""
    one, two, three, four = seed + _P1 + _P2, seed + _P2, seed, seed - _P1
    for place in range(at, at + (total & ~(_B32 - _B1)), _B32):
        one, two = _round(one, eight(data, place)), _round(two, eight(data, place + _B8))
        three, four = _round(three, eight(data, place + _B16)), _round(four, eight(data, place + _B24))
    value = _rotate(one, _B1) + _rotate(two, _B7) + _rotate(three, _B12) + _rotate(four, _B18)
    for lane in (one, two, three, four):
        value = (value ^ _round(_B0, lane)) * _P1 + _P4
    return value + total


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
        _collect(data, starts, step, begin, end, room)
        _finish(room, hashes[begin:end])


@_kernel
def _collect(data: Any, starts: Any, step: int, begin: int, end: int, room: Any) -> None:
    long: Any = 0
    for number in range(end - begin):
        at = np.uint64(starts[begin + number])
        total = np.uint64(starts[begin + number + step]) - _B1 - at
        room.long[long] = number
        long += total >= _B32
        room.value[number], room.left[number] = _P5 + total, total & (_B32 - _B1)
        at += total & ~(_B32 - _B1)
        room.first[number], room.second[number] = eight(data, at), eight(data, at + _B8)
        room.third[number], room.last[number] = eight(data, at + _B16), eight(data, at + (total & _B24))
    for entry in range(long):
        number = room.long[entry]
        at = np.uint64(starts[begin + number])
        room.value[number] = _stripes(data, at, np.uint64(starts[begin + number + step]) - _B1 - at, _B0)


@_kernel
def _finish(room: Any, hashes: Any) -> None:
    for number in range(len(hashes)):
        value, left, last = room.value[number], room.left[number], room.last[number]
        value = _choose(left >= _B8, _take_8(value, room.first[number]), value)
        value = _choose(left >= _B16, _take_8(value, room.second[number]), value)
        value = _choose(left >= _B24, _take_8(value, room.third[number]), value)
        value = _choose(left & _B4, _take_4(value, last & _HALF), value)
        last >>= (left & _B4) << _B3
        left &= _B3
        value = _choose(left >= _B1, _take_1(value, last & _BYTE), value)
        value = _choose(left >= _B2, _take_1(value, (last >> _B8) & _BYTE), value)
        value = _choose(left >= _B3, _take_1(value, (last >> _B16) & _BYTE), value)
        hashes[number] = _avalanche(value)

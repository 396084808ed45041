"""Long columns of whole numbers in as few bytes as allow random access: memory-mapped, decoded where they are asked for.

An ascending column keeps an anchor (int64) for every 2**shift values and each value's distance from its anchor in the smallest
type that holds all of them: 4 bytes a value or fewer, where the values themselves take 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ledger import LedgerError
from ledger.order import Int64

Column = npt.NDArray[Any]
C = TypeVar("C", bound=tuple[Column, ...])
_SHIFTS = range(3, 9)
_UNSIGNED = (np.uint8, np.uint16, np.uint32, np.uint64)
_CHUNK = 1 << 22
_MANY = 1 << 12  # values for which it is worth remembering where anchors lie
_BUCKETS = 1 << 20  # at most, of the directory of anchors
_WALK = 8  # anchors that are walked over before a search


@dataclass(frozen=True)
class Ascending:
    """An ascending column of int64.

    Attributes:
        anchors: int64 [ceil(n / 2**shift)], every 2**shift-th value.
        offsets: unsigned [ceil(n / 2**shift) * 2**shift], distance from the anchor; the last one again behind the end.
        shift: see there.
        count: n.
    """

    anchors: Column
    offsets: Column
    shift: int
    count: int

    def __len__(self) -> int:
        return self.count

    def take(self, places: npt.ArrayLike) -> Int64:
        """The values at `places`, same shape."""
        index = np.asarray(places, np.int64)
        values: Int64 = self.anchors.take(index >> self.shift)
        values += self.offsets.take(index)
        return values

    def at(self, values: npt.ArrayLike) -> Int64:
        """Place of the last value that is smaller than or equal to each of `values`, -1 for none; quick where these ascend."""
        wanted = np.asarray(values, np.int64)
        block = self._block_of(wanted)
        (none,) = np.nonzero(block < 0)
        if len(none) == len(wanted):
            return np.full(wanted.shape, -1)
        block[none] = 0
        rest = wanted - self.anchors.take(block)
        place: Int64 = block << self.shift
        for bit in reversed(range(self.shift)):  # the padding of the last block is as large as its last value
            place += (self.offsets.take(place + (1 << bit)) <= rest).astype(np.int64) << bit
        np.minimum(place, self.count - 1, out=place)
        place[none] = -1
        return place

    def _block_of(self, wanted: Int64) -> Int64:
        """The last anchor that is smaller than or equal to each value, -1 for none."""
        if len(wanted) < _MANY or len(self.anchors) < _MANY:
            return np.asarray(np.searchsorted(self.anchors, wanted, side="right") - 1)
        shift, first = self._directory
        bucket = np.clip(wanted >> shift, -1, len(first) - 2)
        block = first.take(bucket + 1).astype(np.int64)
        ahead = np.arange(len(wanted))
        for _ in range(_WALK):
            following = np.minimum(block[ahead] + 1, len(self.anchors) - 1)
            ahead = ahead[(following > block[ahead]) & (self.anchors.take(following) <= wanted[ahead])]
            if not len(ahead):
                return block
            block[ahead] += 1
        block[ahead] = np.searchsorted(self.anchors, wanted[ahead], side="right") - 1
        return block

    @cached_property
    def _directory(self) -> tuple[int, Column]:
        """The last anchor before each multiple of 2**shift, of which there are not more than anchors; -1 before the first."""
        shift = max(0, int(self.anchors[-1]).bit_length() - min(len(self.anchors), _BUCKETS).bit_length() + 1)
        bounds = np.arange((int(self.anchors[-1]) >> shift) + 1) << shift
        first = np.searchsorted(self.anchors, bounds, side="right") - 1
        return shift, np.concatenate([[-1], first]).astype(np.int32)


def save_ascending(folder: Path, name: str, values: Column) -> dict[str, int]:
    """Write a column in the form that takes the fewest bytes; gives what `load_ascending` has to know."""
    sizes = {}
    for shift in _SHIFTS:
        widest = _widest(values, 1 << shift)
        kind = np.dtype(next(kind for kind in _UNSIGNED if widest <= np.iinfo(kind).max))
        sizes[shift] = (kind.itemsize + 8 / 2**shift, kind)
    shift = min(sizes, key=lambda shift: sizes[shift][0])
    kind = sizes[shift][1]
    with (folder / f"{name}.anchors").open("wb") as anchors, (folder / f"{name}.offsets").open("wb") as offsets:
        for start in range(0, len(values), _CHUNK):
            part = np.asarray(values[start : start + _CHUNK], np.int64)
            first = part[:: 1 << shift]
            anchors.write(first.tobytes())
            distances = (part - np.repeat(first, 1 << shift)[: len(part)]).astype(kind)
            offsets.write(distances.tobytes() + distances[-1:].tobytes() * (-len(part) % (1 << shift)))
    return {"count": len(values), "shift": shift, "bytes": kind.itemsize}


def load_ascending(folder: Path, name: str, facts: dict[str, int]) -> Ascending:
    """What `save_ascending` wrote, mapped."""
    anchors = -(-facts["count"] // (1 << facts["shift"]))
    return Ascending(
        _map(folder / f"{name}.anchors", np.dtype(np.int64), anchors),
        _map(folder / f"{name}.offsets", np.dtype(f"u{facts['bytes']}"), anchors << facts["shift"]),
        facts["shift"],
        facts["count"],
    )


def save_column(folder: Path, name: str, values: Column) -> dict[str, int]:
    """Write a column of numbers that are not negative in the smallest type; one of zeros alone takes no byte."""
    most = int(values.max()) if len(values) else 0
    kind = np.dtype(next(kind for kind in _UNSIGNED if most <= np.iinfo(kind).max))
    if most:
        with (folder / name).open("wb") as file:
            for start in range(0, len(values), _CHUNK):
                file.write(values[start : start + _CHUNK].astype(kind).tobytes())
    return {"count": len(values), "bytes": kind.itemsize if most else 0}


def load_column(folder: Path, name: str, facts: dict[str, int]) -> Column:
    """What `save_column` wrote, mapped."""
    if not facts["bytes"]:
        return np.broadcast_to(np.uint8(0), (facts["count"],))
    return _map(folder / name, np.dtype(f"u{facts['bytes']}"), facts["count"])


def spread(first: Int64, last: Int64) -> tuple[Int64, Int64]:
    """All numbers of the ranges `first` to `last`, both included: position of the range, and number."""
    counts = np.maximum(last - first + 1, 0)
    which = np.repeat(np.arange(len(first)), counts)
    begin = np.cumsum(counts) - counts
    return which, first[which] + np.arange(len(which)) - begin[which]


def chosen(columns: C, which: npt.NDArray[Any]) -> C:
    """Rows of a named tuple of columns: by place, or those where `which` is true."""
    places = np.flatnonzero(which) if which.dtype == np.bool_ else which
    return type(columns)(*(column.take(places) for column in columns))  # several times as fast as indexing by truth


def argsort(*keys: Int64) -> Int64:
    """Places in the order of the first key, then of the next one, and so on; equal ones stay as they are.

    By digits of 16 bits, which numpy sorts by counting: several times as fast as its sort of whole numbers of 64 bits.
    """
    order: Int64 = np.arange(len(keys[0]))
    for key in reversed(keys):
        least, most = (int(key.min()), int(key.max())) if len(key) else (0, 0)
        for shift in range(0, (most - least).bit_length(), 16):
            digit = ((key - least) >> shift).astype(np.uint16)  # the lowest bits of it
            order = order[np.argsort(digit[order], kind="stable")]
    return order


def _widest(values: Column, block: int) -> int:
    """The largest distance between the first and the last value of a block."""
    widest = 0
    for start in range(0, len(values), _CHUNK):
        part = np.asarray(values[start : start + _CHUNK], np.int64)
        lasts = np.minimum(np.arange(block - 1, len(part) + block - 1, block), len(part) - 1)
        widest = max(widest, int((part[lasts] - part[::block]).max()))
    return widest


def _map(file: Path, kind: np.dtype[Any], count: int) -> Column:
    size = file.stat().st_size if file.is_file() else -1
    if size != kind.itemsize * count:
        raise LedgerError(
            f"{file}: {size} bytes, expected {kind.itemsize * count}. Remedy: remove its folder; it is made again"
        )
    return np.memmap(file, kind, mode="r", shape=(count,)).view(np.ndarray) if count else np.empty(0, kind)  # plain: quicker

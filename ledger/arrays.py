"""Long columns of whole numbers in as few bytes as allow random access: memory-mapped, decoded where they are asked for.

An ascending column keeps an anchor (int64) for every 2**shift values and each value's distance from its anchor in the smallest
type that holds all of them: 4 bytes a value or fewer, where the values themselves take 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ledger import LedgerError
from ledger.order import Int64

Column = npt.NDArray[Any]
_SHIFTS = range(3, 9)
_UNSIGNED = (np.uint8, np.uint16, np.uint32, np.uint64)
_CHUNK = 1 << 22


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
        block = np.searchsorted(self.anchors, wanted, side="right") - 1
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

"""One bit a number: whether it was marked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ledger.order import Int64

Bits = npt.NDArray[np.uint8]
_SPARSE = 64  # numbers of which one is marked, from which on the others are not looked at


def unmarked(count: int) -> Bits:
    """`count` bits, none of them set."""
    return np.zeros(-(-count // 8), np.uint8)


def mark(bits: Bits, ascending: Int64) -> None:
    """Set the bits of some numbers."""
    if not len(ascending):
        return
    first, last = int(ascending[0]) >> 3, int(ascending[-1]) >> 3
    if (last - first) * 8 < _SPARSE * len(ascending):
        flags = np.zeros((last - first + 1) * 8, np.bool_)
        flags[ascending - first * 8] = True
        bits[first : last + 1] |= np.packbits(flags, bitorder="little")
        return
    byte = ascending >> 3
    heads = np.flatnonzero(np.diff(byte, prepend=-1))
    bits[byte[heads]] |= np.bitwise_or.reduceat(np.left_shift(1, ascending & 7).astype(np.uint8), heads)


def marked(bits: Bits, numbers: Int64) -> npt.NDArray[np.bool_]:
    """Whether the bits of some numbers are set."""
    found: npt.NDArray[np.bool_] = (bits.take(numbers >> 3) >> (numbers & 7).astype(np.uint8) & 1).view(np.bool_)
    return found

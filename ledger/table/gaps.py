"""Stretches of the line of training tokens that no sample was fed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ledger.order import Int64
from ledger.table.arrays import Ascending, spread
from ledger.table.bits import Bits, mark, marked, unmarked

_STRETCH = 12  # bits of the tokens for which one bit remembers whether there is a gap among them
_FEW = 1 << 12  # stretches for which these bits are not worth making
_BLOCK = 1 << 16  # gaps looked at together


@dataclass(frozen=True)
class Gaps:
    """See the module.

    Attributes:
        begins: where each gap begins; the last one, of no length, stands at the end of the line.
        missing: how many tokens lie in gaps before each; one more than gaps.
    """

    begins: Ascending
    missing: Ascending

    def touch(self, low: Int64, high: Int64) -> npt.NDArray[np.bool_]:
        """Which of the stretches [low, high) tokens are missing from."""
        if len(low) < _FEW:
            return self._touch(low, high)
        first, last = low >> _STRETCH, (high - 1) >> _STRETCH
        touched = marked(self._near, first) | marked(self._near, last)
        (wide,) = np.nonzero(last - first > 1)
        touched[wide] |= (last[wide] - first[wide] > 2) | marked(self._near, first[wide] + 1)
        (likely,) = np.nonzero(touched)
        touched[likely] = self._touch(low[likely], high[likely])
        return touched

    def before(self, place: Int64) -> Int64:
        """Tokens of the line before `place` that lie in gaps."""
        gap = self.begins.at(place)
        known = gap >= 0
        gap = np.maximum(gap, 0)
        before, after = self.missing.take(gap), self.missing.take(gap + 1)
        return np.where(known, before + np.minimum(place - self.begins.take(gap), after - before), 0)

    def leave(self, which: Int64, low: Int64, high: Int64) -> tuple[Int64, Int64, Int64]:
        """What gaps leave of the stretches [low, high): which, low, high."""
        touched = self.touch(low, high)
        (whole,), (cut,) = np.nonzero(~touched), np.nonzero(touched)
        pair, gap = spread(self.begins.at(low[cut]), self.begins.at(high[cut] - 1))  # what lies behind a gap; -1: before all
        begin = np.where(gap >= 0, self._end(np.maximum(gap, 0)), 0)
        begin, end = np.maximum(low[cut][pair], begin), np.minimum(high[cut][pair], self.begins.take(gap + 1))
        (kept,) = np.nonzero(begin < end)
        which = np.concatenate([which[whole], which[cut[pair[kept]]]])
        return which, np.concatenate([low[whole], begin[kept]]), np.concatenate([high[whole], end[kept]])

    def _touch(self, low: Int64, high: Int64) -> npt.NDArray[np.bool_]:
        gap = self.begins.at(low)
        touched = self.begins.take(gap + 1) < high
        (behind,) = np.nonzero(gap >= 0)
        touched[behind] |= self._end(gap[behind]) > low[behind]
        return touched

    def _end(self, gap: Int64) -> Int64:
        return self.begins.take(gap) + self.missing.take(gap + 1) - self.missing.take(gap)

    @cached_property
    def _near(self) -> Bits:
        """For every 2**_STRETCH tokens of the line whether a gap touches them."""
        count = len(self.begins)
        bits = unmarked((int(self.begins.take(count - 1)) >> _STRETCH) + 1)
        for start in range(0, count, _BLOCK):
            gap = np.arange(start, min(start + _BLOCK, count))
            begin, end = self.begins.take(gap), self._end(gap)
            (some,) = np.nonzero(begin < end)
            mark(bits, spread(begin[some] >> _STRETCH, (end[some] - 1) >> _STRETCH)[1])
        return bits

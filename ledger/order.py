"""The order of training samples as a formula: consumption index -> sample row, and back, both in O(1).

The samples of one epoch are visited in the order of a keyed bijection of [0, N): a balanced Feistel network over the smallest
even number of bits that covers N, walked along its cycle until it falls below N again (Black and Rogaway, "Ciphers with
Arbitrary Finite Domains", 2002). Nothing is shuffled or stored, so the order cannot depend on batch size, number of workers or
restarts. GLM-130B drew its rows with replacement, from a hash of the sample index (`RandomMappingDataset`); here every sample
is consumed exactly once per epoch, which is what makes the inverse a function.

All arithmetic is on unsigned 64-bit integers, modulo 2**64:

    mix(z)         the output function of SplitMix64 (Steele, Lea and Flood, 2014)
    draw(s, n)     mix(s + n * 0x9E3779B97F4A7C15), the n-th output (from 1) of SplitMix64 with seed s
    epoch key      draw(draw(seed, 1), e + 1)
    round key r    draw(epoch key, r + 1), r = 0..7
    round r        (left, right) -> (right, left xor low bits of mix(right + round key r))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
_Step = Callable[[UInt64, "_Rounds", np.uint64], UInt64]

ROUNDS = 8
_GOLDEN = np.array([0x9E3779B97F4A7C15], np.uint64)  # an array: scalars would warn where they wrap
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_TABLED = 15  # bits of half a value, at most, for which rounds are tables: 2 MiB for an epoch
_BLOCK = 1 << 15  # values walked at once: eight buffers of this size stay in a core's cache


@dataclass(frozen=True)
class Order:
    """The order in which training consumes packed samples.

    Attributes:
        seed: key of the order, 0 <= seed < 2**64.
        samples: N, samples per epoch.
        epochs: E, masking epochs that were packed; row `m * N + i` of the packed samples is sample i of masking epoch m.
            Training epoch e reads masking epoch e mod E, in an order of its own.
    """

    seed: int
    samples: int
    epochs: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed {self.seed} is not an unsigned 64-bit number")
        if self.samples < 1 or self.epochs < 1 or self.samples * self.epochs >= 2**62:
            raise ValueError(f"expected samples >= 1 and epochs >= 1, found {self.samples} and {self.epochs}")

    def rows(self, consumption: npt.ArrayLike) -> Int64:
        """Row in the packed samples of each consumption index (counted from 0 over the whole training), same shape.

        Raises:
            ValueError: an index is negative.
        """
        index = as_indices(consumption, "consumption index")
        epoch, place = np.divmod(index, self.samples)
        return epoch % self.epochs * self.samples + permute(self.seed, epoch, place, self.samples)

    def consumptions(self, rows: npt.ArrayLike, until: int) -> tuple[Int64, Int64]:
        """When each row is consumed: every consumption index below `until`.

        Returns:
            `which` (position in `rows`, flattened) and `consumption`, equally long, sorted by position, then by
            consumption index. A row stands there once per pass over the E masking epochs, or not at all.

        Raises:
            ValueError: a row is negative or not below N * E.
        """
        row = as_indices(rows, "row").ravel()
        if row.size and int(row.max()) >= self.samples * self.epochs:
            raise ValueError(f"row {int(row.max())} is outside the {self.samples * self.epochs} packed samples")
        masking, place = np.divmod(row, self.samples)
        passes = -(-until // (self.samples * self.epochs)) if until > 0 else 0
        which = np.arange(row.size)
        if passes != 1:
            which = np.repeat(which, passes)
        epoch = masking[which] + np.tile(np.arange(passes), row.size) * self.epochs
        index = epoch * self.samples + unpermute(self.seed, epoch, place[which], self.samples)
        inside = index < until
        return which[inside], index[inside]


def permute(seed: int, epoch: npt.ArrayLike, index: npt.ArrayLike, samples: int) -> Int64:
    """Image of `index` in [0, samples) under the bijection of `epoch`; the arguments broadcast."""
    return _walk(seed, epoch, index, samples, _forward)


def unpermute(seed: int, epoch: npt.ArrayLike, index: npt.ArrayLike, samples: int) -> Int64:
    """The inverse of `permute`."""
    return _walk(seed, epoch, index, samples, _backward)


def as_indices(values: npt.ArrayLike, name: str) -> Int64:
    """`values` as int64.

    Raises:
        ValueError: one is negative; `name` says what they are.
    """
    array = np.asarray(values, dtype=np.int64)
    if array.size and int(array.min()) < 0:
        raise ValueError(f"{name} {int(array.min())} is negative")
    return array


def _walk(seed: int, epoch: npt.ArrayLike, index: npt.ArrayLike, samples: int, step: _Step) -> Int64:
    """Apply `step` until every value is below `samples`; block by block, each block with its epochs' keys."""
    epochs, indices = np.broadcast_arrays(np.asarray(epoch, np.int64), np.asarray(index, np.int64))
    if indices.size and (int(indices.min()) < 0 or int(indices.max()) >= samples):
        raise ValueError(f"index outside [0, {samples})")
    half = max(1, -(-(samples - 1).bit_length() // 2))
    values, flat_epochs = indices.astype(np.uint64).ravel(), epochs.ravel()
    tabled = half <= _TABLED and values.size >= 1 << half
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        of = flat_epochs[start : start + _BLOCK]
        if of[0] == of[-1] and (of == of[0]).all():  # one epoch, the usual case
            rounds = _Tables(_tables(seed, int(of[0]), half)) if tabled else _Keys(_round_keys(seed, of[:1]), half)
        else:
            rounds = _Keys(_round_keys(seed, of), half)
        _walk_block(block, rounds, np.uint64(samples), np.uint64(half), step)
    return values.astype(np.int64).reshape(indices.shape)


def _walk_block(values: UInt64, rounds: _Rounds, samples: np.uint64, half: np.uint64, step: _Step) -> None:
    values[:] = step(values, rounds, half)
    (outside,) = np.nonzero(values >= samples)
    while outside.size:
        moved = step(values[outside], rounds.of(outside), half)
        values[outside] = moved
        outside = outside[moved >= samples]


def _forward(values: UInt64, rounds: _Rounds, half: np.uint64) -> UInt64:
    left, right = values >> half, values & ((np.uint64(1) << half) - np.uint64(1))
    for number in range(ROUNDS):
        left, right = right, left ^ rounds.mixed(number, right)
    return left << half | right


def _backward(values: UInt64, rounds: _Rounds, half: np.uint64) -> UInt64:
    left, right = values >> half, values & ((np.uint64(1) << half) - np.uint64(1))
    for number in reversed(range(ROUNDS)):
        left, right = right ^ rounds.mixed(number, left), left
    return left << half | right


class _Rounds(Protocol):
    """What the rounds do to one half of values."""

    def mixed(self, number: int, values: UInt64) -> UInt64:
        """The low bits of what round `number` makes of half values."""

    def of(self, places: npt.NDArray[np.intp]) -> _Rounds:
        """The same for the values at some places of a block."""


@dataclass(frozen=True)
class _Keys:
    """Computed: round keys [ROUNDS, 1], or [ROUNDS, n] where each value has an epoch of its own."""

    keys: UInt64
    half: int

    def mixed(self, number: int, values: UInt64) -> UInt64:
        return _mix(values + self.keys[number]) & np.uint64((1 << self.half) - 1)

    def of(self, places: npt.NDArray[np.intp]) -> _Keys:
        return self if self.keys.shape[1] == 1 else _Keys(self.keys[:, places], self.half)


@dataclass(frozen=True)
class _Tables:
    """Looked up, five times as fast: a half value has few bits, so a round is a table [ROUNDS, 2**half]."""

    tables: UInt64

    def mixed(self, number: int, values: UInt64) -> UInt64:
        return self.tables[number].take(values.view(np.int64))

    def of(self, places: npt.NDArray[np.intp]) -> _Tables:
        return self


@lru_cache(maxsize=4)
def _tables(seed: int, epoch: int, half: int) -> UInt64:
    keys = _Keys(_round_keys(seed, np.array([epoch])), half)
    return np.stack([keys.mixed(number, np.arange(1 << half, dtype=np.uint64)) for number in range(ROUNDS)])


def _round_keys(seed: int, epochs: Int64) -> UInt64:
    """Keys of every round, shape [ROUNDS, number of epochs]."""
    keys = _draw(_draw(np.array([seed], np.uint64), np.uint64(1)), epochs.astype(np.uint64) + np.uint64(1))
    return np.stack([_draw(keys, np.uint64(number + 1)) for number in range(ROUNDS)])


def _draw(state: UInt64, number: UInt64 | np.uint64) -> UInt64:
    return _mix(state + _GOLDEN * number)


def _mix(values: UInt64) -> UInt64:
    """SplitMix64's output function; overwrites its argument, which is always a fresh sum."""
    values ^= values >> np.uint64(30)
    values *= _MIX_1
    values ^= values >> np.uint64(27)
    values *= _MIX_2
    values ^= values >> np.uint64(31)
    return values

"""`model.masking.Draws` for compiled loops: Philox4x64-10, bit for bit numpy's.

J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The state is an array of nine numbers: key (2), the
two words of the counter that are used (sample, blocks drawn), four numbers drawn, and how many of these are spent.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages import _jit

STATE = 9
_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_LOW, _HALF, _BITS, _ONE, _FOUR = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(11), np.uint64(1), np.uint64(4)
_UNIT = 2.0**-53

_kernel = _jit.kernels(__file__)


@_kernel
def begin(state: Any, seed: Any, epoch: Any, sample: Any) -> None:
    """Set `state` to the start of a sample's draws."""
    state[0], state[1], state[2], state[3], state[8] = seed, epoch, sample, 0, _FOUR


@_kernel
def uniform(state: Any) -> Any:
    """`Draws.uniform`."""
    if state[8] == _FOUR:
        _refill(state)
    raw = state[np.int64(_FOUR + state[8])]
    state[8] += _ONE
    return np.float64(raw >> _BITS) * _UNIT


@_kernel
def below(state: Any, limit: Any) -> Any:
    """`Draws.below`."""
    return np.int64(uniform(state) * limit)


@_kernel
def choose(state: Any, count: Any, limit: Any, pool: Any, chosen: Any) -> None:
    """`Draws.choose` into `chosen`; `pool` has room for `limit` numbers."""
    for place in range(limit):
        pool[place] = place
    for place in range(count):
        other = place + below(state, limit - place)
        chosen[place] = pool[other]
        pool[other] = pool[place]


@_kernel
def _refill(state: Any) -> None:
    state[3] += _ONE  # numpy counts before it draws
    key0, key1 = state[0], state[1]
    a, b, c, d = state[3], np.uint64(0), state[2], np.uint64(0)
    for _ in range(10):
        a, b, c, d = _high(_M1, c) ^ b ^ key0, _M1 * c, _high(_M0, a) ^ d ^ key1, _M0 * a
        key0 += _W0
        key1 += _W1
    state[4], state[5], state[6], state[7], state[8] = a, b, c, d, np.uint64(0)


@_kernel
def _high(x: Any, y: Any) -> Any:
    """Upper half of the product of two 64-bit numbers."""
    x0, x1, y0, y1 = x & _LOW, x >> _HALF, y & _LOW, y >> _HALF
    middle = x1 * y0 + ((x0 * y0) >> _HALF)
    return x1 * y1 + (middle >> _HALF) + ((x0 * y1 + (middle & _LOW)) >> _HALF)

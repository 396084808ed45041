from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.schedule import BatchRamp, LrSchedule

GLM_130B = BatchRamp(start=192, end=4224, increment=24, ramp_samples=5_493_164)
GLM_130B_LR = LrSchedule(peak=8e-5, minimum=8e-6, warmup_samples=1_098_632, decay_samples=197_753_905)


def plain_boundaries(ramp: BatchRamp, steps: int) -> list[int]:
    consumed = [0]
    for _ in range(steps):
        consumed.append(consumed[-1] + ramp.batch_size(consumed[-1]))
    return consumed


def test_published_run() -> None:
    assert GLM_130B.increments == 168
    assert GLM_130B.batch_size(0) == 192
    assert GLM_130B.batch_size(32_697) == 192
    assert GLM_130B.batch_size(32_698) == 216
    assert GLM_130B.batch_size(5_493_163) == 4200
    assert GLM_130B.batch_size(5_493_164) == 4224
    # Iterations of the published log count from 1: the ramp ends with iteration 4,296, the warm-up within 2,318.
    assert int(GLM_130B.step_of(5_493_163)) + 1 == 4296
    assert int(GLM_130B.step_of(1_098_632)) + 1 == 2318
    assert int(GLM_130B.consumed(49_300)) == 195_591_480


def test_closed_form_equals_counting() -> None:
    assert GLM_130B.boundaries(6000).tolist() == plain_boundaries(GLM_130B, 6000)


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(0, 20), st.integers(1, 30), st.integers(1, 3000), st.integers(0, 400))
def test_any_ramp(start: int, increments: int, increment: int, ramp_samples: int, steps: int) -> None:
    """Also where one batch jumps over several increments."""
    ramp = BatchRamp(start, start + increments * increment, increment, ramp_samples)
    boundaries = ramp.boundaries(steps)
    assert boundaries.tolist() == plain_boundaries(ramp, steps)
    indices = np.arange(int(boundaries[-1]))
    assert np.array_equal(ramp.step_of(indices), np.searchsorted(boundaries, indices, side="right") - 1)


def test_constant_batch() -> None:
    ramp = BatchRamp(8, 8)
    assert ramp.boundaries(4).tolist() == [0, 8, 16, 24, 32]
    assert ramp.step_of([[0, 7], [8, 31]]).tolist() == [[0, 0], [1, 3]]
    assert BatchRamp(8, 8, 1, 0).boundaries(2).tolist() == [0, 8, 16]


@pytest.mark.parametrize("arguments", [(0, 8, 1, 10), (8, 4, 1, 10), (8, 13, 2, 10), (8, 16, 0, 10), (8, 16, 4, 0)])
def test_refuses_impossible_ramps(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"start|increment|ramp_samples"):
        BatchRamp(*arguments)


def test_refuses_negative_places() -> None:
    with pytest.raises(ValueError, match="step -1"):
        GLM_130B.consumed(-1)
    with pytest.raises(ValueError, match="consumption index -5"):
        GLM_130B.step_of([3, -5])
    with pytest.raises(ValueError, match="-1 is negative"):
        GLM_130B.batch_size(-1)


def test_learning_rate() -> None:
    assert GLM_130B_LR.at(0) == 0.0
    assert GLM_130B_LR.at(1_098_632 // 2) == pytest.approx(4e-5)
    assert GLM_130B_LR.at(1_098_632) == 8e-5
    middle = (1_098_632 + 197_753_905) // 2
    assert GLM_130B_LR.at(middle) == pytest.approx((8e-5 + 8e-6) / 2, rel=1e-6)
    assert GLM_130B_LR.at(197_753_905) == pytest.approx(8e-6, rel=1e-12)
    assert GLM_130B_LR.at(10**9) == GLM_130B_LR.at(197_753_905)
    assert LrSchedule(1e-3, 0.0, 0, 10).at(0) == 1e-3


@pytest.mark.parametrize("arguments", [(1e-3, 2e-3, 0, 10), (1e-3, -1.0, 0, 10), (1e-3, 0.0, 10, 10), (1e-3, 0.0, -1, 10)])
def test_refuses_impossible_rates(arguments: tuple[float, float, int, int]) -> None:
    with pytest.raises(ValueError, match=r"minimum|warmup_samples"):
        LrSchedule(*arguments)

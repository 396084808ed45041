"""Validation and the watch over gradients under plans of several processes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.support.distributed import run_distributed
from tests.support.parallel_cases import look

pytestmark = pytest.mark.slow

STABILITY = {
    "window": 8, "sigmas": 6.0, "consecutive": 2, "good_after": 2, "skip_before": 1, "skip_after": 2,
    "learning_rate_factor": 1.0, "shrink_factor": 1.0, "returns": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "plan",
    [{"data_parallel": 2, "zero_stage": 2}, {"pipeline_parallel": 2}, {"tensor_parallel": 2}],
    ids=["data", "pipeline", "tensor"],
)
def test_two_ranks_see_the_losses_and_gradient_norms_of_one(tmp_path: Path, plan: dict[str, Any]) -> None:
    (one,) = run_distributed(look, 1, tmp_path / "one", {"stability": STABILITY})
    both = run_distributed(look, 2, tmp_path / "two", {"stability": STABILITY} | plan)
    for two in both:
        assert two["held_out"] == pytest.approx(one["held_out"], abs=2e-6)
        assert two["parts"] == pytest.approx(one["parts"], rel=1e-4)
        assert two["losses"] == pytest.approx(one["losses"], abs=2e-6), "looking leaves no trace"
    assert math.hypot(*one["parts"].values()) == pytest.approx(one["norm"], rel=1e-5)

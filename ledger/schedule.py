"""Batch size and learning rate as functions of consumed samples: step -> samples and samples -> step, both in closed form.

GLM-130B ramps the batch from 192 to 4,224 sequences, 24 more for every 32,697.4 of the first 5,493,164 samples, and schedules
the learning rate by samples, not by steps (paper, Table 11, and its launch script: Megatron-LM's `--rampup-batch-size`,
`--lr-warmup-samples`, `--lr-decay-samples`). Steps count from 0: step t consumes the consumption indices
[consumed(t), consumed(t + 1)), so a checkpoint after n steps has consumed(n) samples behind it.

The published bookkeeping (195,591,480 sequences at step 49,300) is this ramp's value exactly, with skipped batches counted:
a skipped step keeps its consumption indices and trains on none of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ledger.order import Int64, as_indices


@dataclass(frozen=True)
class BatchRamp:
    """Global batch size, growing with the samples consumed.

    Attributes:
        start: sequences in the first batch.
        end: sequences in a batch from `ramp_samples` on; equal to `start` for a constant batch.
        increment: sequences added at a time; divides `end - start`.
        ramp_samples: samples over which the increments are spread evenly.
    """

    start: int
    end: int
    increment: int = 0
    ramp_samples: int = 0

    def __post_init__(self) -> None:
        if self.start < 1:
            raise ValueError(f"start: {self.start} is not a batch size")
        if self.start == self.end:
            return
        if self.end < self.start or self.increment < 1 or (self.end - self.start) % self.increment:
            raise ValueError(f"increment: the way from {self.start} to {self.end} is no multiple of {self.increment}")
        if self.ramp_samples < 1:
            raise ValueError(f"ramp_samples: {self.ramp_samples} samples cannot hold a ramp")

    @property
    def increments(self) -> int:
        """How often the batch grows."""
        return 0 if self.start == self.end else (self.end - self.start) // self.increment

    def batch_size(self, consumed_samples: int) -> int:
        """Sequences in the batch that starts when `consumed_samples` have been consumed."""
        if consumed_samples < 0:
            raise ValueError(f"consumed_samples {consumed_samples} is negative")
        if self.increments == 0:
            return self.start
        # Megatron-LM divides by the float ramp_samples / increments; whole numbers give the same plateaus without rounding.
        return self.start + self.increment * min(consumed_samples * self.increments // self.ramp_samples, self.increments)

    @cached_property
    def _plateaus(self) -> tuple[Int64, Int64, Int64]:
        """First step, first sample and batch size of every stretch of equal batches."""
        steps, samples, sizes = [0], [0], [self.batch_size(0)]
        while sizes[-1] != self.end:
            reached = (sizes[-1] - self.start) // self.increment
            threshold = -(-(reached + 1) * self.ramp_samples // self.increments)  # first sample count beyond this plateau
            count = -(-(threshold - samples[-1]) // sizes[-1])
            steps.append(steps[-1] + count)
            samples.append(samples[-1] + count * sizes[-1])
            sizes.append(self.batch_size(samples[-1]))
        return np.array(steps, np.int64), np.array(samples, np.int64), np.array(sizes, np.int64)

    def consumed(self, steps: npt.ArrayLike) -> Int64:
        """Samples consumed before each of `steps`, same shape: the consumption index with which the step begins."""
        step = as_indices(steps, "step")
        first_step, first_sample, size = self._plateaus
        plateau = np.searchsorted(first_step, step, side="right") - 1
        return np.asarray(first_sample[plateau] + (step - first_step[plateau]) * size[plateau])

    def boundaries(self, steps: int) -> Int64:
        """`consumed` of steps 0 to `steps`, one more value than steps: step t takes [boundaries[t], boundaries[t + 1])."""
        return self.consumed(np.arange(steps + 1))

    def step_of(self, consumption: npt.ArrayLike) -> Int64:
        """The step that consumes each consumption index, same shape."""
        index = as_indices(consumption, "consumption index")
        first_step, first_sample, size = self._plateaus
        if index.size and index.min() >= first_sample[-1]:  # after the ramp: division by one number is several times as fast
            return np.asarray((index - first_sample[-1]) // size[-1] + first_step[-1])
        plateau = np.searchsorted(first_sample, index, side="right") - 1
        return np.asarray(first_step[plateau] + (index - first_sample[plateau]) // size[plateau])


@dataclass(frozen=True)
class LrSchedule:
    """Learning rate by samples: linear warm-up from 0, cosine to a minimum, then constant.

    GLM-130B: 8e-5 peak, 8e-6 minimum, 1,098,632 samples of warm-up, minimum reached at 197,753,905. The paper says that the
    warm-up begins at 1e-7; the code begins at 0, and so does this.

    Attributes:
        peak: the rate at the end of the warm-up.
        minimum: the rate from `decay_samples` on.
        warmup_samples: length of the warm-up; 0 for none.
        decay_samples: where the cosine ends, counted from the start of training.
    """

    peak: float
    minimum: float
    warmup_samples: int
    decay_samples: int

    def __post_init__(self) -> None:
        if not 0.0 <= self.minimum <= self.peak:
            raise ValueError(f"minimum: {self.minimum} is not between 0 and the peak, {self.peak}")
        if not 0 <= self.warmup_samples < self.decay_samples:
            raise ValueError(f"warmup_samples: {self.warmup_samples} does not end before decay_samples, {self.decay_samples}")

    def at(self, consumed_samples: int) -> float:
        """The learning rate when `consumed_samples` have been consumed."""
        if consumed_samples < self.warmup_samples:
            return self.peak * consumed_samples / self.warmup_samples
        progress = (consumed_samples - self.warmup_samples) / (self.decay_samples - self.warmup_samples)
        return self.minimum + (self.peak - self.minimum) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2

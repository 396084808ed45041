"""What makes a training go back by itself, and how that is written down.

The rule. A step spikes when its loss, its gradient's norm, or the gradient's norm of the embedding or of any one block is not
finite, or lies more than `sigmas` standard deviations above the mean of the last `window` values that did not spike
themselves (the SpikeScore of OLMo 2, with 6 and 128). `consecutive` such steps in a row send the training back to the newest
checkpoint with `good_after` clean steps behind it (one that is not finite does so at once). From there it passes over the
samples of the offending steps, and goes on with a lower learning rate or a smaller EGS alpha, as set. GLM-130B's authors did
by hand what is done here: back to the checkpoint, alpha 1 to 0.5 to 0.1, 200 steps of data skipped, lower rates (facts 4.4);
a collapse followed a spike of gradient norms by a few steps, hence the norms by block.

The record. A return is a line of the journal: an abandoned segment, whose settings say the cause, where training went back to,
the steps to pass over and the factors. `Course` reads all that a training needs to know back from these lines; no other file
has it, so a run that is killed in the midst of a return goes on as an undisturbed one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ledger.journal import Journal, Segment
from stages.pretrain.settings import Stability

Ranges = tuple[tuple[int, int], ...]
_FLOOR = 1e-6  # of a standard deviation: the logs have six decimals


@dataclass(frozen=True)
class Spike:
    """Steps `first` to `last`, from 0, and why they are one."""

    first: int
    last: int
    cause: str


class SpikeWatch:
    """Compares each step's numbers with those before it; a function of the logged rows alone."""

    def __init__(self, rule: Stability) -> None:
        self._rule = rule
        self._past: dict[str, deque[float]] = {}
        self._row = 0  # spiking steps in a row

    def see(self, step: int, values: Mapping[str, str]) -> Spike | None:
        """Take in the numbers of `step`, as logged.

        Args:
            step: from 0.
            values: numbers by name; empty ones, of steps passed over, say nothing.

        Returns:
            The spike, if it is time to go back.
        """
        numbers = {name: float(text) for name, text in values.items() if text}
        if not numbers:
            return None
        broken = next((name for name, value in numbers.items() if not math.isfinite(value)), None)
        causes = [cause for name, value in numbers.items() if (cause := self._cause(name, value)) is not None]
        self._row = self._row + 1 if causes else 0
        if not causes or (broken is None and self._row < self._rule.consecutive):
            return None
        return Spike(step - self._row + 1, step, f"step {step}: " + "; ".join(causes))

    def _cause(self, name: str, value: float) -> str | None:
        past = self._past.setdefault(name, deque(maxlen=self._rule.window))
        if not math.isfinite(value):
            return f"{name} {value}"
        if len(past) == self._rule.window:
            mean, deviation = float(np.mean(past)), max(float(np.std(past)), _FLOOR)
            if value > mean + self._rule.sigmas * deviation:
                return f"{name} {value:g}, {(value - mean) / deviation:.1f} sigma above {mean:g}"
        past.append(value)
        return None


class Course:
    """Where a training stands, by its journal.

    Attributes:
        returns: abandoned segments, each of them one return.
        main: kept segments, first to last, that the next step follows.
        skipped: steps, from 0, both ends included, whose samples are passed over; ascending, apart.
    """

    def __init__(self, journal: Journal) -> None:
        self.returns = [segment for segment in journal.segments if segment.status == "abandoned"]
        last = self.returns[-1] if self.returns else None
        newest = journal.segments[-1] if journal.segments else None
        if newest is last and last is not None:
            newest = journal.checkpoints()[str(last.settings["return_to"])]
        self.main = journal.ancestry(newest) if newest is not None else []
        self.skipped = merged(tuple(segment.settings["skip"]) for segment in self.returns)

    @property
    def tip(self) -> Segment | None:
        """The segment that the next one follows; None at the start."""
        return self.main[-1] if self.main else None

    def origin(self) -> int:
        """Finished steps with which this branch of the training began."""
        return self.returns[-1].settings["resume_step"] if self.returns else 0

    def skips(self, step: int) -> bool:
        """Whether the samples of `step` are passed over."""
        return any(first <= step <= last for first, last in self.skipped)

    def skipped_within(self, first: int, last: int) -> Ranges:
        """The part of `skipped` in steps `first` to `last`."""
        cut = ((max(first, start), min(last, end)) for start, end in self.skipped)
        return tuple((start, end) for start, end in cut if start <= end)

    def factor(self, name: str, step: int) -> float:
        """Product of what the returns made of a setting: `learning_rate_factor` or `shrink_factor`."""
        return math.prod(item.settings[name] for item in self.returns if item.settings["resume_step"] <= step)

    def checkpoint(self, name: str) -> Segment | None:
        """The segment on this course that left a checkpoint of that name."""
        return next((segment for segment in reversed(self.main) if segment.checkpoint == name), None)

    def good(self, spike: Spike, rule: Stability) -> Segment | None:
        """The newest checkpoint with `good_after` steps between it and the spike, or None."""
        return next((item for item in reversed(self.main) if item.last_step + 1 + rule.good_after <= spike.first), None)

    def settings_of_return(self, spike: Spike, rule: Stability, back_to: Segment, steps: int) -> dict[str, Any]:
        """What the journal says of a return to the checkpoint of `back_to`, in a training of `steps` steps."""
        start = back_to.last_step + 1
        return {
            "cause": spike.cause,
            "return_to": back_to.checkpoint,
            "resume_step": start,
            "skip": [max(start, spike.first - rule.skip_before), min(steps - 1, spike.last + rule.skip_after)],
            "learning_rate_factor": rule.learning_rate_factor,
            "shrink_factor": rule.shrink_factor,
        }


def merged(ranges: Iterable[tuple[int, ...]]) -> Ranges:
    """Ranges with both ends included, ascending, those that touch or overlap made one."""
    result: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = result[-1][0], max(result[-1][1], last)
        else:
            result.append((first, last))
    return tuple(result)

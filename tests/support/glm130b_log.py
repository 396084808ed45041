"""GLM-130B's published incident log (main-log, 2022-05-06 to 2022-07-03) as segments of a training journal.

The log counts iterations from 1 and names a checkpoint by the iterations behind it, so iteration i is step i - 1 here.
What it does not tell is not made up: where it speaks of failed attempts without their length, the branch here ends at
the iteration at which the log says that it failed, or 100 iterations (one checkpoint interval) after its start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from ledger.journal import Segment
from ledger.schedule import BatchRamp

RAMP = BatchRamp(start=192, end=4224, increment=24, ramp_samples=5_493_164)
LAST_ITERATION = 49_300


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _segment(
    after: int, until: int, data: str, *, kept: bool = True, skip: tuple[int, int] | None = None, **settings: Any
) -> Segment:
    """Iterations `after` + 1 to `until`, both included; `skip` is a range of iterations, both included."""
    first, end = RAMP.consumed([after, until]).tolist()
    return Segment(
        parent=str(after) if after else None,
        first_step=after,
        last_step=until - 1,
        first_sample=first,
        last_sample=end - 1,
        plan=_digest(data),
        status="kept" if kept else "abandoned",
        checkpoint=str(until) if kept else None,
        weights_sha256=_digest(f"weights {until} {data}") if kept else None,
        skipped=((skip[0] - 1, skip[1] - 1),) if skip else (),
        settings=settings,
    )


def segments() -> Iterator[Segment]:
    """The run, in the order of the log."""
    text_t0 = "text + T0++"
    yield _segment(0, 4_000, text_t0, egs_alpha=0.1, peak_lr=8e-5)
    yield _segment(4_000, 6_000, text_t0, cause="two nodes fail", save_interval=100)
    yield _segment(6_000, 22_800, text_t0, egs_alpha_ramp=[0.1, 1.0], egs_ramp_steps=500)
    yield _segment(22_800, 22_900, "text + English, Chinese, DeepStruct", kept=False, cause="NaN: noisy Chinese tasks")
    yield _segment(22_800, 22_900, text_t0, kept=False, cause="diverges")
    yield _segment(22_800, 22_900, text_t0, kept=False, lr_rewarmup_steps=500, cause="diverges")
    yield _segment(22_800, 22_850, "text only, reshuffled", cause="stable without tasks")
    yield _segment(22_850, 22_950, text_t0, kept=False, task_ramp_steps=2_000, cause="task ramp alone diverges")
    yield _segment(22_850, 23_200, text_t0, task_ramp_steps=2_000, lr_rewarmup_steps=2_000, egs_alpha_ramp=[0.2, 1.0])
    yield _segment(23_200, 23_500, text_t0, egs_alpha=0.165, cause="the alpha ramp ran twice as fast; file system lost")
    yield _segment(23_500, 24_500, "text + T0++ + DeepStruct")
    yield _segment(24_500, 26_000, "multitask_0601")
    yield _segment(26_000, 33_600, "multitask_0601", peak_lr=4e-5)
    yield _segment(33_600, 33_700, "multitask_0601", kept=False, cause="loss explodes (1)")
    yield _segment(33_600, 35_200, "multitask_0601", egs_alpha=0.5)
    yield _segment(35_200, 35_250, "multitask_0601", kept=False, cause="loss explodes (2), no sign before")
    yield _segment(35_200, 40_700, "multitask_0601", egs_alpha=0.1)
    yield _segment(40_700, 40_800, "multitask_0601", kept=False, cause="loss explodes (3)")
    yield _segment(40_700, 42_400, "multitask_0601", skip=(40_701, 40_900))
    yield _segment(42_400, 42_700, "multitask_0601", skip=(42_401, 42_600), cause="gradient spike")
    yield _segment(42_700, 48_100, "multitask_0601", min_lr=4e-6, cause="gradient spike")
    yield _segment(48_100, LAST_ITERATION, "multitask_0601", cause="position ids changed and restored")

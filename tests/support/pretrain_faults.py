"""What a test does to a training from inside its process: kill it at an exact place, feed it poison, let it compute NaN."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Any

from model.glm import Batch

WRITES = {"checkpoint": "/checkpoints/", "state": "/state/", "journal": "/journal.jsonl"}


def kill_at(place: str, count: int) -> None:
    """kill -9, by itself: before the `count`-th row of a log, or the `count`-th flush to disk of what `WRITES` names."""
    from stages.pretrain.logs import StepLog

    calls = itertools.count(1)

    def one_more() -> None:
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    add, fsync = StepLog.add, os.fsync

    def counted_add(self: StepLog, row: Any) -> None:
        one_more()
        add(self, row)

    def counted_fsync(descriptor: int) -> None:
        if WRITES[place] in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            one_more()
        fsync(descriptor)

    if place == "row":
        StepLog.add = counted_add  # type: ignore[method-assign]
    else:
        os.fsync = counted_fsync  # type: ignore[assignment]


def poison(first: int, last: int, token: int) -> None:
    """All targets of the samples that steps `first` to `last` consume become one token."""
    from stages.pretrain.data import PackedSamples
    from stages.pretrain.trainer import Trainer

    now = -1
    step_of, batch_of = Trainer._step, PackedSamples.batch

    def step(self: Trainer, number: int) -> Any:
        nonlocal now
        now = number
        return step_of(self, number)

    def batch(self: PackedSamples, rows: Any) -> Batch:
        made = batch_of(self, rows)
        if first <= now <= last:
            made.target_ids[made.target_ids >= 0] = token
        return made

    Trainer._step = step  # type: ignore[method-assign, assignment]
    PackedSamples.batch = batch  # type: ignore[method-assign]


def poison_and_kill_at(first: int, last: int, token: int, place: str, count: int) -> None:
    """Both."""
    poison(first, last, token)
    kill_at(place, count)


def not_a_number(call: int) -> None:
    """The `call`-th loss, from 1, is NaN."""
    from model.glm import GLM

    calls, forward = itertools.count(1), GLM.forward

    def broken(self: GLM, batch: Batch) -> Any:
        loss, losses_T, where_T = forward(self, batch)
        return (loss * float("nan"), losses_T, where_T) if next(calls) == call else (loss, losses_T, where_T)

    GLM.forward = broken  # type: ignore[method-assign]

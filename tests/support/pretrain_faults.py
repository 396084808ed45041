"""What a test does to a training from inside its process: kill it at an exact place, feed it poison, let it compute NaN."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

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


def not_a_number(call: int, in_gradient: bool = False) -> None:
    """The `call`-th loss, from 1, is NaN, or its gradient alone is."""
    import torch

    from model.glm import GLM

    calls, forward = itertools.count(1), GLM.forward

    def broken(self: GLM, batch: Batch) -> Any:
        loss, losses_T, where_T = forward(self, batch)
        if next(calls) != call:
            return loss, losses_T, where_T
        return (loss + torch.sqrt(loss * 0) if in_gradient else loss * float("nan")), losses_T, where_T

    GLM.forward = broken  # type: ignore[method-assign]


def spike(first: int, last: int) -> None:
    """Steps `first` to `last` seem to have gradients that nobody expects; the batches stay as they are."""
    from stages.pretrain.engine import Engine
    from stages.pretrain.trainer import Trainer

    now = -1
    step_of, norm_of = Trainer._step, Engine.gradient_norm

    def step(self: Trainer, number: int) -> Any:
        nonlocal now
        now = number
        return step_of(self, number)

    Trainer._step = step  # type: ignore[method-assign, assignment]
    Engine.gradient_norm = lambda self: 1e9 if first <= now <= last else norm_of(self)  # type: ignore[method-assign]


def tee(folder: Path) -> None:
    """Write down what each call of the engine is fed, a file a call in the order of the calls, whatever happens afterwards."""
    from stages.pretrain.engine import Engine

    train_step = Engine.train_step

    def teed(self: Engine, micro_batches: Any, lr: float) -> Any:
        fields = {
            name: np.concatenate([getattr(batch, name).numpy() for batch in micro_batches]) for name in vars(micro_batches[0])
        }
        np.savez(folder / f"{len(list(folder.iterdir())):06d}.npz", **fields)
        return train_step(self, micro_batches, lr)

    Engine.train_step = teed  # type: ignore[method-assign]


def tee_a_spike(folder: Path, first: int, last: int, killed_at_row: int | None) -> None:
    """`tee` and `spike`, and on demand `kill_at` a row."""
    tee(folder)
    spike(first, last)
    if killed_at_row is not None:
        kill_at("row", killed_at_row)


def little_memory(room: int) -> None:
    """From the first step on, the process may take `room` bytes more than it has; real allocations then fail."""
    import resource

    from stages.pretrain.trainer import Trainer

    run = Trainer.run

    def run_short(self: Trainer) -> None:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, resource.RLIM_INFINITY))
        run(self)

    Trainer.run = run_short  # type: ignore[method-assign]

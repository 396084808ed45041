"""What a test does to a training from inside its process: kill it at an exact place, feed it poison, let it compute NaN."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Sequence
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


def note_rates(file: Path) -> None:
    """Append a line for each call of the engine: its learning rate, that of its optimizer's groups, and the model's alpha."""
    from stages.pretrain.engine import Engine

    train_step = Engine.train_step

    def noted(self: Engine, micro_batches: Any, lr: float) -> Any:
        outputs = train_step(self, micro_batches, lr)
        (used,) = {group["lr"] for group in self._optimizer.param_groups}
        with file.open("a", encoding="utf-8") as out:
            out.write(f"{lr!r} {used!r} {self.model.embedding_gradient_shrink!r}\n")
        return outputs

    Engine.train_step = noted  # type: ignore[method-assign]


def rates_of_a_broken_training(file: Path, call: int) -> None:
    """`note_rates`, and the `call`-th loss is NaN."""
    note_rates(file)
    not_a_number(call)


def fp16_on_a_cpu(scales: Path, overflows: Sequence[int] = (), kill_at_row: int | None = None) -> None:
    """FP16 where DeepSpeed does not offer it (torch computes in it all the same); writes down the loss scale of each step.

    Gradients of the steps `overflows`, from 0, are not finite; the losses are.
    """
    import torch
    from deepspeed.accelerator import get_accelerator

    from model.glm import GLM
    from stages.pretrain.trainer import Trainer

    type(get_accelerator()).is_fp16_supported = lambda self: True
    now = -1
    step_of, forward = Trainer._step, GLM.forward

    def step(self: Trainer, number: int) -> Any:
        nonlocal now
        now = number
        with scales.open("a", encoding="utf-8") as out:
            out.write(f"{self.engine._optimizer.loss_scale:g}\n")
        return step_of(self, number)

    def broken(self: GLM, batch: Batch) -> Any:
        loss, losses_T, where_T = forward(self, batch)
        return loss + torch.sqrt(loss * 0) if now in overflows else loss, losses_T, where_T

    Trainer._step = step  # type: ignore[method-assign, assignment]
    GLM.forward = broken  # type: ignore[method-assign]
    if kill_at_row is not None:
        kill_at("row", kill_at_row)


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

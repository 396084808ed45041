"""Checkpoints and states, written by a thread while the training goes on.

The main thread makes a copy of what is to be written (each rank of its own share; the collective part) and hands it over. The
thread writes it, without any collective: a rank says by a file that its share is there, and rank 0 waits for all, writes the
index and renames. First the checkpoint, then its line of the journal, then the state: a kill in between repeats, never skips.
An error in the thread ends the training at its next step.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import publish, write_checkpoint
from model.checkpoint.folder import write_facts
from model.checkpoint.shards import stored_name, write_shards
from stages.pretrain.engine import QUANTITIES, Engine
from stages.pretrain.state import TrainingState, gather_receipts, leave_receipt


@dataclass(frozen=True)
class Target:
    """What every checkpoint and state of a training has in common.

    Attributes:
        checkpoints: the folder of checkpoints.
        config: content of config.json.
        tokenizer: file to copy into each checkpoint.
        training: what the states are of, see `stages.pretrain.identity`.
        shard_bytes: largest shard.
    """

    checkpoints: Path
    config: Mapping[str, Any]
    tokenizer: Path
    training: Mapping[str, Any]
    shard_bytes: int


class Saver:
    """One rank's writer. At most one checkpoint and state are under way; a second waits for the first."""

    def __init__(self, rank: int, engine: Engine, target: Target, written: Callable[[int, Path], None]) -> None:
        """Begin with nothing under way.

        Args:
            rank: of this process.
            engine: whose weights and moments are kept.
            target: see there.
            written: called on rank 0, in the thread, with finished steps and folder, when a checkpoint stands there.
        """
        self._rank, self._engine, self._target, self._written = rank, engine, target, written
        self._thread = ThreadPoolExecutor(1, "writing")
        self._stop = threading.Event()
        self._pending: Future[None] | None = None

    def check(self) -> None:
        """Raise what the thread ended with, if it did."""
        if self._pending is not None and self._pending.done():
            self._pending.result()

    def wait(self) -> None:
        """Wait until everything is on the disk; raise what the thread ended with."""
        if self._pending is not None:
            self._pending.result()

    def close(self, failed: bool) -> None:
        """Wait for the thread, and in a training that did not fail raise what it ended with."""
        if failed:
            self._stop.set()  # peers may be gone: do not wait for their shares
        self._thread.shutdown(wait=True)
        if not failed:
            self.wait()

    def save(self, state: TrainingState, finished: int, checkpoint: str | None, then: Callable[[], None]) -> None:
        """Copy what this rank has to write, and let the thread write it; on every rank, a collective call.

        Args:
            state: where the state goes.
            finished: steps behind it.
            checkpoint: name of the checkpoint to write first, or None.
            then: called on rank 0, in the thread, when the state stands there.
        """
        self.wait()
        mine, staged = self._engine.stored(), self._engine.plan.staged
        whole = checkpoint is not None and not staged and self._rank == 0
        host = torch.device("cpu")  # a GPU has no room for a second optimizer
        masters = self._engine.shards("master", None if whole else mine, host)
        copies = {"master": {name: masters[name] for name in mine}}
        copies |= {quantity: self._engine.shards(quantity, mine, host) for quantity in QUANTITIES[1:]}
        facts = {"training": self._target.training, **self._engine.counters()}

        def write() -> None:
            if checkpoint is not None and staged:
                self._write_shared(finished, checkpoint, copies["master"])
            elif whole:
                self._write_whole(finished, str(checkpoint), masters)
            self._write_state(state, finished, copies, facts)
            if self._rank == 0:
                then()

        self._pending = self._thread.submit(write)

    def _write_whole(self, finished: int, name: str, masters: Mapping[str, Tensor]) -> None:
        folder = self._target.checkpoints / name
        write_checkpoint(folder, masters, self._target.config, self._target.tokenizer)
        self._written(finished, folder)

    def _write_shared(self, finished: int, name: str, masters: Mapping[str, Tensor]) -> None:
        """A checkpoint of a model that no rank holds whole: each writes its parts."""
        folder = self._target.checkpoints / name
        partial = folder.with_name(f".{name}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        self._write_share(partial, "model", {"": masters})
        if self._rank == 0:
            write_facts(partial, self._target.config, self._target.tokenizer)
            gather_receipts(partial, self._engine.plan.world, self._stop)
            publish(partial, folder)
            self._written(finished, folder)

    def _write_state(
        self, state: TrainingState, finished: int, copies: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]
    ) -> None:
        partial = state.partial(finished)
        self._write_share(partial, "state", {f"{quantity}.": tensors for quantity, tensors in copies.items()})
        if self._rank == 0:
            gather_receipts(partial, self._engine.plan.world, self._stop)
            state.publish(finished, facts, self._target.config)

    def _write_share(self, folder: Path, kind: str, copies: Mapping[str, Mapping[str, Tensor]]) -> None:
        rank, size = self._engine.place.tensor, self._engine.plan.tensor
        tensors = (
            (stored_name(prefix + name, rank, size), tensor)
            for prefix, named in copies.items()
            for name, tensor in named.items()
        )
        leave_receipt(folder, self._rank, write_shards(folder, f"{kind}-{self._rank}", tensors, self._target.shard_bytes))


def clear_partial(checkpoints: Path) -> None:
    """Remove what a killed writer left behind of checkpoints; before any rank writes."""
    for partial in checkpoints.glob(".*"):
        shutil.rmtree(partial)

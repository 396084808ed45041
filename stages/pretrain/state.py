"""What survives a kill: states in the stage's keyed scratch folder, each appearing whole, one writer of the folder at a time.

A state is a folder of shards under canonical names (`model.checkpoint.shards`): masters and moments, each part of the model
from one rank, and `state.json`, which says of which training it is and how far that was. So a state belongs to no plan: any
number of ranks, however the model is spread over them, goes on from it.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from model.checkpoint import CONFIG, Shards, publish
from model.checkpoint.convert import QUANTITIES, STATE
from model.checkpoint.shards import ShardFile, from_json, to_json, write_index
from stages._manifest import canonical, write_atomic
from stages._runner import StageError

_KEPT = 2
_RECEIPT = "rank-{}.json"
_PATIENCE = 1_800.0  # seconds that the slowest rank may take to write its share


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: a training whose DVC process was killed may still be running.

    Raises:
        StageError: another process trains in this folder.
    """
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StageError(
                "another process is training with the same inputs", file=folder, remedy="wait for it, or end it"
            ) from error
        yield


def leave_receipt(folder: Path, rank: int, files: Mapping[str, ShardFile]) -> None:
    """Say that rank `rank` has written its files below `folder`."""
    write_atomic(folder / _RECEIPT.format(rank), to_json(files))


def gather_receipts(folder: Path, world: int, stop: threading.Event) -> None:
    """Wait until every rank has written its share, then write the index of all; no collective, so any thread may call it.

    Raises:
        StageError: a rank did not come in time, or `stop` was set.
    """
    until = time.monotonic() + _PATIENCE
    receipts = [folder / _RECEIPT.format(rank) for rank in range(world)]
    while absent := [rank for rank, receipt in enumerate(receipts) if not receipt.exists()]:
        if stop.wait(0.01) or time.monotonic() > until:
            raise StageError(f"ranks {absent} have not written their share", file=folder, remedy="see their messages")
    files: dict[str, ShardFile] = {}
    for receipt in receipts:
        files |= from_json(receipt.read_text(encoding="utf-8"))
        receipt.unlink()
    write_index(folder, files)


class TrainingState:
    """States by number of finished steps, `state/step-NNNNNNNNN`, the newest two kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "state"
        self.folder.mkdir(exist_ok=True)

    def newest(self) -> int | None:
        """Finished steps of the newest complete state, or None."""
        names = sorted(path.name for path in self.folder.glob("step-*"))
        return int(names[-1].removeprefix("step-")) if names else None

    def partial(self, steps: int) -> Path:
        """The folder that all ranks write their shares of a state to, before it is published."""
        partial = self.folder / f".step-{steps:09d}.partial"
        partial.mkdir(exist_ok=True)
        return partial

    def publish(self, steps: int, facts: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Put a state whose shards and index are written in its place; then drop states older than the newest two.

        Args:
            steps: finished steps.
            facts: content of state.json but for the steps.
            config: content of config.json, as in a checkpoint.
        """
        partial = self.partial(steps)
        (partial / STATE).write_text(canonical({**facts, "steps": steps}), encoding="utf-8")
        (partial / CONFIG).write_text(canonical(config), encoding="utf-8")
        publish(partial, self.folder / f"step-{steps:09d}")
        for old in sorted(self.folder.glob("step-*"))[:-_KEPT]:
            shutil.rmtree(old)

    def facts(self, steps: int) -> dict[str, Any]:
        """Content of a state's state.json.

        Raises:
            StageError: absent or damaged.
        """
        file = self.folder / f"step-{steps:09d}" / STATE
        try:
            facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return facts
        except (OSError, ValueError) as error:
            raise StageError(f"the state cannot be read: {error}", file=file, remedy="remove its folder") from error

    def load(self, steps: int, rank: int, size: int) -> dict[str, Mapping[str, Tensor]]:
        """Masters and moments for tensor-parallel rank `rank` of `size`, read when they are asked for.

        Raises:
            CheckpointError: a shard is missing, truncated or altered; at once or while reading.
        """
        shards = Shards(self.folder / f"step-{steps:09d}")
        return {quantity: _Quantity(shards, quantity, rank, size) for quantity in QUANTITIES}

    def clear_partial(self) -> None:
        """Remove what a killed writer left behind."""
        for partial in self.folder.glob(".step-*"):
            shutil.rmtree(partial)


class _Quantity(Mapping[str, Tensor]):
    """One rank's masters, or one of its moments, by parameter name."""

    def __init__(self, shards: Shards, quantity: str, rank: int, size: int) -> None:
        self._shards, self._prefix, self._rank, self._size = shards, f"{quantity}.", rank, size

    def __getitem__(self, name: str) -> Tensor:
        return self._shards.read(self._prefix + name, self._rank, self._size)

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._shards if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

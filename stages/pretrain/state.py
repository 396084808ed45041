"""What survives a kill: the live state in the stage's keyed scratch folder, written atomically, one writer at a time."""

from __future__ import annotations

import csv
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from stages._runner import StageError

_KEPT = 2
LOSS_FIELDS = (
    "step", "samples", "tokens", "batch_size", "lr", "loss", "gmask_loss", "mask_loss", "instruction_loss", "grad_norm"
)  # fmt: skip


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


class TrainingState:
    """States by number of finished steps: `step-NNNNNN/rank-R.safetensors` and the masters, the newest two kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "state"
        self.folder.mkdir(exist_ok=True)

    def newest(self) -> int | None:
        """Finished steps of the newest complete state, or None."""
        names = sorted(path.name for path in self.folder.glob("step-*"))
        return int(names[-1].removeprefix("step-")) if names else None

    def save_rank(self, steps: int, rank: int, tensors: Mapping[str, Tensor]) -> None:
        """Write one rank's share beside; `publish` makes the state visible when every rank has done so."""
        partial = self._partial(steps)
        partial.mkdir(exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial / f"rank-{rank}.safetensors")

    def publish(self, steps: int, masters: Mapping[str, Tensor]) -> None:
        """Add the FP32 weights, flush, rename; then drop states older than the newest two."""
        partial, final = self._partial(steps), self.folder / f"step-{steps:09d}"
        save_file(dict(masters), partial / "masters.safetensors")
        for path in [*partial.iterdir(), partial]:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in sorted(self.folder.glob("step-*"))[:-_KEPT]:
            shutil.rmtree(old)

    def load(self, steps: int, rank: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """This rank's share and the masters of a saved state."""
        folder = self.folder / f"step-{steps:09d}"
        return load_file(folder / f"rank-{rank}.safetensors"), load_file(folder / "masters.safetensors")

    def clear_partial(self) -> None:
        """Remove what a killed writer left behind."""
        for partial in self.folder.glob(".step-*"):
            shutil.rmtree(partial)

    def _partial(self, steps: int) -> Path:
        return self.folder / f".step-{steps:09d}"


class LossLog:
    """`loss.csv`: one row per step, flushed; a resumed run drops the rows behind the state it resumes from."""

    def __init__(self, path: Path, finished_steps: int) -> None:
        rows = _read_rows(path, finished_steps)
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, LOSS_FIELDS, lineterminator="\n")
        self._writer.writeheader()
        self._writer.writerows(rows)
        self._file.flush()

    def add(self, row: Mapping[str, float | int | str]) -> None:
        """Append one step."""
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _read_rows(path: Path, finished_steps: int) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    return [row for row in rows if int(row["step"]) <= finished_steps]

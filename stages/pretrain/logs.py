"""Numbers by step as CSV, one row flushed after each step; a resumed run drops the rows behind the state it resumes from."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages._runner import StageError
from stages.pretrain import validation
from stages.pretrain.gradients import part_names
from stages.pretrain.settings import Params
from stages.pretrain.stability import SpikeWatch

Row = dict[str, Any]
LOSS_FIELDS = (
    "step", "samples", "tokens", "batch_size", "lr", "loss", "gmask_loss", "mask_loss", "instruction_loss", "grad_norm"
)  # fmt: skip
_ANEW = "restore it; or remove the folder that it lies in, and train from the start"


class StepLog:
    """A log with one row for each of its steps, the first column "step" counting finished steps.

    Attributes:
        rows: what it held when it was opened.
    """

    def __init__(self, path: Path, fields: Sequence[str], finished_steps: int, *, every_step: bool = False) -> None:
        """Keep the whole rows up to `finished_steps` of the file at `path`, if there is one, and go on behind them.

        Raises:
            StageError: it is no such log, or it should have a row for `every_step` and has not.
        """
        self.rows = _read_rows(path, finished_steps)
        if every_step and [int(row["step"]) for row in self.rows] != list(range(1, finished_steps + 1)):
            # States are flushed to the disk; rows may be lost with the machine.
            found = f"{len(self.rows)} rows where {finished_steps} steps are finished"
            raise StageError(f"{found}: it was cut or edited", file=path, remedy=_ANEW)
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, fields, lineterminator="\n")
        self._writer.writeheader()
        self._writer.writerows(self.rows)
        self._file.flush()

    def add(self, row: Mapping[str, float | int | str]) -> None:
        """Append one step; a field without a value stays empty."""
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Logs:
    """What rank 0 writes down of each step, and the watch over it.

    Attributes:
        watch: None where the policy is off.
        note: the last step's loss, for people.
    """

    def __init__(self, folder: Path, params: Params, finished_steps: int) -> None:
        """Open the logs of a training with `finished_steps` behind it; raises StageError as `StepLog` does."""
        self.note = ""
        self.watch: SpikeWatch | None = None
        self._loss = StepLog(folder / "loss.csv", LOSS_FIELDS, finished_steps, every_step=True)
        self._norms = self._validation = None
        if params.validation is not None:
            self._validation = StepLog(folder / "validation.csv", validation.FIELDS, finished_steps)
        if params.stability is not None:
            names = ("step", *part_names(params.model.layers))
            self._norms = StepLog(folder / "gradient_norms.csv", names, finished_steps, every_step=True)
            self.watch = SpikeWatch(params.stability)
            for row, norms in zip(self._loss.rows, self._norms.rows, strict=True):
                self.watch.see(int(row["step"]) - 1, watched(row, norms, params.precision))

    def add(self, row: Row, norms: Row, validated: Row | None) -> None:
        """Append a step."""
        self.note = f"loss {row.get('loss', 'none: passed over')}"
        if self._norms is not None:
            self._norms.add({"step": row["step"], **norms})
        if self._validation is not None and validated is not None:
            self._validation.add(validated)
        self._loss.add(row)

    def close(self) -> None:
        """Close the files."""
        for log in (self._loss, self._norms, self._validation):
            if log is not None:
                log.close()


def watched(row: Mapping[str, Any], norms: Mapping[str, Any], precision: str) -> dict[str, str]:
    """The numbers of a step that a spike shows in; an FP16 step that overflowed changed nothing but the loss scale."""
    values = {"gradient norm": row.get("grad_norm", "")}
    values |= {f"gradient norm of {name}": norm for name, norm in norms.items() if name != "step"}
    if precision == "fp16":
        values = {name: text for name, text in values.items() if text and math.isfinite(float(text))}
    return {"loss": row.get("loss", ""), **values}


def _read_rows(path: Path, finished_steps: int) -> list[dict[str, str]]:
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if None not in row.values()]
        return [row for row in rows if int(row["step"]) <= finished_steps]
    except (ValueError, KeyError, csv.Error) as error:
        raise StageError(f"not the log of a training: {error}", file=path, remedy=_ANEW) from error

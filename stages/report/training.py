"""Section "Training": the curves of loss.csv, the checkpoints, and the journal's segments with their hashes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ledger.journal import Segment
from ledger.lineage.weights import damage
from ledger.query import Ledger
from stages._runner import StageError
from stages.report.charts import Line, Marker, Words, bins, line_chart
from stages.report.facts import Facts, number

_FILE = "data/pretrain/loss.csv"
_COLUMNS = ("step", "samples", "tokens", "batch_size", "lr", "loss", "gmask_loss", "mask_loss", "instruction_loss", "grad_norm")
_KINDS = (("gmask_loss", "[gMASK]", "c-1"), ("mask_loss", "[MASK]", "c-2"), ("instruction_loss", "instruction", "c-3"))
_NATS = "nats per target token"
_WIDE, _NARROW, _SMALL = (1040, 340), (350, 280), (340, 210)
Series = Sequence[float | None]


def section(facts: Facts, ledger: Ledger) -> dict[str, Any]:
    """What the template needs."""
    rows = facts.csv(_FILE, _COLUMNS)
    table: dict[str, list[float | None]] = {
        name: [number(row, name, _FILE, index) for index, row in enumerate(rows)] for name in _COLUMNS
    }
    steps = [value for value in table["step"] if value is not None]
    if len(steps) < len(rows):
        raise StageError("a row without a step", file=_FILE, remedy="run `dvc repro --force pretrain`")
    marks = [Marker(segment.last_step + 1, str(segment.checkpoint)) for segment in ledger.journal.main_line()]
    return {
        "charts": _charts(steps, table, marks),
        "first": rows[0],
        "last": rows[-1],
        "tail": _tail(table["loss"]),
        "segments": [_segment(facts, item, ledger) for item in ledger.journal.segments],
        "plan": ledger.plan,
        "params": facts.of("pretrain", "params"),
        "parameters": facts.count("pretrain", "parameters"),
    }


def _charts(steps: list[float], table: dict[str, list[float | None]], marks: list[Marker]) -> dict[str, Any]:
    span = (0.0, steps[-1])
    loss = _banded("loss", "c-1", steps, table["loss"], 300)
    smooth = [_banded(label, style, steps, table[name], 60, band=False) for name, label, style in _KINDS if any(table[name])]
    said = f"From {table['loss'][0]:.2f} at step {steps[0]:.0f} to {table['loss'][-1]:.2f} at step {steps[-1]:.0f}."
    words = {
        "loss": ("Loss of every step", f"Loss per target token. {said} The band spans the steps behind each point.", _NATS),
        "kinds": ("Loss by kind of sample", "Mean loss of [gMASK], [MASK] and instruction samples by step.", _NATS),
        "lr": ("Learning rate", "Learning rate by step.", ""),
        "grad": ("Gradient norm", "Norm of the gradient before clipping, by step.", ""),
        "batch": ("Batch size", "Sequences in a batch, by step.", ""),
    }

    def chart(key: str, suffix: str, lines: list[Line], size: tuple[int, int], low: float | None = None) -> Any:
        title, description, unit = words[key]
        named = Words(f"{key}{suffix}", title, description, "step", unit)
        return line_chart(named, lines, size, marks if key == "loss" else (), span, low)

    return {
        "loss": chart("loss", "", [loss], _WIDE),
        "loss_narrow": chart("loss", "-narrow", [loss], _NARROW),
        "kinds": chart("kinds", "", smooth, _WIDE),
        "kinds_narrow": chart("kinds", "-narrow", smooth, _NARROW),
        "lr": chart("lr", "", [_banded("learning rate", "c-4", steps, table["lr"], 200, band=False)], _SMALL, 0.0),
        "grad": chart("grad", "", [_banded("norm", "c-4", steps, table["grad_norm"], 120)], _SMALL, 0.0),
        "batch": chart("batch", "", [_banded("sequences", "c-4", steps, table["batch_size"], 200, band=False)], _SMALL, 0.0),
    }


def _banded(label: str, style: str, steps: list[float], values: Series, most: int, *, band: bool = True) -> Line:
    x, mean, low, high = bins(steps, values, most)
    if not x:
        raise StageError(f"no values of {label}", file=_FILE, remedy="run `dvc repro --force pretrain`")
    return Line(label, style, x, mean, low, high) if band and len(x) < len(steps) else Line(label, style, x, mean)


def _tail(losses: Series) -> float:
    """Mean loss of the last twentieth of the steps."""
    values = [value for value in losses if value is not None]
    part = values[-max(1, len(values) // 20) :]
    return math.fsum(part) / len(part)


def _segment(facts: Facts, segment: Segment, ledger: Ledger) -> dict[str, Any]:
    """A row of the journal; where the checkpoint's weights lie here they are hashed again."""
    on_main_line = any(item.index == segment.index for item in ledger.journal.main_line())
    folder = f"data/pretrain/checkpoints/{segment.checkpoint}"
    present = on_main_line and segment.checkpoint is not None and (facts.io.root / folder).is_dir()
    if present and (wrong := damage(facts.io.input(folder), segment.weights_sha256)):
        raise StageError(
            f"checkpoint {segment.checkpoint} has other weights than the journal names: {'; '.join(wrong)}",
            file=folder,
            remedy="run `dvc checkout data/pretrain`, or train again",
        )
    status = segment.status if on_main_line or segment.status == "abandoned" else "left behind"
    skipped = ", ".join(f"{first}–{last}" if first < last else str(first) for first, last in segment.skipped)
    return {"segment": segment, "status": status, "skipped": skipped, "present": present}

"""Quantizes the last checkpoint, and says what that did to every layer.

Reads:    data/pretrain/checkpoints (the last one)
Writes:   data/quantize: a folder for each scheme, errors.csv
Params:   quantize
Promises: an export names its parent and the SHA-256 of the parent's weights; biases are kept; the same checkpoint gives the
          same bytes; weights that cannot be quantized are refused by name

`int8` and `int4` are GLM-130B's formats, one scale a row; `int4-group` has one for every `group_size` columns.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from stages._params import OneOf, Range
from stages._runner import StageError, StageIO, run_stage

if TYPE_CHECKING:
    from model.quantization import LayerError, Scheme

_CHECKPOINTS = "data/pretrain/checkpoints"
_FIELDS = ("scheme", "layer", "relative_error", "one_minus_cosine", "max_abs_error")


@dataclass(frozen=True)
class Params:
    """Section `quantize` of params.yaml."""

    schemes: tuple[Annotated[str, OneOf("int8", "int4", "int4-group")], ...]
    group_size: Annotated[int, Range(2, 65_536)]

    def __post_init__(self) -> None:
        if not self.schemes or len(set(self.schemes)) < len(self.schemes):
            raise ValueError(f"schemes must name one or more, each once, found {', '.join(self.schemes) or 'none'}")


def scheme(name: str, group_size: int) -> Scheme:
    """The scheme that params.yaml calls `name`."""
    from model.quantization import Scheme

    return Scheme(name, 8 if name == "int8" else 4, group_size if name == "int4-group" else None)


def last_checkpoint(folder: Path) -> Path:
    """The checkpoint with the most steps.

    Raises:
        StageError: there is none.
    """
    checkpoints = sorted(path for path in folder.glob("step-*") if path.is_dir())
    if not checkpoints:
        raise StageError("there is no checkpoint", file=_CHECKPOINTS, remedy="run `dvc repro --force pretrain`")
    return checkpoints[-1]


def write_errors(path: Path, errors: dict[str, Sequence[LayerError]]) -> None:
    """`errors.csv`: seven digits, so that a sum taken in another order gives the same file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_FIELDS)
        for name, rows in errors.items():
            for layer, *numbers in map(astuple, rows):
                writer.writerow([name, layer, *(f"{number:.6e}" for number in numbers)])


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Export every scheme."""
    from model.checkpoint import WEIGHTS, CheckpointError, stored_bytes
    from model.quantization import quantize_checkpoint

    checkpoint = last_checkpoint(io.input(_CHECKPOINTS))
    errors: dict[str, Sequence[LayerError]] = {}
    for name in io.track(params.schemes, "quantizing", len(params.schemes), "schemes"):
        try:
            errors[name] = quantize_checkpoint(checkpoint, io.output / name, scheme(name, params.group_size))
        except CheckpointError as error:
            raise StageError(str(error).replace(f"{io.root}/", ""), remedy="see quantize in params.yaml, or retrain") from error
    write_errors(io.output / "errors.csv", errors)
    sizes = {name: (io.output / name / WEIGHTS).stat().st_size for name in params.schemes}
    mean = {name: sum(row.relative_error for row in rows) / len(rows) for name, rows in errors.items()}
    for name in params.schemes:
        io.log(f"{name}: {sizes[name]:,} bytes, mean relative error of the weights {mean[name]:.4f}")
    return {
        "checkpoint": checkpoint.name,
        "checkpoint_bytes": stored_bytes(checkpoint),
        "bytes": sizes,
        "matrices": {name: len(rows) for name, rows in errors.items()},
        "mean_relative_error": {name: round(value, 6) for name, value in mean.items()},
    }


if __name__ == "__main__":
    run_stage("quantize", Params, run)

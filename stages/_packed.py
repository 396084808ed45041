"""Packed samples as arrays over the memory of an Arrow record batch (docs/data.md, "Packed samples")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.packed import Stored
from stages._errors import damaged


def open_samples(file: Path, name: str) -> pa.RecordBatchFileReader:
    """A shard of packed samples, mapped into memory; `name` is what messages call it.

    Raises:
        StageError: it is damaged or cut short.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(file)))
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(error, name, "run `dvc repro --force pack`") from error


def columns(batch: pa.RecordBatch) -> Stored:
    """The stored columns of a record batch, without a copy."""
    return Stored(*(matrix(batch.column(name)) for name in Stored._fields))


def matrix(column: pa.Array) -> NDArray[Any]:
    """A column of numbers as [rows], one of lists as [rows, n]; without a copy."""
    if not pa.types.is_fixed_size_list(column.type):
        return _numbers(column)
    return _numbers(column.flatten()).reshape(len(column), column.type.list_size)


def _numbers(column: pa.Array) -> NDArray[Any]:
    return np.from_dlpack(column)  # `to_numpy` loads pandas: 40 MB of every rank

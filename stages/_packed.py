"""Packed samples as arrays over the memory of an Arrow record batch (docs/data.md, "Packed samples")."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from model.packed import Stored


def columns(batch: pa.RecordBatch) -> Stored:
    """The stored columns of a record batch, without a copy."""
    return Stored(*(matrix(batch.column(name)) for name in Stored._fields))


def matrix(column: pa.Array) -> NDArray[Any]:
    """A column of numbers as [rows], one of lists as [rows, n]; without a copy."""
    if not pa.types.is_fixed_size_list(column.type):
        plain: NDArray[Any] = column.to_numpy(zero_copy_only=True)
        return plain
    grid: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), column.type.list_size)
    return grid

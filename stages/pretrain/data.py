"""Batches straight from the memory map: no Python loop over samples, no copy but the gather."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from model.glm import Batch

_COLUMNS = ("input_ids", "target_ids", "position_ids", "block_start", "block_context")


class PackedSamples:
    """The packed sequences of `data/pack`, addressed by row."""

    def __init__(self, folder: Path) -> None:
        """Map every shard below `folder`.

        Raises:
            FileNotFoundError: there is no shard.
        """
        shards = sorted(folder.glob("samples-*.arrow"))
        if not shards:
            raise FileNotFoundError(f"{folder}: no samples-*.arrow")
        readers = [pa.ipc.open_file(pa.memory_map(str(shard))) for shard in shards]
        batches = [reader.get_batch(index) for reader in readers for index in range(reader.num_record_batches)]
        self._columns = {name: [_matrix(batch, name) for batch in batches] for name in _COLUMNS}
        self._kinds = [batch.column("kind").to_numpy() for batch in batches]
        self.length = self._columns["input_ids"][0].shape[1]
        self._first = np.cumsum([0, *(len(batch) for batch in batches)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The sequences at `rows`, in that order, as int64 tensors."""
        return Batch(**{name: torch.from_numpy(self._gather(self._columns[name], rows)) for name in _COLUMNS})

    def kinds(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Objective of each sequence at `rows`."""
        return self._gather([kinds[:, None] for kinds in self._kinds], rows)[:, 0]

    def _gather(self, parts: list[NDArray[np.int32]], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        part = np.searchsorted(self._first, rows, side="right") - 1
        out = np.empty((len(rows), parts[0].shape[1]), dtype=np.int64)
        for index in np.unique(part):
            here = part == index
            out[here] = parts[index][rows[here] - self._first[index]]
        return out


def _matrix(batch: pa.RecordBatch, name: str) -> NDArray[np.int32]:
    column = batch.column(name)
    matrix: NDArray[np.int32] = column.flatten().to_numpy(zero_copy_only=True).reshape(len(batch), -1)
    return matrix

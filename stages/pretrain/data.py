"""Batches straight from the memory map: no Python loop over samples, no copy but the gather."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.glm import Batch
from model.packed import Stored, targets_and_positions
from stages._packed import matrix, open_samples


class PackedSamples:
    """The packed sequences of `data/pack`, addressed by row."""

    def __init__(self, folder: Path) -> None:
        """Map every shard below `folder`.

        Raises:
            FileNotFoundError: there is no shard.
            StageError: one is damaged or cut short.
        """
        shards = sorted(folder.glob("samples-*.arrow"))
        if not shards:
            raise FileNotFoundError(f"{folder}: no samples-*.arrow")
        readers = [open_samples(shard, f"data/pack/{shard.name}") for shard in shards]
        batches = [reader.get_batch(index) for reader in readers for index in range(reader.num_record_batches)]
        self._columns = {name: [matrix(batch.column(name)) for batch in batches] for name in Stored._fields}
        self._first = np.cumsum([0, *(len(batch) for batch in batches)])
        self.length: int = self._columns["input_ids"][0].shape[1]

    def __len__(self) -> int:
        return int(self._first[-1])

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The sequences at `rows`, in that order, as int64 tensors."""
        packed = self.stored(rows)
        targets, positions = targets_and_positions(packed)
        arrays = (packed.input_ids, targets, positions, packed.block_start, packed.block_context)
        return Batch(*(torch.from_numpy(array).long() for array in arrays))

    def kinds(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Objective of each sequence at `rows`."""
        return self.column("kind", rows).astype(np.int64)

    def stored(self, rows: NDArray[np.int64]) -> Stored:
        """The stored columns of the sequences at `rows`, in that order."""
        return Stored(*(self.column(name, rows) for name in Stored._fields))

    def column(self, name: str, rows: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """One column of the sequences at `rows`, into `out` if given; the loop goes over the record batches touched."""
        parts = self._columns[name]
        if out is None:
            out = np.empty((len(rows), *parts[0].shape[1:]), parts[0].dtype)
        part = np.searchsorted(self._first, rows, side="right") - 1
        order = np.argsort(part, kind="stable")
        touched, starts = np.unique(part[order], return_index=True)
        for index, mine in zip(touched.tolist(), np.split(order, starts[1:]), strict=True):
            out[mine] = parts[index][rows[mine] - self._first[index]]
        return out

"""Packed samples by row, with the targets and positions that follow from what is stored (docs/data.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.packed import targets_and_positions
from stages._packed import columns
from stages._runner import StageError
from stages.report.facts import Facts


class PackedSamples:
    """The samples of data/pack, mapped into memory."""

    def __init__(self, facts: Facts, last: int) -> None:
        """Open them.

        Raises:
            StageError: row `last`, the highest that training consumed, is not there.
        """
        files = sorted(facts.io.input("data/pack").glob("samples-*.arrow"))
        shards = [pa.ipc.open_file(pa.memory_map(str(file))) for file in files]
        self._batches = [shard.get_batch(index) for shard in shards for index in range(shard.num_record_batches)]
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)
        if not self._batches or last >= self._ends[-1]:
            raise StageError(
                f"training consumed row {last}, but it is not there",
                file="data/pack/samples-*.arrow",
                remedy="run `dvc repro pack`",
            )

    def kinds(self) -> npt.NDArray[np.int8]:
        """Kind of every sample, by row."""
        found: npt.NDArray[np.int8] = np.concatenate([batch["kind"].to_numpy() for batch in self._batches])
        return found

    def record(self, row: int) -> dict[str, Any]:
        """What is stored of a sample, and the targets and positions that follow, as plain lists."""
        batch = int(np.searchsorted(self._ends, row, side="right"))
        offset = row - int(self._ends[batch]) + self._batches[batch].num_rows
        stored = columns(self._batches[batch].slice(offset, 1))
        targets, positions = targets_and_positions(stored)
        arrays = {**stored._asdict(), "target_ids": targets, "position_ids": positions}
        return {name: array[0].tolist() for name, array in arrays.items()}

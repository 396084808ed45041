"""The tombstone file as stages read it: what was taken down, and which rows of a table that is; see `ledger.tombstones`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ledger import LedgerError
from ledger.tombstones import FILE, Tombstones, read
from stages._errors import StageError
from stages._runner import StageIO

__all__ = ["FILE", "Tombstones", "named", "of_stage"]


def of_stage(io: StageIO) -> Tombstones:
    """The tombstones that a stage has to honour.

    Raises:
        StageError: the file is not declared, absent or damaged.
    """
    try:
        return read(io.input(FILE))
    except LedgerError as error:
        raise StageError(str(error)) from error


def named(batches: Iterable[pa.RecordBatch], stones: Tombstones) -> NDArray[np.bool_]:
    """Which rows of batches with doc_id and, where the table has it, raw_sha256 were taken down."""
    ids, hashes = (pa.array(sorted(names), pa.string()) for names in (stones.ids, stones.hashes))
    found = [np.zeros(0, np.bool_)]
    for batch in batches:
        mask = pc.is_in(batch["doc_id"], ids)
        if "raw_sha256" in batch.schema.names:
            mask = pc.or_(mask, pc.is_in(batch["raw_sha256"], hashes))
        found.append(mask.to_numpy(zero_copy_only=False))
    return np.concatenate(found)

"""Suite "takedowns": no document of the tombstone file stands in what training reads, by its id or by its raw bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages import _documents, _takedowns
from stages._runner import StageIO
from stages.validate.expect import Suite, Table, zero

_TABLES = (
    ("data/decontaminate", "*/documents/*.parquet"),
    ("data/encode", "*.documents.parquet"),
    ("data/instruct", "*.parquet"),
)


def standing(io: StageIO, stones: _takedowns.Tombstones) -> Iterator[pa.Table]:
    """One row for each document that was taken down, with the rows of tables that are still this document."""
    found: Counter[str] = Counter()
    owner = {document.raw_sha256: document.doc_id for document in stones.documents if document.alone}
    for dependency, pattern in _TABLES:
        for file in sorted(io.input(dependency).glob(pattern)):
            found.update(_rows(file, stones, owner))
    rows = [{"doc_id": document.doc_id, "standing": found[document.doc_id]} for document in stones.documents]
    yield pa.Table.from_pylist(rows)


def _rows(file: Path, stones: _takedowns.Tombstones, owner: dict[str, str]) -> Iterator[str]:
    """The tombstones' names of a table's rows that were taken down."""
    columns = [name for name in ("doc_id", "raw_sha256") if name in pq.read_schema(file).names]
    for batch in _documents.read_batches(file, columns):
        for row in np.flatnonzero(_takedowns.named([batch], stones)).tolist():
            doc_id = batch["doc_id"][row].as_py()
            yield doc_id if doc_id in stones.ids else owner[batch["raw_sha256"][row].as_py()]


def suite(io: StageIO, stones: _takedowns.Tombstones) -> Suite:
    """The suite."""
    tables = [Table("documents", "doc_id", lambda: standing(io, stones))]
    return Suite("takedowns", tables, zero("documents", "standing"))

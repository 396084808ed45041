"""The table of documents (docs/data.md): what the shards said of theirs, and where each of them lies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages import _documents
from stages.encode.shard import read_documents

DOCUMENTS = pa.schema(
    [
        pa.field("doc_index", pa.int64(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)


def write_table(path: Path, shards: Iterable[str]) -> int:
    """Write one row for each document of the shards' tables, in order, and return their number."""
    return _documents.write_batches(path, DOCUMENTS, _placed(shards))


def _placed(shards: Iterable[str]) -> Iterator[pa.RecordBatch]:
    documents = tokens = 0
    for number, address in enumerate(shards):
        batch = read_documents(address)
        end = tokens + np.cumsum(batch["length"].to_numpy(), dtype=np.int64)
        new = {
            "doc_index": pa.array(np.arange(documents, documents + len(batch))),
            "shard": pa.array(np.full(len(batch), number, np.int32)),
            "offset": pa.array(end - batch["length"].to_numpy()),
        }
        columns = [new[name] if name in new else batch[name] for name in DOCUMENTS.names]
        documents, tokens = documents + len(batch), int(end[-1])
        yield pa.record_batch(columns, schema=DOCUMENTS)

"""The documents table (docs/data.md): one schema, streaming reads and deterministic writes for four stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("author", pa.string()),
        pa.field("date", pa.string()),
        pa.field("raw_sha256", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
    ]
)
_ROWS = 4096


def document_files(folder: Path) -> list[Path]:
    """The shards below `folder`/documents, in the one order in which every stage reads them."""
    return sorted((folder / "documents").glob("*.parquet"))


def read_documents(folder: Path) -> Iterator[dict[str, Any]]:
    """All documents of a stage's output, as dictionaries, shard after shard, without loading a shard whole."""
    for file in document_files(folder):
        yield from read_shard(file)


def read_shard(file: Path) -> Iterator[dict[str, Any]]:
    """The documents of one shard."""
    for batch in pq.ParquetFile(file).iter_batches(_ROWS):
        yield from batch.to_pylist()


def write_table(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as Parquet (zstd, row groups of 4,096) and return their number; equal rows give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, buffer = 0, []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for row in rows:
            buffer.append(row)
            if len(buffer) == _ROWS:
                writer.write_table(pa.Table.from_pylist(buffer, schema=schema))
                count += len(buffer)
                buffer = []
        if buffer or count == 0:
            writer.write_table(pa.Table.from_pylist(buffer, schema=schema))
            count += len(buffer)
    return count


def write_shard(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write documents to one shard; see `write_table`."""
    return write_table(path, SCHEMA, rows)

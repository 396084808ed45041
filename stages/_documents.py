"""The documents table (docs/data.md): one schema, streaming reads and deterministic writes for four stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages import _storage
from stages._errors import StageError, damaged

SCHEMA = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("url", pa.string()),
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
_DIFFERENT = ("doc_id", "path", "url", "raw_sha256", "text")  # for which a dictionary would be built, and then given up


def document_files(folder: Path) -> list[Path]:
    """The shards below `folder`/documents, in the one order in which every stage reads them."""
    return sorted((folder / "documents").glob("*.parquet"))


def read_documents(folder: Path) -> Iterator[dict[str, Any]]:
    """All documents of a stage's output, as dictionaries, shard after shard, without loading a shard whole."""
    for file in document_files(folder):
        yield from read_shard(file)


def read_shard(file: str | Path) -> Iterator[dict[str, Any]]:
    """The documents of one shard, a local file or an address (see `_storage`).

    Raises:
        StageError: it is damaged or cut short, or a text is not UTF-8.
    """
    first = 0
    for batch in read_batches(file):
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError as error:
            place = first + _undecodable(batch)
            raise StageError(f"text is not UTF-8 ({error.reason})", file=_shown(file), row=place) from error
        yield from rows
        first += len(batch)


def read_batches(file: str | Path, columns: list[str] | None = None, rows: int = _ROWS) -> Iterator[pa.RecordBatch]:
    """The record batches of one Parquet table.

    Raises:
        StageError: it is damaged or cut short, or has not all of the columns.
    """
    with opened(file) as table:
        missing = set(columns or ()).difference(table.schema_arrow.names)
        if missing:
            raise StageError(
                f"there is no column {min(missing)!r}", file=_shown(file), remedy="run `dvc repro`, which makes it anew"
            )
        yield from table.iter_batches(rows, columns=columns, use_threads=False)  # shards are what runs in parallel


@contextmanager
def opened(file: str | Path) -> Iterator[pq.ParquetFile]:
    """A Parquet table, a local file or an address.

    Raises:
        StageError: it is damaged or cut short.
    """
    source = _storage.open_input(file) if _storage.is_remote(str(file)) else str(file)
    try:
        with pq.ParquetFile(source) as table:
            yield table
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(error, _shown(file)) from error


def _undecodable(batch: pa.RecordBatch) -> int:
    """The first row of a batch that is no text."""
    for row in range(len(batch)):
        try:
            batch.slice(row, 1).to_pylist()
        except UnicodeDecodeError:
            return row
    raise AssertionError("every row is text")


def _shown(file: str | Path) -> str:
    """A file as messages call it: by its path in the project, where stages run."""
    return str(file).removeprefix(f"{Path.cwd()}/")


def write_table(path: str | Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as Parquet (row groups of 4,096) and return their number; equal rows give equal bytes."""
    return write_batches(path, schema, _in_batches(rows, schema))


def write_batches(path: str | Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write record batches as Parquet, one row group each, and return the number of rows; the file appears whole.

    Documents, which every stage up to encode reads and writes again, are compressed with LZ4: a third larger than with zstd,
    and read and written in less time. Other tables take zstd.
    """
    count, documents = 0, schema == SCHEMA
    compression = "lz4" if documents else "zstd"
    repeated = [name for name in schema.names if name not in _DIFFERENT] if documents else True
    with (
        _storage.atomic_output(path) as stream,
        pq.ParquetWriter(stream, schema, compression=compression, use_dictionary=repeated) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)
            count += len(batch)
    return count


def _in_batches(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    buffer: list[dict[str, Any]] = []
    empty = True
    for row in rows:
        buffer.append(row)
        if len(buffer) == _ROWS:
            yield pa.RecordBatch.from_pylist(buffer, schema=schema)
            buffer, empty = [], False
    if buffer or empty:
        yield pa.RecordBatch.from_pylist(buffer, schema=schema)


def write_rows(path: str | Path, rows: Sequence[tuple[Any, ...]]) -> int:
    """Write documents given as tuples in the order of `SCHEMA`, in half the time of dictionaries; see `write_table`."""
    return write_batches(path, SCHEMA, (_batch(rows[start : start + _ROWS]) for start in range(0, len(rows), _ROWS)))


def _batch(rows: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def write_shard(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write documents to one shard; see `write_table`."""
    return write_table(path, SCHEMA, rows)

"""Rows that carry a text field: JSON lines (also the Pile's `.jsonl.zst` with `meta`), Parquet and Arrow IPC."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from stages.corpus.params import Columns
from stages.corpus.records import PLAIN, Reading, Record, bounded_lines, newlines, oversized, tidy, undecodable
from stages.corpus.warc import language

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 1024
_BATCH_BYTES = 16 * 2**20  # of uncompressed columns, held at once
_ARROW_FILE = b"ARROW1"
_STATED = ("id", "title", "author", "date", "url", "lang", "licence", "part")
Fields = dict[str, tuple[str, ...]]


def read_jsonl(stream: IO[bytes], how: Reading = PLAIN) -> Iterator[Record]:
    """One document per line, an object with the fields that `how.columns` names; blank lines are passed over."""
    fields = _fields(how.columns)
    for number, (line, size) in enumerate(bounded_lines(stream, how.max_record_bytes), 1):
        raw = line.rstrip(b"\r\n")
        fragment = str(number)
        if not line:
            yield oversized(fragment, size, how.max_record_bytes)
            continue
        if not raw.strip():
            continue
        try:
            row = json.loads(raw.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            yield undecodable(fragment, raw, error)
        except (ValueError, RecursionError) as error:
            yield Record(fragment, raw, "", problem=f"not valid JSON ({error})")
        else:
            stated = [_value(row, fields[name]) for name in _STATED]
            yield _record(fragment, raw, _value(row, fields["text"]), stated, how.columns)


def read_parquet(stream: IO[bytes], how: Reading = PLAIN) -> Iterator[Record]:
    """One document per row, read in batches; `raw` is the text column's bytes. `how.part` is a range of row groups.

    Raises:
        ValueError: no Parquet file, a damaged one, or one without a column that `how.columns` names.
    """
    import pyarrow.parquet as pq

    with _seekable(stream) as seekable:
        file = pq.ParquetFile(seekable, pre_buffer=False)
        columns = _selection(file.schema_arrow.names, how.columns)
        meta = file.metadata
        first, last = how.part or (0, meta.num_row_groups)
        number = sum(meta.row_group(group).num_rows for group in range(first))
        for group in range(first, last):
            sizes = meta.row_group(group)
            rows = sizes.num_rows * _BATCH_BYTES // max(1, sizes.total_byte_size)
            rows = min(_BATCH_ROWS, max(1, rows))
            for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
                yield from _rows(batch, number, how)
                number += batch.num_rows


def read_arrow(stream: IO[bytes], how: Reading = PLAIN) -> Iterator[Record]:
    """One document per row of an Arrow IPC file or stream (what `datasets` writes), as for Parquet."""
    import pyarrow as pa

    with _seekable(stream) as seekable:
        magic = seekable.read(len(_ARROW_FILE))
        seekable.seek(0)
        number = 0
        if magic == _ARROW_FILE:
            file = pa.ipc.open_file(seekable)
            schema, batches = file.schema, (file.get_batch(index) for index in range(file.num_record_batches))
        else:
            reader = pa.ipc.open_stream(seekable)
            schema, batches = reader.schema, iter(reader)
        columns = _selection(schema.names, how.columns)
        for batch in batches:
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                rows = batch.select(columns).slice(start, _BATCH_ROWS)
                yield from _rows(rows, number, how)
                number += rows.num_rows


@contextmanager
def _seekable(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """The stream itself, or a copy on disk where it cannot be read from the end."""
    if stream.seekable():
        yield stream
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(stream, copy, 1 << 20)
        copy.seek(0)
        yield copy


def _selection(present: list[str], columns: Columns) -> list[str]:
    """The top-level columns to read.

    Raises:
        ValueError: one that the source names is absent; those that every source has by default may be.
    """
    default = Columns()
    roots = []
    for key, path in vars(columns).items():
        root = (path or "").partition(".")[0]
        if root in present:
            roots.append(root)
        elif path and (key == "text" or path != getattr(default, key)):
            raise ValueError(f"no column {root!r}; there are: {', '.join(present)}")
    return list(dict.fromkeys(roots))


def _rows(batch: pa.RecordBatch, before: int, how: Reading) -> Iterator[Record]:
    columns, size = batch.to_pydict(), batch.num_rows
    values = {name: _column(columns, keys, size) for name, keys in _fields(how.columns).items()}
    texts = values.pop("text")
    stated = zip(*(values[name] for name in _STATED), strict=True)
    for number, (text, fields) in enumerate(zip(texts, stated, strict=True), before + 1):
        raw = text.encode() if isinstance(text, str) else b""
        if len(raw) > how.max_record_bytes:
            yield oversized(str(number), len(raw), how.max_record_bytes)
        else:
            yield _record(str(number), raw, text, fields, how.columns)


def _column(columns: dict[str, list[Any]], keys: tuple[str, ...], size: int) -> list[Any]:
    """What `keys` lead to in each of `size` rows."""
    if not keys or keys[0] not in columns:
        return [None] * size
    return [_value(value, keys[1:]) for value in columns[keys[0]]] if keys[1:] else columns[keys[0]]


def _fields(columns: Columns) -> Fields:
    """The keys that lead to each field of a row."""
    return {name: tuple(path.split(".")) if path else () for name, path in vars(columns).items()}


def _record(number: str, raw: bytes, text: Any, fields: Iterable[Any], columns: Columns) -> Record:
    """The record of what a row holds in each field: its text, and those that `_STATED` names."""
    if not isinstance(text, str):
        return Record(number, raw, "", problem=f"no string field {columns.text!r}")
    name, title, author, date, url, lang, licence, part = map(_stated, fields)
    if columns.id and name is None:
        return Record(number, raw, "", problem=f"no field {columns.id!r}")
    fragment = name or number
    fragment = f"{part}/{fragment}" if part else fragment
    return Record(fragment, raw, tidy(newlines(text)), title, author, date, url, language(lang), licence, part)


def _value(row: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        row = row.get(key) if isinstance(row, dict) else None
    return row


def _stated(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return None if isinstance(value, (dict, list)) else str(value)

"""Rows that carry a text field: JSON lines (also the Pile's `.jsonl.zst` with `meta`), Parquet and Arrow IPC."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from stages.corpus.params import Columns
from stages.corpus.records import PLAIN, Reading, Record, bounded_lines, newlines, oversized, tidy, undecodable
from stages.corpus.warc import language

_BATCH_ROWS = 1024
_BATCH_BYTES = 16 * 2**20  # of uncompressed columns, held at once
_ARROW_FILE = b"ARROW1"
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
            yield _record(fragment, raw, row, fields)


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
            for batch in file.iter_batches(min(_BATCH_ROWS, max(1, rows)), row_groups=[group], columns=columns):
                yield from _rows(batch.to_pylist(), number, how)
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
                rows = batch.select(columns).slice(start, _BATCH_ROWS).to_pylist()
                yield from _rows(rows, number, how)
                number += len(rows)


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


def _rows(rows: Iterable[dict[str, Any]], before: int, how: Reading) -> Iterator[Record]:
    fields = _fields(how.columns)
    for number, row in enumerate(rows, before + 1):
        value = _value(row, fields["text"])
        raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else b""
        if len(raw) > how.max_record_bytes:
            yield oversized(str(number), len(raw), how.max_record_bytes)
        else:
            yield _record(str(number), raw, row, fields)


def _fields(columns: Columns) -> Fields:
    """The keys that lead to each field of a row."""
    return {name: tuple(path.split(".")) if path else () for name, path in vars(columns).items()}


def _record(number: str, raw: bytes, row: Any, fields: Fields) -> Record:
    text = _value(row, fields["text"])
    if not isinstance(text, str):
        return Record(number, raw, "", problem=f"no string field {'.'.join(fields['text'])!r}")
    stated = {name: _stated(row, keys) for name, keys in fields.items() if keys and name != "text"}
    name, part = stated.get("id"), stated.get("part")
    if fields["id"] and name is None:
        return Record(number, raw, "", problem=f"no field {'.'.join(fields['id'])!r}")
    fragment = name or number
    return Record(
        fragment=f"{part}/{fragment}" if part else fragment,
        raw=raw,
        text=tidy(newlines(text)),
        title=stated.get("title"),
        author=stated.get("author"),
        date=stated.get("date"),
        url=stated.get("url"),
        lang=language(stated.get("lang")),
        licence=stated.get("licence"),
        part=part,
    )


def _value(row: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        row = row.get(key) if isinstance(row, dict) else None
    return row


def _stated(row: Any, keys: tuple[str, ...]) -> str | None:
    value = _value(row, keys)
    return None if value is None or isinstance(value, (dict, list)) else str(value)

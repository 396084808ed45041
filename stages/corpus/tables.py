"""Rows that carry a text field: JSON lines (also the Pile's `.jsonl.zst` with `meta`) and Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from stages.corpus.records import Record, decode, tidy, undecodable

_TEXT = "text"


def read_jsonl(stream: IO[bytes]) -> Iterator[Record]:
    """One document per line, an object with `text` and optionally `title`, `author`, `date`; blank lines are passed over."""
    for number, line in enumerate(stream, 1):
        raw = line.rstrip(b"\r\n")
        if not raw.strip():
            continue
        fragment = str(number)
        try:
            row = json.loads(decode(raw))
        except UnicodeDecodeError as error:
            yield undecodable(fragment, raw, error)
        except ValueError as error:
            yield Record(fragment, raw, "", problem=f"not valid JSON ({error})")
        else:
            yield _record(fragment, raw, row)


def read_parquet(stream: IO[bytes]) -> Iterator[Record]:
    """One document per row, read in batches; columns as for JSON lines. `raw` is the text column's bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(stream if stream.seekable() else pa.BufferReader(stream.read()))
    columns = [name for name in (_TEXT, "title", "author", "date") if name in file.schema_arrow.names]
    number = 0
    for batch in file.iter_batches(1024, columns=columns):
        for row in batch.to_pylist():
            number += 1
            yield _record(str(number), str(row.get(_TEXT) or "").encode(), row)


def _record(fragment: str, raw: bytes, row: Any) -> Record:
    text = row.get(_TEXT) if isinstance(row, dict) else None
    if not isinstance(text, str):
        return Record(fragment, raw, "", problem=f"no string field {_TEXT!r}")
    stated = {key: str(row[key]) for key in ("title", "author", "date") if row.get(key) is not None}
    return Record(fragment, raw, tidy(text.replace("\r\n", "\n").replace("\r", "\n")), **stated)

"""Plain text: one file, one document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from stages.corpus.records import PLAIN, Reading, Record, decode, tidy, undecodable, whole


def read_text(stream: IO[bytes], how: Reading = PLAIN) -> Iterator[Record]:
    """The whole file as one document."""
    raw = whole(stream, how.max_record_bytes)
    if isinstance(raw, Record):
        yield raw
        return
    try:
        yield Record("", raw, tidy(decode(raw)))
    except UnicodeDecodeError as error:
        yield undecodable("", raw, error)

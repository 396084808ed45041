"""Plain text: one file, one document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from stages.corpus.records import Record, decode, tidy, undecodable


def read_text(stream: IO[bytes]) -> Iterator[Record]:
    """The whole file as one document."""
    raw = stream.read()
    try:
        yield Record("", raw, tidy(decode(raw)))
    except UnicodeDecodeError as error:
        yield undecodable("", raw, error)

"""What every reader yields, one `Record` per document, and the small text helpers that readers share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from stages.corpus.params import Columns
from stages.corpus.streams import Limits

_BLOCK = 1 << 20


class Record(NamedTuple):
    """One document as its file states it.

    Attributes:
        fragment: its name inside the file (row, scene, page id, offset); empty where the file is the document.
        raw: its bytes before any change.
        text: what was extracted, with newline line ends.
        lang, licence: the record's own claims, where it makes any.
        part: name of the collection inside the file that the record belongs to (the Pile's `pile_set_name`).
        problem: why the record cannot be used, as `reason (detail)`, else None.
        passed: why the record is no document at all (a redirect, a picture); such records are only counted.
        size: bytes of a record that was too large to be loaded; `raw` is empty then.
    """

    fragment: str
    raw: bytes
    text: str
    title: str | None = None
    author: str | None = None
    date: str | None = None
    url: str | None = None
    lang: str | None = None
    licence: str | None = None
    part: str | None = None
    problem: str | None = None
    passed: str | None = None
    size: int = 0


@dataclass(frozen=True)
class Reading:
    """How a source's files are read; see `params.Source` and `params.Params`.

    Attributes:
        part: the half-open range of a file that is read: row groups of Parquet, byte offsets of a multistream dump.
    """

    columns: Columns = field(default_factory=Columns)
    main_content: bool = True
    max_record_bytes: int = 64 * 2**20
    limits: Limits = field(default_factory=Limits)
    part: tuple[int, int] | None = None


PLAIN = Reading()
Reader = Callable[[IO[bytes], Reading], Iterator[Record]]


class TruncatedError(ValueError):
    """The file ends in the middle of a record."""


def decode(raw: bytes) -> str:
    """UTF-8 text without byte-order mark, with newline line ends.

    Raises:
        UnicodeDecodeError: the bytes are not UTF-8.
    """
    return newlines(raw.decode("utf-8-sig"))


def newlines(text: str) -> str:
    """`text` with newline line ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def undecodable(fragment: str, raw: bytes, error: UnicodeDecodeError) -> Record:
    """The record that reports bytes which are not UTF-8."""
    return Record(fragment, raw, "", problem=f"not UTF-8 (byte {error.start}: {error.reason})")


def oversized(fragment: str, size: int, limit: int) -> Record:
    """The record that reports one of `size` bytes which was passed over without being loaded."""
    return Record(fragment, b"", "", problem=f"record too large ({size} bytes, max_record_bytes is {limit})", size=size)


def whole(stream: IO[bytes], limit: int) -> bytes | Record:
    """All bytes of a file that is one record, or the record that reports that it has more than `limit`."""
    raw = stream.read(limit + 1)
    return raw if len(raw) <= limit else oversized("", len(raw) + _drain(stream), limit)


def bounded_lines(stream: IO[bytes], limit: int) -> Iterator[tuple[bytes, int]]:
    """(line, its bytes) of every line; a line of more than `limit` bytes comes empty, and was never in memory whole."""
    while line := stream.readline(limit + 2):  # two more for the line's end
        size = len(line)
        if size <= limit + 1 or line.endswith(b"\n"):
            yield line, size
            continue
        while not line.endswith(b"\n") and (line := stream.readline(_BLOCK)):
            size += len(line)
        yield b"", size


def _drain(stream: IO[bytes]) -> int:
    size = 0
    while block := stream.read(_BLOCK):
        size += len(block)
    return size


def tidy(text: str) -> str:
    """Lines without trailing blanks, at most one empty line between two, none at the ends."""
    lines = "\n".join(map(str.rstrip, text.split("\n")))
    return (re.sub(r"\n{3,}", "\n\n", lines) if "\n\n\n" in lines else lines).strip("\n")

"""What every reader yields: one `Record` per document, and the small text helpers they share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO


@dataclass(frozen=True)
class Record:
    """One document as its file states it.

    Attributes:
        fragment: its name inside the file (row, scene, page id); empty where the file is the document.
        raw: its bytes before any change.
        text: what was extracted, with newline line ends.
        problem: why the record cannot be used, else None.
    """

    fragment: str
    raw: bytes
    text: str
    title: str | None = None
    author: str | None = None
    date: str | None = None
    problem: str | None = None


Reader = Callable[[IO[bytes]], Iterator[Record]]


def decode(raw: bytes) -> str:
    """UTF-8 text without byte-order mark, with newline line ends.

    Raises:
        UnicodeDecodeError: the bytes are not UTF-8.
    """
    return raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def undecodable(fragment: str, raw: bytes, error: UnicodeDecodeError) -> Record:
    """The record that reports bytes which are not UTF-8."""
    return Record(fragment, raw, "", problem=f"not UTF-8 (byte {error.start}: {error.reason})")


def tidy(text: str) -> str:
    """Lines without trailing blanks, at most one empty line between two, none at the ends."""
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n")

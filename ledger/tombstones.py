"""The tombstone file: what was asked to be taken down, and every document that this means. Stages read it, the command writes.

`takedowns.jsonl` in the project's root is a dependency of the stages that leave documents out (decontaminate, instruct) and of
the gate that looks whether they are gone (validate). One canonical JSON object a line:

    {"asked":"https://example.org/a","date":"2026-01-31","documents":[{"alone":true,"doc_id":"web/a.warc#17","raw_sha256":"...",
     "role":"survivor"},{"alone":true,"doc_id":"web/b.warc#3","raw_sha256":"...","role":"copy"}],
     "held_by":[{"checkpoint":"step-000800","exposures":1,"first_step":690,"tokens":42,"weights_sha256":"..."}],"kind":"url"}

`held_by` remembers the checkpoints that had been shown any of them on that day, for the next build no longer knows. A text is
named by its SHA-256, for the file outlives what it took down. Documents are named twice, by id and by the hash of their raw
bytes: under another id the same bytes are still the same document. Where several records share one file's bytes (`alone` is
false) the hash says nothing of one of them, and the id alone counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from ledger import LedgerError, canonical_json

FILE = "takedowns.jsonl"
ROLES = ("survivor", "copy", "single", "labelled row")


@dataclass(frozen=True)
class Document:
    """A document that was taken down.

    Attributes:
        doc_id, raw_sha256: its names.
        role: `survivor` of a cluster of duplicates, `copy` that was dropped for one, `single`, or `labelled row`.
        alone: no document that stays has the same raw bytes.
    """

    doc_id: str
    raw_sha256: str
    role: str
    alone: bool

    def __post_init__(self) -> None:
        texts = isinstance(self.doc_id, str) and isinstance(self.raw_sha256, str)
        if not texts or not re.fullmatch(r"[0-9a-f]{64}", self.raw_sha256):
            raise ValueError("doc_id is a text and raw_sha256 are 64 of 0-9 and a-f")
        if self.role not in ROLES or not isinstance(self.alone, bool):
            raise ValueError(f"role is one of {', '.join(ROLES)}, and alone is true or false")


@dataclass(frozen=True)
class Holder:
    """A checkpoint that was shown documents: its name and weights, in how many samples and tokens, and from which step on."""

    checkpoint: str
    weights_sha256: str
    exposures: int
    tokens: int
    first_step: int

    def __post_init__(self) -> None:
        if any(type(number) is not int for number in (self.exposures, self.tokens, self.first_step)):
            raise ValueError("exposures, tokens and first_step are whole numbers")


@dataclass(frozen=True)
class Tombstone:
    """One request: its kind and words (see `ledger.query.match.Request`), the day it was made, and the documents it means.

    `held_by` are the checkpoints that had been shown any of these documents.
    """

    kind: str
    asked: str
    date: str
    documents: tuple[Document, ...]
    held_by: tuple[Holder, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", self.date):
            raise ValueError(f"date {self.date!r} is not YYYY-MM-DD")
        if not self.documents:
            raise ValueError("a tombstone names at least one document")

    def to_line(self) -> str:
        """The file's line, without its line end."""
        return canonical_json(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Tombstone:
        """The inverse of `to_line`.

        Raises:
            ValueError: not the canonical JSON of a tombstone.
        """
        data: Any = json.loads(line)
        if not isinstance(data, dict) or data.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"expected an object with the fields {', '.join(field.name for field in fields(cls))}")
        documents = tuple(Document(**document) for document in data.pop("documents"))
        held_by = tuple(Holder(**holder) for holder in data.pop("held_by"))
        tombstone = cls(**data, documents=documents, held_by=held_by)
        if tombstone.to_line() != line:
            raise ValueError("not in canonical form")
        return tombstone


@dataclass(frozen=True)
class Tombstones:
    """The whole file, and the names that no document may bear any more."""

    entries: tuple[Tombstone, ...] = ()

    @cached_property
    def ids(self) -> frozenset[str]:
        """Their ids."""
        return frozenset(document.doc_id for document in self.documents)

    @cached_property
    def hashes(self) -> frozenset[str]:
        """The raw hashes that name one record alone."""
        return frozenset(document.raw_sha256 for document in self.documents if document.alone)

    def __bool__(self) -> bool:
        return bool(self.entries)

    def names(self, doc_id: str, raw_sha256: str) -> bool:
        """Whether a document was taken down."""
        return doc_id in self.ids or raw_sha256 in self.hashes

    @cached_property
    def documents(self) -> list[Document]:
        """Every document once, by id."""
        found = {document.doc_id: document for entry in self.entries for document in entry.documents}
        return [found[doc_id] for doc_id in sorted(found)]


def read(file: Path) -> Tombstones:
    """The tombstones in a file; an empty one has none.

    Raises:
        LedgerError: the file is absent, or a line is damaged; the message names it.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise LedgerError(f"{file}: no such file. Remedy: restore it; without takedowns it is empty") from error
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(Tombstone.from_line(line))
        except (ValueError, TypeError) as error:
            raise LedgerError(f"{file}, line {number}: not a tombstone: {error}. Remedy: restore the line") from error
    return Tombstones(tuple(entries))


def append(file: Path, entries: Iterable[Tombstone]) -> list[Tombstone]:
    """Append what the file does not say yet of its requests and documents, whatever their dates; gives what was new."""
    known = {(entry.kind, entry.asked, entry.documents) for entry in read(file).entries} if file.exists() else set()
    new = [entry for entry in entries if (entry.kind, entry.asked, entry.documents) not in known]
    with file.open("a", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{entry.to_line()}\n" for entry in new)
    return new

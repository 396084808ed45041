"""Reads each origin once, hands every member to the sources that want it, and writes documents and register."""

from __future__ import annotations

import fnmatch
import hashlib
import lzma
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from xml.etree.ElementTree import ParseError

from stages._documents import write_shard
from stages._manifest import canonical, write_atomic
from stages._params import to_plain
from stages._runner import StageError, StageIO
from stages.corpus import archive
from stages.corpus.download import fetch
from stages.corpus.mediawiki import read_mediawiki
from stages.corpus.params import Origin, Params, Source
from stages.corpus.plays import read_play
from stages.corpus.poems import read_poems
from stages.corpus.records import Reader, Record
from stages.corpus.tables import read_jsonl, read_parquet
from stages.corpus.text import read_text

READERS: dict[str, Reader] = {
    "text": read_text,
    "play": read_play,
    "poems": read_poems,
    "mediawiki": read_mediawiki,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
}
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ParseError, OSError, ValueError)


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Write every source's documents and `sources.json`; return counts by source."""
    register: list[dict[str, Any]] = []
    for origin in params.origins:
        path, sha256 = fetch(origin, io)
        shelves = [Shelf(source, params, io.output) for source in origin.sources]
        with io.progress(f"read {origin.name}", None, "documents") as progress:
            for shelf in _read(origin, path, shelves):
                shelf.flush_if_full()
                progress.advance()
        register += [shelf.finish(origin, sha256) for shelf in shelves]
    write_atomic(io.output / "sources.json", canonical(register))
    return {
        "documents": sum(entry["documents"] for entry in register),
        "bytes": sum(entry["bytes"] for entry in register),
        "sources": {entry["id"]: {key: entry[key] for key in ("documents", "bytes", "skipped")} for entry in register},
    }


class Shelf:
    """One source under construction: which members it takes, its documents so far, its counts."""

    def __init__(self, source: Source, params: Params, output: Path) -> None:
        self.source = source
        self._params, self._output = params, output
        self._prefix = f"{source.folder.strip('/')}/" if source.folder.strip("/") else ""
        self._unmatched = set(source.members)
        self._rows: list[dict[str, Any]] = []
        self._pending_bytes = self._shards = 0
        self._ids: set[str] = set()
        self.documents = self.bytes = 0
        self.skipped: Counter[str] = Counter()
        self.capped = False

    def wants(self, member: str) -> bool:
        """Whether this source reads the member; remembers which patterns have found something."""
        if self.capped or not member.startswith(self._prefix):
            return False
        name = member.removeprefix(self._prefix)
        matching = {pattern for pattern in self.source.members if fnmatch.fnmatchcase(name, pattern.removeprefix("!"))}
        self._unmatched -= matching
        return bool(matching) and not any(pattern.startswith("!") for pattern in matching)

    def add(self, member: str, record: Record) -> None:
        """Take one document, unless it is bad or would pass the source's size limit.

        Raises:
            StageError: the document is bad and the policy is to stop, or its id stands already.
        """
        path = member.removeprefix(self._prefix) + (f"#{record.fragment}" if record.fragment else "")
        problem = record.problem or _problem(record)
        if problem:
            self._refuse(member, record, problem)
            return
        size = len(record.text.encode())
        if self.source.max_bytes is not None and self.bytes + size > self.source.max_bytes:
            self.capped = True
            return
        doc_id = f"{self.source.id}/{path}"
        if doc_id in self._ids:
            raise StageError(f"source {self.source.id}: two documents are named {doc_id}", file=member, row=record.fragment)
        self._ids.add(doc_id)
        self._rows.append(
            {
                "doc_id": doc_id,
                "source": self.source.id,
                "path": path,
                "licence": self.source.licence,
                "lang": self.source.lang,
                "title": record.title,
                "author": record.author or self.source.author,
                "date": record.date,
                "raw_sha256": hashlib.sha256(record.raw).hexdigest(),
                "text": record.text,
            }
        )
        self.documents += 1
        self.bytes += size
        self._pending_bytes += size

    def _refuse(self, member: str, record: Record, problem: str) -> None:
        if self._params.on_bad_document == "stop":
            raise StageError(
                f"source {self.source.id}: bad document: {problem}",
                file=member,
                row=record.fragment or None,
                remedy="correct the file, leave it out of members, or set corpus.on_bad_document to skip",
            )
        self.skipped[problem.partition(" (")[0]] += 1

    def flush_if_full(self) -> None:
        """Write a shard once enough text is waiting."""
        if self._pending_bytes >= self._params.shard_bytes:
            self._flush()

    def _flush(self) -> None:
        write_shard(self._output / "documents" / f"{self.source.id}-{self._shards:05d}.parquet", self._rows)
        self._rows, self._pending_bytes = [], 0
        self._shards += 1

    def finish(self, origin: Origin, sha256: str) -> dict[str, Any]:
        """Write what is left and return the register's entry.

        Raises:
            StageError: a pattern found no file, or no document was read.
        """
        if self._unmatched and not self.capped:
            raise StageError(
                f"source {self.source.id}: no file matches {', '.join(sorted(self._unmatched))} below {self._prefix or '/'}",
                file=origin.file or origin.path,
                remedy="correct folder and members in corpus.origins",
            )
        if self.documents == 0:
            raise StageError(f"source {self.source.id}: no document was read", file=origin.file or origin.path)
        if self._rows:
            self._flush()
        described = {key: value for key, value in to_plain(origin).items() if key != "sources"}
        return {
            **described,
            **to_plain(self.source),
            "sha256": sha256,
            "documents": self.documents,
            "bytes": self.bytes,
            "skipped": dict(self.skipped),
            "capped": self.capped,
        }


def _problem(record: Record) -> str | None:
    if not record.text.strip():
        return "empty"
    if any("\ud800" <= char <= "\udfff" for char in f"{record.text}{record.title}{record.author}"):
        return "not Unicode text (half a surrogate pair)"  # JSON can say it, UTF-8 cannot
    return None


def _read(origin: Origin, path: Path, shelves: list[Shelf]) -> Iterator[Shelf]:
    """Put every document of an origin on the shelves that want it; yields the shelf after each record."""
    name = origin.file or Path(str(origin.path)).name
    member = name
    try:
        for member, stream in archive.members(path, name, lambda member: _wanted(member, shelves)):
            yield from _read_member(member, stream, [shelf for shelf in shelves if shelf.wants(member)])
            if all(shelf.capped for shelf in shelves):
                return
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:  # this machine failed, not the file
            raise
        names = ", ".join(shelf.source.id for shelf in shelves)
        raise StageError(
            f"sources {names}: the file cannot be read: {error}",
            file=member if member == name else f"{name}: {member}",
            remedy="check reader and file in corpus.origins; a kept download lies in runs/corpus/scratch/downloads",
        ) from error


def _read_member(member: str, stream: IO[bytes], shelves: list[Shelf]) -> Iterator[Shelf]:
    readers = {shelf.source.reader for shelf in shelves}
    if len(readers) > 1:
        raise StageError(f"sources {', '.join(s.source.id for s in shelves)} read the same file differently", file=member)
    for record in READERS[readers.pop()](stream):
        for shelf in shelves:
            if not shelf.capped:
                shelf.add(member, record)
                yield shelf
        if all(shelf.capped for shelf in shelves):
            return


def _wanted(member: str, shelves: list[Shelf]) -> bool:
    return bool([shelf for shelf in shelves if shelf.wants(member)])  # every shelf is asked: each keeps its own tally

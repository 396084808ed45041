"""A worker's part: brings and opens files, hands every member to the sources that want it, writes documents and quarantine."""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import IO, Any
from xml.etree.ElementTree import ParseError

from stages._documents import write_table
from stages._errors import StageError
from stages._manifest import sha256_file
from stages.corpus import archive
from stages.corpus.download import Downloads, Wanted, names
from stages.corpus.mediawiki import read_mediawiki
from stages.corpus.plan import Task, Unit
from stages.corpus.plays import read_play
from stages.corpus.poems import read_poems
from stages.corpus.records import Reader, TruncatedError
from stages.corpus.remote import public
from stages.corpus.shelf import QUARANTINE, Shelf
from stages.corpus.streams import ExpansionError, Limits, decompressed
from stages.corpus.tables import read_arrow, read_jsonl, read_parquet
from stages.corpus.text import read_text
from stages.corpus.warc import read_warc, read_wet
from stages.corpus.webpages import read_html

READERS: dict[str, Reader] = {
    "text": read_text,
    "play": read_play,
    "poems": read_poems,
    "mediawiki": read_mediawiki,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "html": read_html,
    "warc": read_warc,
    "wet": read_wet,
}
_DECOMPRESS_THEMSELVES = frozenset({"warc", "wet"})  # their offsets are places in the compressed file
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ParseError,
    OSError,
    ValueError,
    NotImplementedError,  # a compression method that zipfile does not know
)
_CUT = ("truncated", "incomplete frame", "unexpected end", "no element found", "unclosed token", "end-of-stream")


def read_units(task: Task) -> dict[str, Any]:
    """Read a task's units; what it found, by source, with the files' checksums. Shards lie below `task.work`.

    Raises:
        StageError: a file cannot be had or read and the policy is to stop.
    """
    shelves = [Shelf(source, task.params, partial(task.shard, source)) for source in task.origin.sources]
    files: list[dict[str, Any]] = []
    for unit in task.units:
        if all(shelf.full for shelf in shelves):
            break
        path, sha256 = _bring(unit, task)
        files.append({"file": unit.name, "sha256": sha256, "bytes": path.stat().st_size, "url": _url(unit, task)})
        _read(unit, path, shelves)
        if unit.downloaded and not task.origin.keep:
            path.unlink()
    refused = [row for shelf in shelves for row in shelf.refused]
    if refused:
        write_table(task.quarantine, QUARANTINE, refused)
    for shelf in shelves:
        shelf.flush()
        shelf.tally.matched |= shelf.selector.matched
    return {
        "sources": {shelf.source.id: shelf.tally.to_plain() for shelf in shelves},
        "files": files,
        "refused": len(refused),
    }


def _bring(unit: Unit, task: Task) -> tuple[Path, str]:
    """The unit's file on this machine, and its SHA-256."""
    if unit.downloaded:
        wanted = Wanted(
            title=public(unit.address),
            identity=unit.address,
            sources=names(task.origin),
            file=unit.name,
            sha256=unit.sha256,
            locate=lambda transport: unit.address,
        )
        return Downloads(Path(task.scratch)).bring(wanted)
    path = Path(unit.address)
    return path, unit.sha256 or sha256_file(path)


def _url(unit: Unit, task: Task) -> str | None:
    return public(unit.address) if task.origin.kind == "store" else None


def _read(unit: Unit, path: Path, shelves: list[Shelf]) -> None:
    """Put every document of a file on the shelves that want it; what is damaged costs no more than itself."""
    limits = shelves[0].reading().limits
    inside = archive.is_archive(unit.name)
    names: set[str] = set()
    try:
        for member in archive.members(path, unit.name, lambda name: bool(_wanting(unit.prefix + name, shelves)), limits):
            name = unit.prefix + member.name
            wanting = _wanting(name, shelves)
            file = f"{unit.name}: {member.name}" if inside else name
            problem = member.problem or ("duplicate id (an archive's second member of this name)" if name in names else None)
            names.add(name)
            if member.raw is None or problem is not None:
                for shelf in wanting:
                    shelf.refuse(file, str(problem), None, member.size)
                continue
            try:
                _read_member(unit, name, member.raw, wanting, limits)
            except _BROKEN as error:
                _refuse_file(file, error, wanting, member.size)
            if all(shelf.full for shelf in shelves):
                return
    except _BROKEN as error:
        _refuse_file(unit.name, error, [shelf for shelf in shelves if not shelf.full], path.stat().st_size)


def _read_member(unit: Unit, name: str, raw: IO[bytes], shelves: list[Shelf], limits: Limits) -> None:
    readers = {shelf.source.reader for shelf in shelves}
    if len(readers) > 1 or len({shelf.reading() for shelf in shelves}) > 1:
        raise StageError(f"sources {', '.join(s.source.id for s in shelves)} read the same file differently", file=name)
    reader = readers.pop()
    as_stored = reader in _DECOMPRESS_THEMSELVES or (reader == "mediawiki" and unit.part is not None)
    stream = raw if as_stored else decompressed(name, raw, limits)
    taking = shelves
    for record in READERS[reader](stream, shelves[0].reading(unit.part)):
        for shelf in taking:
            shelf.add(name, record)
            if shelf.full:
                taking = [other for other in taking if not other.full]  # the loop goes on over the shelves as they were
        if not taking:
            return


def _wanting(name: str, shelves: list[Shelf]) -> list[Shelf]:
    wanting = [shelf for shelf in shelves if shelf.selector.wants(name)]  # every shelf is asked: each keeps its own tally
    return [shelf for shelf in wanting if not shelf.full]


def _refuse_file(file: str, error: Exception, shelves: list[Shelf], size: int) -> None:
    """Quarantine a file, or what of it lies behind the damage, for all the sources that want it.

    Raises:
        StageError: the policy is to stop.
        OSError: this machine failed, not the file.
    """
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno is not None):
        raise error
    problem = _problem(error)
    if any(shelf.stops for shelf in shelves):
        raise StageError(
            f"sources {', '.join(shelf.source.id for shelf in shelves)}: the file cannot be read: {problem}",
            file=file,
            remedy="check reader and file in corpus.origins, or set corpus.on_bad_document to quarantine, which keeps what "
            "stands before the damage; a kept download lies in runs/corpus/scratch/downloads",
        ) from error
    for shelf in shelves:
        shelf.refuse(file, problem, None, size)


def _problem(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ExpansionError):
        return f"expands too far ({text})"
    if isinstance(error, (EOFError, TruncatedError)) or any(words in text.lower() for words in _CUT):
        return f"truncated ({text})"
    return f"damaged ({text or type(error).__name__})"

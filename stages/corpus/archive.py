"""Opens archives in place: members are streams, nothing is extracted to disk, member names are only labels."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Self

from stages.corpus.records import TruncatedError
from stages.corpus.streams import Limits, decompressed, guarded

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_ZIP = (".zip", ".whl")


@dataclass(frozen=True)
class Member:
    """A file in an archive, or by itself.

    Attributes:
        name: relative, with forward slashes.
        raw: its bytes as they are stored (a `.gz` member is still compressed); None where it must not be read.
        problem: why it must not be read, as `reason (detail)`.
        size: bytes that the archive states.
    """

    name: str
    raw: IO[bytes] | None
    problem: str | None = None
    size: int = 0


def is_archive(name: str) -> bool:
    """Whether a file of this name holds members."""
    return name.endswith(_TAR + _ZIP)


def members(path: Path, name: str, wanted: Callable[[str], bool], limits: Limits) -> Iterator[Member]:
    """The wanted members of an archive, in its own order; each stream is valid until the next.

    Links, and members whose names are absolute or climb out of the archive, come without a stream; devices are passed over.

    Args:
        path: the archive, or a single file.
        name: the file name that tells the format; `path` itself may be named by a checksum.
        wanted: chooses by member name.
        limits: for the archive's own compression.

    Raises:
        tarfile.TarError, zipfile.BadZipFile, TruncatedError, and what `streams.decompressed` raises: the archive is damaged.
    """
    if name.endswith(_TAR):
        yield from _tar_members(path, name, wanted, limits)
    elif name.endswith(_ZIP):
        yield from _zip_members(path, wanted, limits)
    elif wanted(name):
        with path.open("rb") as stream:
            yield Member(name, stream, size=path.stat().st_size)


def _tar_members(path: Path, name: str, wanted: Callable[[str], bool], limits: Limits) -> Iterator[Member]:
    with (
        path.open("rb") as raw,
        decompressed(name, raw, limits) as stream,
        tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar,
    ):
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # they would pile up: a crawl has millions
            label = _label(info.name)
            if (info.isfile() or info.islnk() or info.issym()) and wanted(label):
                problem = _problem(info.name, "" if info.isfile() else info.linkname)
                content = None if problem else tar.extractfile(info)
                forward = (
                    guarded(content, partial(int, info.size), limits) if content else None
                )  # content claims that it can seek
                yield Member(label, forward, problem, info.size)


def _zip_members(path: Path, wanted: Callable[[str], bool], limits: Limits) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            label = _label(entry.filename)
            if entry.is_dir() or not wanted(label):
                continue
            link = "elsewhere" if stat.S_ISLNK(entry.external_attr >> 16) else ""
            problem = _problem(entry.filename, link) or ("encrypted" if entry.flag_bits & 1 else None)
            if problem:
                yield Member(label, None, problem, entry.file_size)
                continue
            with archive.open(entry) as stream:
                yield Member(label, guarded(stream, partial(_stored, entry), limits), None, entry.file_size)


def _stored(entry: zipfile.ZipInfo) -> int:
    return entry.compress_size


class _Header(tarfile.TarInfo):
    """Says so where an archive ends without its end mark or in a damaged header; tarfile takes both for the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise TruncatedError("the archive ends without its end mark") from error
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"damaged member header: {error}") from error


def _label(name: str) -> str:
    return str(PurePosixPath(name))


def _problem(name: str, link: str) -> str | None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return "unsafe member name (it leads out of the archive)"
    return f"link (to {link})" if link else None

"""Opens archives in place: members are streams, nothing is extracted to disk, member names are only labels."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from stages._runner import StageError

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_ZIP = (".zip", ".whl")


def members(path: Path, name: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes]]]:
    """The wanted regular files in an archive, in its own order, decompressed; each stream is valid until the next.

    Args:
        path: the archive, a single file, or a folder (whose files come sorted by name).
        name: the file name that tells the format; `path` itself may be named by a checksum.
        wanted: chooses by member name, relative, with forward slashes.

    Raises:
        StageError: a wanted member's name is absolute or climbs out of the archive.
    """
    if path.is_dir():
        yield from _folder_members(path, wanted)
    elif name.endswith(_TAR):
        with tarfile.open(path, "r:*") as tar:
            for info in tar:
                stream = tar.extractfile(info) if info.isfile() and wanted(_label(info.name)) else None
                if stream is not None:
                    yield _safe(info.name, name), decompressed(info.name, stream)
    elif name.endswith(_ZIP):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir() and wanted(_label(entry.filename)):
                    with archive.open(entry) as stream:
                        yield _safe(entry.filename, name), decompressed(entry.filename, stream)
    elif wanted(name):
        with path.open("rb") as stream:
            yield name, decompressed(name, stream)


def decompressed(name: str, stream: IO[bytes]) -> IO[bytes]:
    """The stream behind a `.bz2`, `.gz`, `.xz` or `.zst` file; any other name is passed through."""
    if name.endswith(".bz2"):
        return cast(IO[bytes], bz2.BZ2File(stream))
    if name.endswith(".gz"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if name.endswith(".xz"):
        return cast(IO[bytes], lzma.LZMAFile(stream))
    if name.endswith(".zst"):
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(stream, "zstd"))
    return stream


def _folder_members(folder: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes]]]:
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if wanted(name):
            with file.open("rb") as stream:
                yield name, decompressed(name, stream)


def _label(name: str) -> str:
    return str(PurePosixPath(name))


def _safe(name: str, archive: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise StageError(f"unsafe member name {name!r}", file=archive, remedy="use another archive; this one is hostile")
    return str(path)

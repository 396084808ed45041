"""Shards by address: an absolute path on this machine, or any fsspec URL such as `s3://bucket/key`.

What is written appears whole or not at all, here and in an object store, so that a shard that exists is a finished shard.
Credentials and endpoints come from where fsspec and the store's own library look for them (environment, configuration
files), never from parameters.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

_written: dict[str, int] | None = None


def is_remote(address: str) -> bool:
    """Whether an address names something outside this machine's file system."""
    return "://" in address and not address.startswith("file://")


def join(base: str, *parts: str) -> str:
    """`parts` below `base`."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def open_input(address: str | Path) -> IO[bytes]:
    """A seekable binary stream.

    Raises:
        FileNotFoundError: nothing is there.
    """
    address = str(address)
    if not is_remote(address):
        return _local(address).open("rb")
    return cast(IO[bytes], _filesystem(address).open(address, "rb"))


@contextmanager
def atomic_output(address: str | Path) -> Iterator[IO[bytes]]:
    """A binary stream whose content appears at `address`, whole, when the block ends without an exception."""
    address = str(address)
    if is_remote(address):
        with tempfile.TemporaryDirectory() as folder:
            partial = Path(folder) / "shard"
            with partial.open("wb") as stream:
                yield stream
            _filesystem(address).put_file(str(partial), address)
            _note(address, partial.stat().st_size)
        return
    path = _local(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            size = stream.tell()
        Path(name).chmod(0o644)  # mkstemp makes it the owner's alone
        Path(name).replace(path)
        _note(address, size)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def written() -> Iterator[dict[str, int]]:
    """The address and the size of every file that `atomic_output` finishes in this process until the block ends."""
    global _written  # noqa: PLW0603 (a process works on one task)
    outer, _written = _written, {}
    try:
        yield _written
    finally:
        _written = outer


def size(address: str | Path) -> int | None:
    """Bytes of a finished file; None where nothing is there."""
    address = str(address)
    if not is_remote(address):
        path = _local(address)
        return path.stat().st_size if path.is_file() else None
    filesystem = _filesystem(address)
    filesystem.invalidate_cache()  # other machines write here too
    return int(filesystem.size(address)) if filesystem.isfile(address) else None


def exists(address: str | Path) -> bool:
    """Whether a finished file is there."""
    address = str(address)
    return bool(_filesystem(address).isfile(address)) if is_remote(address) else _local(address).is_file()


def listing(prefix: str | Path, suffix: str = "") -> list[str]:
    """Addresses of the finished files anywhere below the folder `prefix` whose names end with `suffix`, sorted."""
    prefix = str(prefix)
    if is_remote(prefix):
        filesystem, root = _resolve(prefix)
        filesystem.invalidate_cache()  # other machines write here too
        found = [join(prefix, name.removeprefix(root)) for name in filesystem.find(root)]
    else:
        folder = _local(prefix)
        found = [str(path) for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return sorted(name for name in found if name.endswith(suffix) and not _unfinished(name))


def copy(source: str | Path, target: str | Path) -> None:
    """Copy one file between any two addresses; on one file system it becomes another name of the same bytes."""
    source, target = str(source), str(target)
    if not is_remote(source) and not is_remote(target):
        path = _local(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            os.link(_local(source), path)
        except OSError:  # another file system, or one without links
            pass
        else:
            return
    with open_input(source) as stream, atomic_output(target) as output:
        shutil.copyfileobj(stream, output, 1 << 22)


def remove_tree(prefix: str | Path) -> None:
    """Remove everything below `prefix`; no error where nothing is there."""
    prefix = str(prefix)
    if not is_remote(prefix):
        shutil.rmtree(_local(prefix), ignore_errors=True)
        return
    filesystem = _filesystem(prefix)
    filesystem.invalidate_cache()
    if filesystem.exists(prefix):
        filesystem.rm(prefix, recursive=True)


def _note(address: str, size: int) -> None:
    if _written is not None:
        _written[address] = size


def _local(address: str) -> Path:
    return Path(address.removeprefix("file://"))


def _filesystem(address: str) -> Any:
    return _resolve(address)[0]


def _resolve(address: str) -> tuple[Any, str]:
    """The file system of an address, and the address as that system writes it."""
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(address)
    return filesystem, path.rstrip("/")


def _unfinished(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith(".") and last.endswith(".partial")

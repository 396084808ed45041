"""Shards appear whole or not at all, on this machine and behind an fsspec address (fsspec's own in-memory store here)."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from stages import _storage


@pytest.fixture(params=["local", "memory"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def put(address: str, data: bytes) -> None:
    with _storage.atomic_output(address) as stream:
        stream.write(data)


def get(address: str) -> bytes:
    with _storage.open_input(address) as stream:
        stream.seek(1)
        stream.seek(0)
        return stream.read()


def test_a_shard_is_written_read_listed_copied_and_removed(base: str) -> None:
    address = _storage.join(base, "a", "x.bin")
    assert not _storage.exists(address)
    put(address, b"one")
    put(address, b"two")
    put(_storage.join(base, "a", "b", "y.txt"), b"")
    assert get(address) == b"two"
    assert [name.removeprefix(base) for name in _storage.listing(base)] == ["/a/b/y.txt", "/a/x.bin"]
    assert [name.removeprefix(base) for name in _storage.listing(base, ".bin")] == ["/a/x.bin"]
    _storage.copy(address, _storage.join(base, "c"))
    _storage.copy(address, _storage.join(base, "c"))
    _storage.remove_tree(_storage.join(base, "a"))
    assert _storage.listing(_storage.join(base, "a")) == []
    assert get(_storage.join(base, "c")) == b"two"
    _storage.remove_tree(_storage.join(base, "nothing"))


def test_a_failed_write_leaves_what_was_there(base: str) -> None:
    address = _storage.join(base, "x")
    put(address, b"old")
    with pytest.raises(ZeroDivisionError), _storage.atomic_output(address) as stream:
        stream.write(b"half")
        1 / 0  # noqa: B018
    assert get(address) == b"old"
    assert len(_storage.listing(base)) == 1


def test_what_is_not_there_is_an_error(base: str) -> None:
    with pytest.raises(FileNotFoundError):
        _storage.open_input(_storage.join(base, "x"))


def test_copies_between_stores(tmp_path: Path) -> None:
    remote, local = f"memory://{uuid.uuid4().hex}/x", str(tmp_path / "folder" / "x")
    put(remote, b"data")
    _storage.copy(remote, local)
    _storage.copy(local, remote + "2")
    assert (get(local), get(remote + "2")) == (b"data", b"data")

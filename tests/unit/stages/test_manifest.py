from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from stages._manifest import canonical, describe_folder, fsync_tree, input_digest, sha256_file, sha256_json, write_atomic


def test_canonical_json_has_one_form() -> None:
    assert canonical({"b": 1, "a": {"d": "雪", "c": [1.5, None]}}) == canonical({"a": {"c": [1.5, None], "d": "雪"}, "b": 1})
    assert canonical({"b": "雪"}) == '{\n "b": "雪"\n}\n'
    assert sha256_json({"x": 1, "y": 2}) == sha256_json({"y": 2, "x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"loss": float("nan")})


def test_describe_folder_is_sorted_relative_and_without_the_manifest(tmp_path: Path) -> None:
    for name in ("z", "a/m", "a/b/c", "manifest.json", "a/manifest.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    described = describe_folder(tmp_path)
    assert list(described) == ["a/b/c", "a/m", "a/manifest.json", "z"]
    assert described["z"] == {"bytes": 1, "sha256": sha256_file(tmp_path / "z")}
    assert describe_folder(tmp_path / "nothing") == {}


def test_input_digest_sees_files_folders_and_stage_outputs(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "a.py").write_text("1", encoding="utf-8")
    before = input_digest(folder)
    (folder / "__pycache__" / "a.pyc").write_bytes(b"anything")
    assert input_digest(folder) == before
    (folder / "a.py").rename(folder / "b.py")
    assert input_digest(folder) != before, "a name is part of a folder"
    assert input_digest(folder / "b.py") == sha256_file(folder / "b.py")
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    assert input_digest(folder) == sha256_file(folder / "manifest.json"), "a manifest stands for the files it lists"


class Inputs:
    """A large file in a folder beside a small one, long settled; counts how often one of them is read."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.memory, self.read = root / "texts", root / "memory", 0
        self.folder.mkdir()
        self.write("large", b"a" * 100_000)
        (self.folder / "small").write_bytes(b"s")
        self.later = 10**10
        monkeypatch.setattr("time.time_ns", lambda: int(time.time() * 1e9) + self.later)
        monkeypatch.setattr("stages._manifest.sha256_file", self._count)

    def _count(self, path: Path) -> str:
        self.read += 1
        return sha256_file(path)

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def digest(self) -> tuple[str, int]:
        """The digest, and how many files were read for it."""
        self.read = 0
        return input_digest(self.folder, self.memory), self.read


def test_a_large_input_is_read_once_and_again_when_anything_about_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs(tmp_path, monkeypatch)
    first, read = inputs.digest()
    assert (first, read) == (input_digest(inputs.folder), 2)
    assert inputs.digest() == (first, 1), "the small one alone"
    stat = (inputs.folder / "large").stat()
    inputs.write("large", b"b" * 100_000)
    os.utime(inputs.folder / "large", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same inode, mtime set back
    second, read = inputs.digest()
    assert second != first and read == 2
    (inputs.folder / "large").unlink()
    inputs.write("large", b"a" * 100_000)
    assert inputs.digest() == (first, 2)
    (inputs.folder / "large").rename(inputs.folder / "other")
    assert inputs.digest()[0] not in (first, second), "a name is part of a folder"


def test_a_digest_of_a_file_that_has_just_changed_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Inputs(tmp_path, monkeypatch)
    inputs.later = 0
    assert inputs.digest()[1] == inputs.digest()[1] == 2


@pytest.mark.parametrize("change", ["", "{", "[]", "{}", "digest", "swap"])
def test_a_damaged_memory_is_as_good_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    inputs = Inputs(tmp_path, monkeypatch)
    first, _ = inputs.digest()
    [file] = inputs.memory.iterdir()
    content = file.read_text(encoding="utf-8")
    stored = json.loads(content)
    right = stored["files"][str(inputs.folder / "large")][-1]
    changed = {"digest": content.replace(right, "0" * 64, 1), "swap": content.replace(stored["sha256"], "0" * 64)}
    file.write_text(changed.get(change, change), encoding="utf-8")
    assert inputs.digest() == (first, 2)
    assert inputs.digest() == (first, 1), "and it is made anew"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.json"
    write_atomic(file, "old")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(file, "new")
    assert file.read_text(encoding="utf-8") == "old"
    monkeypatch.undo()
    write_atomic(file, json.dumps("new"))
    assert file.read_text(encoding="utf-8") == '"new"'
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_fsync_tree_reaches_every_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_text("x", encoding="utf-8")
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    fsync_tree(tmp_path)
    assert len(synced) == 4

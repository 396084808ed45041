from __future__ import annotations

import json
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

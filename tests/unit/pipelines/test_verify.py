"""`glm verify rebuild` over a toy project: a second build in a clean clone, with a cache of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from pipelines.verify_cli import WorkspaceError, build_again
from tests.support.project import dvc, toy_project

GRAPH = """
stages:
  first:
    cmd: mkdir -p data/first && cp seed data/first/x.txt && cp manifest data/first/manifest.json && COUNT
    deps: [seed, manifest]
    outs: [data/first]
"""


def committed(root: Path, count: str = "true") -> Path:
    root.mkdir()
    (root / "seed").write_text("one\n", encoding="utf-8")
    manifest = {"stage": "first", "params": {}, "counts": {}, "inputs": {}, "files": {}}
    (root / "manifest").write_text(json.dumps(manifest), encoding="utf-8")
    toy_project(root, GRAPH.replace("COUNT", count))
    dvc(root, "repro")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["add", "--all"], ["commit", "--quiet", "--message", "all"]):
        subprocess.run([*git, *arguments], cwd=root, check=True)
    return root


@pytest.mark.slow
def test_a_second_build_runs_every_stage_and_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = tmp_path / "tries"
    root = committed(tmp_path / "p", f"echo run >> {tries}")
    monkeypatch.chdir(root)
    result = CliRunner().invoke(app, ["verify", "rebuild", "--folder", str(tmp_path / "again")])
    assert result.exit_code == 0, result.output
    assert "identical" in result.output
    assert tries.read_text(encoding="utf-8") == "run\n" * 2, "no cache stood in for the stage"
    assert (tmp_path / "again/.dvc/cache/files").is_dir()

    (tmp_path / "again/data/first/x.txt").unlink()  # a link into the cache
    (tmp_path / "again/data/first/x.txt").write_text("two\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["verify", "rebuild", "--against", str(tmp_path / "again"), "--json"])
    assert result.exit_code == 1
    [stage] = json.loads(result.output)["stages"]
    assert (stage["verdict"], stage["file"]) == ("different", "data/first/x.txt")
    assert stage["place"] == "line 1: 'one' and 'two'"


@pytest.mark.slow
def test_what_cannot_be_built_again_is_said(tmp_path: Path) -> None:
    root = committed(tmp_path / "p", f"test ! -e {tmp_path}/stop")
    (tmp_path / "stop").touch()
    with pytest.raises(WorkspaceError, match="a stage failed in"):
        build_again(root, tmp_path / "again")
    with pytest.raises(WorkspaceError, match="exists"):
        build_again(root, tmp_path / "again")
    (root / "seed").write_text("changed\n", encoding="utf-8")
    with pytest.raises(WorkspaceError, match=r"not committed.*seed"):
        build_again(root, tmp_path / "other")
    with pytest.raises(WorkspaceError, match="no git repository"):
        build_again(tmp_path, tmp_path / "other")

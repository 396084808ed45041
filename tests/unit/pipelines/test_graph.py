from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipelines import graph
from pipelines.graph import GraphError, Stage
from tests.support.project import dvc, toy_project

TOY = """
stages:
  last:
    cmd: mkdir data/last && cat data/copy-a/x data/copy-b/x > data/last/x
    deps: [data/copy-a, data/copy-b]
    outs: [data/last]
  first:
    cmd: mkdir -p data/first && cp seed data/first/x
    deps: [seed]
    params: [first]
    outs: [data/first]
  copy:
    matrix:
      name: [a, b]
    cmd: mkdir data/copy-${item.name} && cp data/first/x data/copy-${item.name}/x
    deps: [data/first]
    outs:
      - data/copy-${item.name}
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "seed").write_text("1", encoding="utf-8")
    return toy_project(tmp_path, TOY, "first: {width: 1, deep: {er: 2}}\n")


def test_graph_comes_from_dvc_yaml_parents_first(toy: Path) -> None:
    stages = graph.read_graph(toy)
    assert list(stages) == ["first", "copy@a", "copy@b", "last"]
    assert stages["last"].parents == ("copy@a", "copy@b")
    assert stages["copy@b"] == Stage(
        "copy@b", "mkdir data/copy-b && cp data/first/x data/copy-b/x", ("first",), ("data/copy-b",)
    )


def test_targets_bring_their_ancestors_and_nothing_else(toy: Path) -> None:
    assert list(graph.read_graph(toy, ["copy@b"])) == ["first", "copy@b"]


def test_what_is_wrong_is_said(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"'nope' is not in dvc.yaml; present: copy@a, copy@b, first, last"):
        graph.read_graph(toy, ["nope"])
    (toy / "dvc.yaml").write_text("stages: [", encoding="utf-8")
    with pytest.raises(GraphError, match="YAML"):
        graph.read_graph(toy)
    with pytest.raises(GraphError, match=r"no dvc.yaml .* run from the project's root"):
        graph.read_graph(tmp_path / "elsewhere")


def test_contract_with_dvc(toy: Path) -> None:
    """Every word of DVC's that the flows rely on: its three verdicts on a stage, and that nothing is left to do."""
    ran = dvc(toy, *graph.repro_command()[3:])
    assert verdicts(ran) == dict.fromkeys(["first", "copy@a", "copy@b", "last"], "ran")
    assert not graph.is_up_to_date(ran.splitlines())
    again = dvc(toy, *graph.repro_command()[3:])
    assert set(verdicts(again).values()) == {"unchanged"}
    assert graph.is_up_to_date(again.splitlines())
    (toy / "data/last/x").unlink()
    restored = dvc(toy, *graph.repro_command(["last"], single=True)[3:])
    assert verdicts(restored) == {"last": "restored"}
    shown = [line for line in ran.splitlines() if graph.says_something(line)]
    assert not [line for line in shown if "git" in line or "dvc push" in line]


def verdicts(output: str) -> dict[str, str]:
    return dict(filter(None, map(graph.outcome_of, output.splitlines())))


def test_reasons_name_what_changed(toy: Path) -> None:
    dvc(toy, "repro", "first")
    before = graph.read_lock(toy)["first"]
    assert graph.reasons(None, before) == ["first run: dvc.lock had no entry for it"]
    (toy / "params.yaml").write_text("first: {deep: {er: 3}, new: x}\n", encoding="utf-8")
    (toy / "seed").write_text("2", encoding="utf-8")
    (toy / "dvc.yaml").write_text(TOY.replace("cp seed", "cat seed >"), encoding="utf-8")
    dvc(toy, "repro", "first")
    after = graph.read_lock(toy)["first"]
    assert graph.reasons(before, after) == [
        "command changed",
        "dependency seed changed",
        "parameter first.deep.er: 2 -> 3",
        "parameter first.new: absent -> x",
        "parameter first.width: 1 -> absent",
    ]
    assert graph.reasons(after, after) == ["its output was missing or had been changed by hand, or the run was forced"]
    assert graph.reasons(before, None) == ["it did not finish: no entry in dvc.lock"]


def test_lock_files_are_compared_as_data(toy: Path, tmp_path: Path) -> None:
    dvc(toy, "repro")
    text = (toy / "dvc.lock").read_text(encoding="utf-8")
    head, *entries = text.split("\n  ")
    blocks = "\n  ".join(entries).split("\n  copy@")
    (tmp_path / "other").mkdir()
    shuffled = "\n  ".join([head, "copy@" + blocks[2].rstrip("\n"), *blocks[0].split("\n  "), "copy@" + blocks[1]])
    (tmp_path / "other/dvc.lock").write_text(shuffled, encoding="utf-8")
    assert shuffled != text
    assert graph.read_lock(tmp_path / "other") == graph.read_lock(toy)


def test_mermaid_shows_every_stage_edge_and_outcome(toy: Path) -> None:
    stages = graph.read_graph(toy)
    lines = graph.mermaid(stages, {"first": "ran", "copy@a": "failed", "last": "blocked"}).splitlines()
    assert lines[0] == "flowchart TD"
    assert [line.strip() for line in lines if "-->" in line] == ["s0 --> s1", "s0 --> s2", "s1 --> s3", "s2 --> s3"]
    assert '    s1["copy@a: failed"]:::failed' in lines
    assert '    s2["copy@b: waiting"]:::waiting' in lines


def test_a_lock_file_that_is_being_written_is_awaited(tmp_path: Path) -> None:
    file = tmp_path / "dvc.lock"
    file.write_text("", encoding="utf-8")  # as DVC leaves it between truncating and writing
    writer = threading.Timer(0.3, file.write_text, ["schema: '2.0'\nstages:\n  a: {cmd: b}\n", "utf-8"])
    writer.start()
    assert graph.read_lock(tmp_path) == {"a": {"cmd": "b"}}
    writer.join()


def test_a_lock_file_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (tmp_path / "dvc.lock").write_text("<<<<<<< HEAD\nstages: {\n", encoding="utf-8")
    with pytest.raises(GraphError, match="no lock file of DVC"):
        graph.read_lock(tmp_path)

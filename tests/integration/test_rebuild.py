"""The flow against DVC itself: toy graphs for every way a run can end, then the real graph with made-up text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines import graph
from tests.support.processes import running
from tests.support.project import ROOT, dvc, toy_project
from tests.support.registry import Registry, made_up_corpus

pytestmark = pytest.mark.slow

TOY = """
stages:
  first:
    cmd: mkdir -p data/first && cp seed data/first/x && cp counts data/first/manifest.json
    deps: [seed, counts]
    params: [first]
    outs: [data/first]
  left:
    cmd: mkdir -p data/left && cp data/first/x data/left/x
    deps: [data/first]
    outs: [data/left]
  right:
    cmd: mkdir -p data/right && RIGHT
    deps: [data/first]
    outs: [data/right]
  last:
    cmd: mkdir -p data/last && cat data/left/x data/right/x > data/last/x
    deps: [data/left, data/right]
    outs: [data/last]
"""


def toy(root: Path, right: str = "cp data/first/x data/right/x") -> Path:
    root.mkdir()
    (root / "seed").write_text("1", encoding="utf-8")
    (root / "counts").write_text('{"counts": {"kept": 3, "dropped": {"short": 1}}}', encoding="utf-8")
    return toy_project(root, TOY.replace("RIGHT", right), "first: {width: 1}\n")


def rebuild(root: Path, **settings: Any) -> dict[str, str]:
    from pipelines.rebuild import rebuild as flow

    return {line.stage: line.outcome for line in flow(root=str(root), **settings)}


def failed(root: Path, **settings: Any) -> Any:
    from pipelines.rebuild import RebuildError

    with pytest.raises(RebuildError) as caught:
        rebuild(root, **settings)
    return caught.value


def artifact(key: str) -> Any:
    from prefect.artifacts import Artifact

    found = Artifact.get(key)
    assert found is not None
    return found.data


@pytest.mark.usefixtures("prefect_server")
class TestToyGraph:
    def test_flow_and_repro_leave_equal_locks_and_data(self, tmp_path: Path) -> None:
        by_flow, by_dvc = toy(tmp_path / "flow"), toy(tmp_path / "dvc")
        assert rebuild(by_flow) == dict.fromkeys(["first", "left", "right", "last"], "ran")
        dvc(by_dvc, "repro")
        assert graph.read_lock(by_flow) == graph.read_lock(by_dvc) != {}
        assert graph.is_up_to_date(dvc(by_flow, "repro").splitlines())
        assert rebuild(by_flow) == dict.fromkeys(["first", "left", "right", "last"], "unchanged")

    def test_only_what_changed_runs_and_artifacts_say_why(self, tmp_path: Path) -> None:
        root = toy(tmp_path / "p")
        rebuild(root)
        (root / "params.yaml").write_text("first: {width: 2}\n", encoding="utf-8")
        (root / "data/left/x").unlink()
        assert rebuild(root) == {"first": "ran", "left": "restored", "right": "unchanged", "last": "unchanged"}
        assert "- parameter first.width: 1 -> 2" in artifact("first-run").splitlines()
        counts = artifact("first-counts")
        rows = json.loads(counts) if isinstance(counts, str) else counts
        assert rows == [{"count": "kept", "value": "3"}, {"count": "dropped.short", "value": "1"}]
        summary = artifact("rebuild-summary")
        assert "A plain `dvc repro` found nothing to do." in summary
        assert '["first: ran"]:::ran' in summary

    def test_targets_bring_what_they_need_and_no_more(self, tmp_path: Path) -> None:
        root = toy(tmp_path / "p")
        assert rebuild(root, targets=["left"]) == {"first": "ran", "left": "ran"}
        assert graph.read_lock(root).keys() == {"first", "left"}

    def test_a_failed_stage_blocks_its_children_alone_and_a_rerun_goes_on(self, tmp_path: Path) -> None:
        root = toy(tmp_path / "p", "echo tried >> tries; test -f permission && cp seed data/right/x")
        error = failed(root)
        assert {line.stage: line.outcome for line in error.outcomes} == {
            "first": "ran",
            "left": "ran",
            "right": "failed",
            "last": "blocked",
        }
        assert str(error) == "failed: right"
        assert [failure.stage for failure in error.failures] == ["right"]
        assert (root / "tries").read_text(encoding="utf-8") == "tried\n", "a stage's own failure is not tried again"
        assert not (root / "data/last").exists()
        (root / "permission").touch()
        assert rebuild(root) == {"first": "unchanged", "left": "unchanged", "right": "ran", "last": "ran"}

    def test_a_failed_download_is_tried_again(self, tmp_path: Path) -> None:
        root = toy(
            tmp_path / "p",
            "echo tried >> tries; test $(wc -l < tries) = 2 || { echo cannot download it; exit 1; }; touch data/right/x",
        )
        assert rebuild(root)["right"] == "ran"
        assert (root / "tries").read_text(encoding="utf-8") == "tried\ntried\n"

    def test_a_stage_that_takes_too_long_is_stopped_with_its_workers(self, tmp_path: Path) -> None:
        root = toy(tmp_path / "p", "sh -c 'echo $$ > worker; exec sleep 300'")
        error = failed(root, targets=["right"], timeout=10)
        assert "stage right was stopped: it took longer than 10 s" in str(error.failures[0])
        assert not running((root / "worker").read_text(encoding="utf-8"))

    def test_work_left_after_the_last_stage_fails_the_flow(self, tmp_path: Path) -> None:
        root = toy(tmp_path / "p", "cp data/first/x data/right/x; echo 2 > data/first/x")
        error = failed(root)
        assert "still found work to do" in str(error)
        assert set(error.failures) == set()

    def test_the_command_says_which_stage_failed_and_what_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from cli import app

        monkeypatch.chdir(toy(tmp_path / "p", "echo the disk is full; exit 1"))
        result = CliRunner().invoke(app, ["rebuild"])
        assert result.exit_code == 1
        assert "blocked" in result.output
        assert "ERROR: stage right failed with status 255. Its last lines:" in result.output
        assert "    the disk is full" in result.output
        assert "Kept: the output of every stage that finished" in result.output
        result = CliRunner().invoke(app, ["rebuild", "nothing"])
        assert result.exit_code == 1
        assert "ERROR: stage 'nothing' is not in dvc.yaml; present: first, last, left, right" in result.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    """The real command with a server of its own."""
    root = toy(tmp_path / "p", "sh -c 'echo $$ > worker; exec sleep 300'")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "prefect")}
    command = [sys.executable, "-m", "cli", "rebuild", "right"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born ignoring it
    process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 240
    while not (root / "worker").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(number)
    assert process.wait(60) not in (0, None)
    assert not running((root / "worker").read_text(encoding="utf-8"))
    assert "right" not in graph.read_lock(root)


@pytest.mark.longest
@pytest.mark.usefixtures("prefect_server")
def test_the_real_graph_by_flow_and_by_repro(project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clean workspaces, two ways to run: the same lock, so the same bytes in every output."""
    with Registry() as registry:
        for name, value in registry.environment().items():
            monkeypatch.setenv(name, value)
        corpus = made_up_corpus(registry)
        by_flow, by_dvc = project("flow", corpus=corpus), project("dvc", corpus=corpus)
        outcomes = rebuild(by_flow)
        dvc(by_dvc, "repro")
    assert set(outcomes.values()) == {"ran"}
    assert outcomes.keys() == graph.read_graph(ROOT).keys()
    assert graph.read_lock(by_flow) == graph.read_lock(by_dvc)

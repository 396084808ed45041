from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.graph import Stage
from pipelines.stage_task import StageFailedError, _counts, artifact_key, child_environment

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("line", "transient"),
    [
        ("ERROR: Unable to acquire lock. Most likely another DVC process is running", True),
        ("ERROR: 'data/clean' is busy, it is being blocked by:", True),
        ("ERROR: stage corpus: sources tales: cannot download tales 1.0: timed out (file tales.tar.gz)", True),
        ("ConnectionResetError: [Errno 104] Connection reset by peer", True),
        ("ERROR: stage corpus: sources tales: SHA-256 differs: expected 0a, found 0b", False),
        ("ERROR: stage pack: the disk is full", False),
    ],
)
def test_only_locks_and_the_network_are_worth_another_try(line: str, transient: bool) -> None:
    assert StageFailedError("s", "failed with status 255", ("> python -m stages.s", line)).transient is transient


def test_a_failure_keeps_its_last_lines() -> None:
    error = StageFailedError("pack", "failed with status 1", tuple(str(number) for number in range(40)))
    assert str(error) == "stage pack failed with status 1"
    assert error.tail == tuple(str(number) for number in range(25, 40))


def test_artifact_keys_are_what_prefect_allows() -> None:
    assert [artifact_key(name) for name in ("clean", "copy@a", "Shard_1@x-2@")] == ["clean", "copy-a", "shard-1-x-2"]


def test_a_stage_starts_with_this_pythons_programs_and_quiet_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_NO_ANALYTICS", raising=False)
    monkeypatch.setenv("DO_NOT_TRACK", "mine")
    environment = child_environment()
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert environment["DVC_NO_ANALYTICS"] == "1"
    assert environment["DO_NOT_TRACK"] == "mine", "what the caller set stands"


def test_counts_are_flat_and_an_output_without_a_manifest_has_none(tmp_path: Path) -> None:
    (tmp_path / "data/a").mkdir(parents=True)
    (tmp_path / "data/a/manifest.json").write_text('{"counts": {"kept": 2, "by": {"en": {"x": 1}}, "names": ["p"]}}', "utf-8")
    stage = Stage("a", "", (), ("data/a", "data/none"))
    assert _counts(tmp_path, stage) == {"kept": 2, "by.en.x": 1, "names": ["p"]}


def test_prefect_starts_quiet_with_its_home_in_the_project(tmp_path: Path) -> None:
    """In a process of its own: what this one's environment says already stands."""
    names = (
        "DO_NOT_TRACK",
        "PREFECT_HOME",
        "PREFECT_SERVER_ANALYTICS_ENABLED",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS",
    )
    bare = {name: value for name, value in os.environ.items() if name not in names} | {"PYTHONPATH": str(ROOT)}
    code = (
        "from pipelines import rebuild; from prefect.settings import get_current_settings as s\n"
        "print(s().home, s().server.analytics_enabled, s().server.ephemeral.startup_timeout_seconds)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=bare, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(tmp_path / ".cache/prefect"), "False", "180"], done.stderr
    assert (tmp_path / ".cache/prefect").is_dir()

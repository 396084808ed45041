"""What was spent by processes that were killed is not forgotten by the one that finishes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages._attempts import FILE, Attempt


def test_killed_attempts_are_named_by_the_one_that_finishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages._attempts._EVERY", 0.0)
    first = Attempt(tmp_path, "a")
    sum(range(2_000_000))
    first.beat()  # and then killed
    before = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))["attempts"]
    assert len(before) == 1 and before[0]["cpu_seconds"] > 0
    assert Attempt(tmp_path, "a").finish()["unfinished"] == before
    assert not (tmp_path / FILE).exists()
    assert "unfinished" not in Attempt(tmp_path, "a").finish()


def test_attempts_at_another_output_and_damaged_files_count_for_nothing(tmp_path: Path) -> None:
    Attempt(tmp_path, "a")
    assert "unfinished" not in Attempt(tmp_path, "b").finish()
    (tmp_path / FILE).write_text("{", encoding="utf-8")
    assert "unfinished" not in Attempt(tmp_path, "b").finish()


def test_a_worker_does_not_speak_for_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages._attempts._EVERY", 0.0)
    attempt = Attempt(tmp_path, "a")
    monkeypatch.setattr("stages._attempts.os.getpid", lambda: 1)
    (tmp_path / FILE).unlink()
    attempt.beat()
    assert not (tmp_path / FILE).exists()

"""Ranks as processes: one dies, all end, and the message names the cause."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from stages._runner import StageError
from stages.pretrain.launch import run_ranks
from tests.support import ranks
from tests.support.processes import running

BOUND = 30.0  # seconds, on a busy machine: starting interpreters, five to say why, five to end


def _all_ended(folder: Path, world: int) -> bool:
    return not any(running((folder / f"rank-{rank}").read_text()) for rank in range(world))


def test_every_rank_runs_to_its_end(tmp_path: Path) -> None:
    run_ranks(ranks.write, tmp_path, 3)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rank-0", "rank-1", "rank-2"]


def test_a_killed_rank_ends_the_others_that_wait_for_it(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(StageError, match=r"rank 1 of 2 was ended by SIGKILL; .*Remedy: .*micro_batch"):
        run_ranks(ranks.one_is_killed, tmp_path, 2)
    assert time.monotonic() - start < BOUND
    assert _all_ended(tmp_path, 2)


def test_a_refusal_is_told_and_not_that_others_lost_a_peer(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"^loss is nan at step 3. Remedy: lower the learning rate$"):
        run_ranks(ranks.one_refuses, tmp_path, 3)
    assert _all_ended(tmp_path, 3)


def test_the_first_failure_is_told_and_not_its_consequences(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StageError, match=r"rank 0 of 2 failed: KeyError: 'word_embeddings'"):
        run_ranks(ranks.one_fails, tmp_path, 2)
    assert "Traceback" in capfd.readouterr().err, "a bug's traceback stays visible"

"""The measure itself, at a size that takes seconds."""

from __future__ import annotations

import pytest

from benchmarks import _loss_memory
from benchmarks._loss_memory import Case, Spent
from benchmarks.training import SECTIONS, TrainingBench, measure


def test_memory_is_measured_in_fresh_processes_and_all_ways_agree() -> None:
    """200 MB of logits, so that the ways differ far beyond the noise of an allocator."""
    case = Case(positions=1024, width=32, vocabulary=49_152)
    plain, torch_chunked = _loss_memory.rows(TrainingBench(1, lambda message: None), case)
    logits = 4 * case.positions * case.vocabulary / 1e9
    assert plain.theirs is not None
    assert plain.ours is not None
    assert plain.theirs > 2 * logits, "logits and their gradient"
    assert plain.ours < 0.5 * logits
    assert torch_chunked.ours == plain.ours
    assert (plain.target, plain.verdict) == (None, ""), "the target holds for the published vocabulary alone"


def test_ways_that_disagree_stop_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Spent(1, 1.0, 12.0, 1.0), Spent(9, 1.0, 12.0, 1.001), Spent(1, 1.0, 12.0, 1.0)])
    monkeypatch.setattr(_loss_memory, "in_process", lambda way, case, threads: next(answers))
    with pytest.raises(RuntimeError, match="ours and plain disagree"):
        _loss_memory.rows(TrainingBench(1, lambda message: None))


@pytest.mark.parametrize(("peak", "verdict"), [(449_000_000, "met"), (451_000_000, "MISSED")])
def test_the_bar_is_for_our_peak(monkeypatch: pytest.MonkeyPatch, peak: int, verdict: str) -> None:
    monkeypatch.setattr(_loss_memory, "in_process", lambda way, case, threads: Spent(peak, 1.0, 12.0, 1.0))
    rows = measure(TrainingBench(1, lambda message: None), ["memory"])
    assert [row.verdict for row in rows] == [verdict, ""]
    assert "memory" in SECTIONS


def test_a_way_that_fails_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"none failed \(1\)"):
        _loss_memory.in_process("none", Case(1, 1, 1), 1)

"""The measure itself, at a size that takes seconds."""

from __future__ import annotations

import pytest

from benchmarks import _loss_memory, _training_plan
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


def test_the_plan_is_measured_beside_real_steps() -> None:
    """At next to no size the process itself is all there is, which the plan knows to 10 % too."""
    small = {"layers": 1, "hidden": 64, "heads": 1, "ffn": 128}
    case = {"file": "params.yaml", "micro_batch": 1, "micro_batches": 2, "dropout": 0.0, "model": small}
    planned = _training_plan.in_process(case, 1, returned=True)
    assert planned["started"] < planned["peak"]
    assert planned["planned"] == pytest.approx(planned["peak"], rel=_training_plan.TARGET)


def test_a_plan_that_is_off_misses_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    for planned, verdict in ((109, "met"), (89, "MISSED"), (111, "MISSED")):
        spent = {"planned": planned, "peak": 100, "started": 40}
        monkeypatch.setattr(_training_plan, "in_process", lambda *case, returned, spent=spent: spent)
        assert [row.verdict for row in measure(TrainingBench(1, lambda message: None), ["plan"])][1::3] == [verdict] * 2


def test_a_case_that_fails_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"absent\.yaml failed \(1\)"):
        _training_plan.in_process({"file": "absent.yaml", "micro_batch": 1, "micro_batches": 1}, 1, returned=True)

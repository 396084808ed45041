"""The measure itself, at a size that takes seconds."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import _loss_memory, _training_gpu, _training_plan, _training_speed, training
from benchmarks._loss_memory import Case, Spent
from benchmarks._training_gpu import Size
from benchmarks._training_peers import CausalGPT, of_equal_size
from benchmarks.training import SECTIONS, TrainingBench, measure
from model.config import ModelConfig
from model.planning.flops import parameters
from model.planning.memory import head_memory
from tests.support.training import training_project


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


def test_the_loss_takes_what_the_plan_says() -> None:
    case = Case(positions=512, width=512, vocabulary=150_528)
    config = ModelConfig(layers=1, hidden=case.width, heads=8, ffn=64, vocabulary=case.vocabulary, max_sequence=case.positions)
    planned = sum(head_memory(config, case.positions, 4, 1, "cpu"))
    assert _loss_memory.in_process("ours", case, 1).peak_bytes == pytest.approx(planned, rel=_training_plan.TARGET)


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


@pytest.mark.parametrize("small", [{"layers": 1, "hidden": 64, "heads": 1, "ffn": 128}, {}], ids=["tiny", "laptop"])
def test_the_plan_is_what_real_steps_and_saves_take(small: dict[str, int]) -> None:
    """At next to no size the process itself is all there is, which the plan knows to 10 % too."""
    case = _training_plan.CASES["laptop"] | {"model": small}
    found = _training_plan.in_process(case, 1)
    assert found["started"] < found["peak"]
    assert found["planned"] == pytest.approx(found["peak"], rel=_training_plan.TARGET)


def test_a_plan_that_is_off_misses_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    for planned, verdict in ((109, "met"), (89, "MISSED"), (111, "MISSED")):
        spent = {"planned": planned, "peak": 100, "started": 40}
        monkeypatch.setattr(_training_plan, "in_process", lambda *case, spent=spent: spent)
        assert [row.verdict for row in measure(TrainingBench(1, lambda message: None), ["plan"])][1::2] == [verdict] * 2


def test_a_case_that_fails_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"absent\.yaml failed \(1\)"):
        _training_plan.in_process({"file": "absent.yaml", "micro_batch": 1, "micro_batches": 1}, 1)


def _quiet(message: str) -> None:
    """Say nothing."""


@pytest.mark.slow
def test_speed_is_measured_on_a_project_with_all_three_loops_in_turn(tmp_path: Path) -> None:
    root = training_project(tmp_path / "project")
    bench = TrainingBench(1, _quiet, root, steps=2)
    same, gpt, share = _training_speed.rows(bench, {"layers": 1, "hidden": 32, "heads": 1, "ffn": 64})
    assert (same.peer, same.target, gpt.peer, gpt.target) == ("bare loop, same model", 0.97, "causal GPT", 1.0)
    assert same.what == "training, 1,024 positions a step"
    assert all(row.ours and row.theirs and row.ratio for row in (same, gpt))
    assert share.ours is not None
    assert 0 < share.ours < 1


def test_a_project_without_packed_samples_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"speed failed \(1\)(.|\n)*pack\.json"):
        _training_speed.rows(TrainingBench(1, _quiet, tmp_path, steps=1))


@pytest.mark.parametrize(("ours", "verdict"), [(1.02, "met"), (1.04, "MISSED")])
def test_the_median_of_each_steps_ratio_is_what_counts(monkeypatch: pytest.MonkeyPatch, ours: float, verdict: str) -> None:
    seconds = {"ours": [ours, ours, 9.0], "bare loop, same model": [1.0, 1.0, 1.0], "causal GPT": [2.0, 2.0, 2.0]}
    found = {
        "seconds": seconds,
        "cpu": seconds,
        "overhead": [0.001] * 3,
        "positions": 4096,
        "parameters": dict.fromkeys(seconds, 1),
    }
    monkeypatch.setattr(_training_speed, "in_process", lambda request: found)
    rows = measure(TrainingBench(1, _quiet), ["speed"])
    assert [row.verdict for row in rows] == [verdict, "met", "met"]


def test_the_peer_has_as_many_parameters_as_the_published_shapes_of_glm() -> None:
    for name, size in _training_gpu.SIZES.items():
        config = ModelConfig(
            layers=size.layers, hidden=size.hidden, heads=size.heads, ffn=size.ffn, vocabulary=size.vocabulary,
            max_sequence=size.length,
        )  # fmt: skip
        peer = of_equal_size(config)
        with torch.device("meta"):
            built = sum(p.numel() for p in CausalGPT(peer).parameters())
        assert built == peer.parameters
        assert built == pytest.approx(parameters(config), rel=0.01)
        unit = 1e9 if name.endswith("B") else 1e6
        assert built / unit == pytest.approx(float(name[:-1]), rel=0.015)


def test_where_there_is_no_gpu_the_section_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (row,) = _training_gpu.rows(TrainingBench(1, _quiet))
    assert (row.ours, row.note, row.verdict) == (None, "no GPU here: nothing was measured", "")


def test_every_section_of_the_help_can_be_asked_for_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.findall(r"^    (\w+)  ", training.__doc__ or "", re.MULTILINE) == list(SECTIONS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["training.py", "--only", "gpu", "--json"])
    assert training.main() == 0, "what cannot be measured here is no miss"
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["section"], row["note"]) == ("gpu", "no GPU here: nothing was measured")


@pytest.mark.slow
def test_the_gpu_section_runs_on_a_cpu_at_a_small_size() -> None:
    """Blocks compiled, attention without a mask, both loops; MFU alone needs the GPU's peak."""
    tiny = Size(layers=1, hidden=64, heads=1, ffn=128, micro_batch=1, target=None, vocabulary=256, length=640)
    (row,) = _training_gpu.rows(TrainingBench(1, _quiet, steps=1), {"tiny": tiny}, device="cpu")
    assert row.what == "tiny: 4 x 1 sequences of 640, attention prefix"
    assert row.ours and row.theirs and row.ratio

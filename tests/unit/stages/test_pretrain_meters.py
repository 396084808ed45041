"""Meters against times and FLOPs that are known beforehand, their files, and what of DeepSpeed they hang on to."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest
import torch

from model.config import GLM_130B
from model.parallel.plan import ParallelPlan
from model.planning.cluster import ACCELERATORS, recognise
from stages._runner import StageError
from stages.pretrain import meters
from stages.pretrain.meters import History, Meters, Stopwatch, Tracer, console
from tests.support.training import run_stage, training_project

PUBLISHED = ParallelPlan(tensor=4, pipeline=8, data=24, activation_checkpointing=True)


class Clock:
    """A clock that goes on only when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return clock


def test_a_published_step_reads_as_in_the_log_and_the_paper(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Meters(None, GLM_130B, PUBLISHED)
    monkeypatch.setattr(found, "_peak_flops", ACCELERATORS["A100-40G"].peak_flops)
    found.begin(0)
    clock.now += 88.5
    with found.watch.part("checkpoint"):
        clock.now += 30.0
    values = found.step(1, 4224)
    assert values["hardware_tflops"] == pytest.approx(134.15, abs=0.005), "a checkpoint is no training"
    assert values["hfu"] == pytest.approx(0.43, abs=0.0005)
    assert values["mfu"] == pytest.approx(0.324, abs=0.0005)
    assert values["samples_per_second"] == pytest.approx(47.7, abs=0.05)
    assert values["seconds/step"] == pytest.approx(118.5)
    assert values["seconds/checkpoint"] == pytest.approx(30.0)
    assert "HFU 43.0%, MFU 32.4%" in console(values)


def test_parts_of_a_step_add_up_and_the_update_is_counted_once(clock: Clock) -> None:
    found = Meters(None, GLM_130B, PUBLISHED)

    def update() -> str:
        clock.now += 3.0
        return "done"

    timed = found.watch.timed("optimizer", update)
    for number in (1, 2):
        with found.watch.part("data"):
            clock.now += 1.0
        with found.watch.part("forward_backward"):
            clock.now += 10.0
            assert timed() == "done"
        values = found.step(number, 1)
        parts = {name: values[f"seconds/{name}"] for name in meters.PARTS}
        assert parts == {"data": 1.0, "forward_backward": 10.0, "optimizer": 3.0, "checkpoint": 0.0}
        assert values["seconds/step"] == 14.0


def test_time_before_the_first_step_belongs_to_none(clock: Clock) -> None:
    found = Meters(None, GLM_130B, PUBLISHED)
    with found.watch.part("data"):
        clock.now += 100.0
    found.begin(0)
    clock.now += 2.0
    values = found.step(1, 1)
    assert (values["seconds/step"], values["seconds/data"]) == (2.0, 0.0)


def test_utilisation_is_silent_where_the_peak_is_not_known(clock: Clock) -> None:
    found = Meters(None, GLM_130B, PUBLISHED)
    clock.now += 1.0
    values = found.step(1, 0)
    assert "hfu" not in values
    assert values["tokens_per_second"] == 0.0
    assert values["memory/peak_bytes"] > 10_000_000
    assert "HFU" not in console(values)


@pytest.mark.parametrize(
    ("name", "gib", "known"),
    [
        ("NVIDIA A100-SXM4-40GB", 39.5, "A100-40G"),
        ("NVIDIA A100-SXM4-80GB", 79.2, "A100-80G"),
        ("NVIDIA H100 80GB HBM3", 79.1, "H100-80G"),
        ("NVIDIA H200", 139.8, "H200-141G"),
        ("NVIDIA H100 PCIe", 79.1, None),
        ("NVIDIA H200 NVL", 139.8, None),
        ("NVIDIA GeForce RTX 3090 Ti", 23.7, None),
        ("NVIDIA GeForce RTX 2080 Ti", 10.8, "RTX2080Ti-11G"),
        ("Some GPU", 80.0, None),
    ],
)
def test_gpus_are_known_by_their_drivers_names(name: str, gib: float, known: str | None) -> None:
    found = recognise(name, int(gib * 2**30))
    assert (found.name if found else None) == known


def test_histories_have_the_layout_that_dvc_draws(tmp_path: Path) -> None:
    log = History(tmp_path, 0)
    for step in (1, 2, 3):
        log.add(step, {"mfu": step / 10, "seconds/data": 0.5})
    assert json.loads((tmp_path / "metrics.json").read_text())["step"] == 1, "the next one is a second away"
    log.put()
    assert (tmp_path / "plots/metrics/mfu.tsv").read_text() == "step\tmfu\n1\t0.1\n2\t0.2\n3\t0.3\n"
    assert (tmp_path / "plots/metrics/seconds/data.tsv").read_text().startswith("step\tdata\n1\t0.5\n")
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"step": 3, "mfu": 0.3, "seconds": {"data": 0.5}}


def test_a_resumed_history_drops_what_lies_behind_its_state(tmp_path: Path) -> None:
    log, file = History(tmp_path, 0), tmp_path / "plots/metrics/mfu.tsv"
    for step in (1, 2, 3):
        log.add(step, {"mfu": step / 10})
    file.write_text(file.read_text() + "4\t0.", encoding="utf-8")  # killed in the middle of a row
    History(tmp_path, 2).add(3, {"mfu": 0.9})
    assert file.read_text() == "step\tmfu\n1\t0.1\n2\t0.2\n3\t0.9\n"


def test_a_trace_covers_the_steps_that_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(meters.TRACE_STEPS, "2-3")
    tracer, x = Tracer(tmp_path / "meters", rank=1), torch.ones(4, 4)
    for step, operation in enumerate((torch.sin, torch.cos, torch.exp, torch.tan), start=1):
        tracer.before(step)
        operation(x)
    tracer.close()
    events = json.loads((tmp_path / "meters/trace-rank-1.json").read_text())["traceEvents"]
    names = {event.get("name") for event in events}
    assert {"aten::cos", "aten::exp"} <= names
    assert not {"aten::sin", "aten::tan"} & names


def test_no_trace_is_made_unasked_and_a_wrong_request_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(meters.TRACE_STEPS, raising=False)
    tracer = Tracer(tmp_path, 0)
    tracer.before(1)
    tracer.close()
    assert not list(tmp_path.iterdir())
    for asked in ("20", "5-2", "a-b"):
        monkeypatch.setenv(meters.TRACE_STEPS, asked)
        with pytest.raises(StageError, match=r"is not FIRST-LAST.*20-22"):
            Tracer(tmp_path, 0)


def test_both_engines_of_deepspeed_update_in_the_method_that_is_timed() -> None:
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.pipe.engine import PipelineEngine

    for method in (DeepSpeedEngine.step, PipelineEngine._exec_optimizer_step):
        assert "_take_model_step" in method.__code__.co_names


def test_recomputed_activations_are_counted_as_work_of_the_hardware_alone(clock: Clock) -> None:
    plain, again = (Meters(None, GLM_130B, dataclasses.replace(PUBLISHED, activation_checkpointing=on)) for on in (False, True))
    clock.now += 1.0
    kept, computed = plain.step(1, 24), again.step(1, 24)
    assert kept["model_tflops"] == computed["model_tflops"]
    assert kept["hardware_tflops"] < 0.76 * computed["hardware_tflops"]


def test_a_stopwatch_starts_again_when_it_is_read(clock: Clock) -> None:
    watch = Stopwatch(cuda=False)
    with watch.part("data"):
        clock.now += 1.0
    assert watch.take()["data"] == 1.0
    assert watch.take()["data"] == 0.0


def test_a_training_leaves_its_meters_beside_its_state_and_none_in_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(meters.TRACE_STEPS, "2-3")
    root = training_project(tmp_path, steps=4)
    done = run_stage(root)
    assert done.returncode == 0, done.stderr
    (folder,) = (root / "runs/pretrain/scratch").glob("*/meters")
    newest = json.loads((folder / "metrics.json").read_text())
    assert newest["step"] == 4
    assert newest["tokens_per_second"] > 0
    assert all(newest["seconds"][part] > 0 for part in meters.PARTS), "the last step writes a checkpoint"
    assert sum(newest["seconds"][part] for part in meters.PARTS) <= newest["seconds"]["step"]
    assert len((folder / "plots/metrics/tokens_per_second.tsv").read_text().splitlines()) == 1 + 4
    assert (folder / "trace-rank-0.json").stat().st_size > 0
    assert json.loads((root / "runs/pretrain/run.json").read_text())["meters"] == newest
    assert not [path for path in (root / "data/pretrain").rglob("*") if path.name in ("metrics.json", "plots")]

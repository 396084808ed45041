"""Real DeepSpeed runs: learning, kill -9 and resume, two ranks, refusals."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ledger.journal import Journal
from ledger.plan import DataPlan
from model.checkpoint import read_model
from tests.support.training import PRETRAIN, run_stage, training_project, weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = training_project(tmp_path_factory.mktemp("undisturbed"))
    done = run_stage(root)
    assert done.returncode == 0, done.stderr
    return root


def losses(root: Path) -> list[dict[str, str]]:
    with (root / "data/pretrain/loss.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_training_learns_and_leaves_what_the_contract_says(undisturbed: Path) -> None:
    rows = losses(undisturbed)
    assert [int(row["step"]) for row in rows] == list(range(1, 25))
    assert [int(row["batch_size"]) for row in rows[:9]] == [4] * 8 + [8]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) - 0.1
    output = undisturbed / "data/pretrain"
    journal = Journal.read(output / "journal.jsonl")
    plan = DataPlan.read(output / "plan.json")
    names = [f"step-{step:06d}" for step in (10, 20, 24)]
    assert list(journal.checkpoints()) == names
    for name in names:
        segment = journal.checkpoints()[name]
        assert segment.plan == plan.digest
        assert segment.last_sample + 1 == plan.ramp.consumed(segment.last_step + 1)
        manifest = json.loads((output / "checkpoints" / name / "manifest.json").read_text(encoding="utf-8"))
        assert manifest == segment.checkpoint_manifest()
        assert read_model(output / "checkpoints" / name).config.layers == 2


@pytest.mark.parametrize("steps_before_kill", [5, 11])
def test_kill_9_and_rerun_give_the_same_bytes(undisturbed: Path, tmp_path: Path, steps_before_kill: int) -> None:
    root = training_project(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.pretrain"], cwd=root, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while _logged_steps(root) < steps_before_kill:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline, "the training did not get going"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (root / "data/pretrain").exists(), "an unfinished stage leaves no output"
    done = run_stage(root)
    assert done.returncode == 0, done.stderr
    assert weights(root) == weights(undisturbed)


def test_two_ranks_train_the_same_model(undisturbed: Path, tmp_path: Path) -> None:
    """Two ranks see the same batches; only the order of sums differs. Dropout is off: its masks differ by rank."""
    model = PRETRAIN["model"] | {"dropout": 0.0}
    one = training_project(tmp_path / "one", model=model, precision="fp32")
    two = training_project(tmp_path / "two", model=model, precision="fp32", data_parallel=2)
    for root in (one, two):
        done = run_stage(root)
        assert done.returncode == 0, done.stderr
    for a, b in zip(losses(one), losses(two), strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), abs=5e-6)
        assert float(a["grad_norm"]) == pytest.approx(float(b["grad_norm"]), rel=1e-4)
    assert [row["step"] for row in losses(one)] == [row["step"] for row in losses(two)]


def test_other_inputs_never_resume_a_state(tmp_path: Path) -> None:
    root = training_project(tmp_path, steps=4, checkpoint_every=4)
    assert run_stage(root).returncode == 0
    before = weights(root)
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    params["pretrain"]["optimizer"]["peak_lr"] = 1.0e-3
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    assert run_stage(root).returncode == 0
    assert len(losses(root)) == 4
    assert weights(root)["checkpoints/step-000004/model.safetensors"] != before["checkpoints/step-000004/model.safetensors"]


def test_a_second_trainer_on_the_same_inputs_is_refused(tmp_path: Path) -> None:
    root = training_project(tmp_path, steps=500)
    first = subprocess.Popen(
        [sys.executable, "-m", "stages.pretrain"], cwd=root, start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while _logged_steps(root) < 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        second = run_stage(root)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert second.returncode == 1
    assert "another process is training" in second.stderr


def test_batch_sizes_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    root = training_project(tmp_path, batch_start=3)
    done = run_stage(root)
    assert done.returncode == 1
    assert "pretrain" in done.stderr
    assert "multiples of micro_batch" in done.stderr


def _logged_steps(root: Path) -> int:
    files = list((root / "runs/pretrain/scratch").glob("*/loss.csv"))
    return max(0, files[0].read_text(encoding="utf-8").count("\n") - 1) if files else 0

"""States and checkpoints of real trainings: other numbers of ranks go on from them; other data or tokenizers are refused."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ledger.journal import Journal
from model.checkpoint import INDEX, WEIGHTS, read_model, read_tensors
from model.checkpoint.convert import convert, verify
from stages._manifest import sha256_file
from tests.support.training import PRETRAIN, run_stage, training_project

pytestmark = pytest.mark.slow
PLAIN: dict[str, Any] = {
    "model": PRETRAIN["model"] | {"dropout": 0.0}, "precision": "fp32", "steps": 12, "checkpoint_every": 6, "save_every": 4
}  # fmt: skip


def _project(root: Path, changes: dict[str, Any]) -> Path:
    """With an embedding that two ranks can share."""
    training_project(root, **changes)
    (root / "data/tokenizer/tokenizer.json").write_text(json.dumps({"padded_size": 256}), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training in one process, to its end."""
    root = _project(tmp_path_factory.mktemp("whole"), PLAIN)
    done = run_stage(root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, killed behind its first state; the project's only scratch folder is `interrupted`."""
    root = _project(tmp_path_factory.mktemp("interrupted"), PLAIN | {"steps": 100_000})
    with subprocess.Popen(
        [sys.executable, "-m", "stages.pretrain"], cwd=root, start_new_session=True, stderr=subprocess.DEVNULL
    ) as stage:
        until = time.monotonic() + 120
        try:
            while not list((root / "runs/pretrain/scratch").glob("*/state/step-000000004")):
                assert time.monotonic() < until, "no state in time"
                time.sleep(0.002)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(stage.pid, signal.SIGKILL)
    (folder,) = (root / "runs/pretrain/scratch").iterdir()
    states = sorted((folder / "state").glob("step-*"))
    for state in states[1:]:  # the kill may come late
        shutil.rmtree(state)
    folder.rename(folder.with_name("interrupted"))
    return root


def _copy(interrupted: Path, root: Path, **changes: Any) -> Path:
    """The interrupted project with other parameters, which go on from it."""
    shutil.copytree(interrupted, root)
    settings = PRETRAIN | PLAIN | {"resume_from": "interrupted"} | changes
    (root / "params.yaml").write_text(yaml.safe_dump({"pretrain": settings}), encoding="utf-8")
    return root


def _losses(root: Path) -> list[dict[str, str]]:
    with (root / "data/pretrain/loss.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "plan",
    [{"data_parallel": 2}, {"tensor_parallel": 2}, {"pipeline_parallel": 2, "micro_batch": 1}],
    ids=["ZeRO-1", "tensor", "pipeline"],
)
def test_other_processes_go_on_with_the_same_data_and_moments(
    whole: Path, interrupted: Path, tmp_path: Path, plan: dict[str, Any]
) -> None:
    root = _copy(interrupted, tmp_path / "on", **plan)
    done = run_stage(root)
    assert done.returncode == 0, done.stderr
    for one, other in zip(_losses(whole), _losses(root), strict=True):
        assert one["samples"] == other["samples"]
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), abs=5e-6)
        assert float(one["grad_norm"]) == pytest.approx(float(other["grad_norm"]), rel=1e-4)
    last = "data/pretrain/checkpoints/step-000012"
    ours, theirs = read_tensors(root / last), read_tensors(whole / last)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) < 5e-5
    assert verify(root / last)
    journal = Journal.read(root / "data/pretrain/journal.jsonl")
    assert list(journal.checkpoints()) == ["step-000006", "step-000012"]
    spread = "data_parallel" not in plan
    assert (root / last / INDEX).exists() == spread
    assert (root / last / WEIGHTS).exists() != spread
    assert journal.checkpoints()["step-000012"].weights_sha256 == sha256_file(root / last / (INDEX if spread else WEIGHTS))
    if "tensor_parallel" in plan:
        convert(root / last, tmp_path / "one", 1)
        read = read_model(tmp_path / "one").named_parameters()
        assert all(torch.equal(parameter, ours[name]) for name, parameter in read)


def test_a_state_of_another_training_is_refused_with_what_changed(interrupted: Path, tmp_path: Path) -> None:
    root = _copy(interrupted, tmp_path / "on", optimizer=PRETRAIN["optimizer"] | {"peak_lr": 1.0e-3})
    (root / "data/tokenizer/tokenizer.model").write_bytes(b"another tokenizer")
    packed = root / "data/pack/manifest.json"
    packed.write_text(packed.read_text(encoding="utf-8") + " ", encoding="utf-8")
    done = run_stage(root)
    assert done.returncode == 1
    assert "the state behind 4 steps is of another training" in done.stderr
    assert "params.optimizer.peak_lr: 0.003 there, 0.001 here" in done.stderr
    assert re.search(r"tokenizer\.sha256: \w{64} there, \w{64} here", done.stderr)
    assert re.search(r"data\.pack_manifest_sha256: \w{64} there, \w{64} here", done.stderr)
    assert "seed" not in done.stderr, "what did not change is not named"


def test_a_damaged_state_is_refused_with_its_sha256(interrupted: Path, tmp_path: Path) -> None:
    root = _copy(interrupted, tmp_path / "on")
    state = root / "runs/pretrain/scratch/interrupted/state/step-000000004"
    shard = sorted(state.glob("*.safetensors"))[0]
    digest = json.loads((state / INDEX).read_text(encoding="utf-8"))["shards"][shard.name]["sha256"]
    shard.write_bytes(shard.read_bytes()[:-8])
    done = run_stage(root)
    assert done.returncode == 1
    assert re.search(rf"{shard.name}: \d+ bytes where the index has \d+, with SHA-256 {digest}", done.stderr), done.stderr


def test_a_folder_that_is_no_training_is_refused(interrupted: Path, tmp_path: Path) -> None:
    done = run_stage(_copy(interrupted, tmp_path / "on", resume_from="../elsewhere"))
    assert done.returncode == 1
    assert "there is no training '../elsewhere' in runs/pretrain/scratch" in done.stderr
    assert "interrupted" in done.stderr

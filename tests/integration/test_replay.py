"""The replay of a sample, its row in data/pack, and the batch that training was really fed: one and the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ledger.plan import DataPlan
from model.packed import Stored
from stages._params import parse
from stages.pack import Params
from stages.pack.definition import Source
from stages.pack.replay import Project
from stages.pretrain.data import PackedSamples
from tests.support.training import PACK, training_project

pytestmark = pytest.mark.slow
FIELDS = ("input_ids", "target_ids", "position_ids", "block_start", "block_context")
STEPS = 6
SPY = """
import runpy
import numpy
from stages.pretrain.engine import Engine

train_step, fed = Engine.train_step, []

def spy(self, micro_batches, lr):
    fed.extend({name: getattr(batch, name).numpy().copy() for name in %r} for batch in micro_batches)
    return train_step(self, micro_batches, lr)

Engine.train_step = spy
runpy.run_module("stages.pretrain", run_name="__main__")
numpy.savez("runs/pretrain/fed.npz", **{name: numpy.concatenate([batch[name] for batch in fed]) for name in %r})
"""


def test_replay_row_and_fed_batch_are_equal(tmp_path: Path) -> None:
    root = training_project(tmp_path / "project", steps=STEPS, checkpoint_every=STEPS, save_every=STEPS)
    command = [sys.executable, "-c", SPY % (FIELDS, FIELDS)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(root / "runs/pretrain/fed.npz") as file:
        batches = {name: file[name] for name in FIELDS}
    rows = np.concatenate([DataPlan.read(root / "data/pretrain/plan.json").rows(step) for step in range(STEPS)])
    assert len(rows) == len(batches["input_ids"]) >= 24
    project, packed = Project(root), PackedSamples(root / "data/pack")
    source = Source(parse(Params, PACK, "pack"), root / "data/encode", root / "data/instruct")
    loaded = packed.batch(rows)
    for place, row in enumerate(rows.tolist()):
        sample, pieces = source.sample(0, row)
        stored = project.stored(row)
        for name in FIELDS:
            made, fed = getattr(sample, name).astype(np.int64).tobytes(), batches[name][place].tobytes()
            assert made == fed == getattr(loaded, name)[place].numpy().tobytes(), (row, name)
        for name in Stored._fields[:-1]:
            assert getattr(sample, name).tolist() == getattr(stored.stored, name)[0].tolist()
        assert stored.targets.tolist() == batches["target_ids"][place].tolist()
        assert stored.positions.tolist() == batches["position_ids"][place].tolist()
        assert (pieces, 0) == (stored.pieces, stored.epoch)
    kinds = set(packed.kinds(rows).tolist())
    assert kinds == {0, 1}

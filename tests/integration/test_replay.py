"""The replay of a sample, its row in data/pack, the ledger's answer, and the batch that was really fed: all the same."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ledger.plan import DataPlan
from ledger.query import Ledger
from model.packed import Stored
from stages._params import parse
from stages.pack import Params
from stages.pack.definition import Source
from stages.pack.replay import Project
from stages.pretrain.data import PackedSamples
from tests.support import pretrain_faults as faults
from tests.support.training import PACK, PRETRAIN, train_in_child, training_project

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


LONG = {
    "rows": 500, "documents": 37, "steps": 60, "checkpoint_every": 10, "save_every": 5,
    "batch_start": 4, "batch_end": 8, "batch_increment": 4, "batch_ramp_samples": 60,
    "model": PRETRAIN["model"] | {"dropout": 0.0},
    "stability": {
        "window": 16, "sigmas": 100.0, "consecutive": 2, "good_after": 2, "skip_before": 1, "skip_after": 2,
        "learning_rate_factor": 1.0, "shrink_factor": 0.5, "returns": 1,
    },
}  # fmt: skip
SPIKE = (40, 41)  # steps: back to 30, and 39 to 43 passed over


def test_the_ledger_knows_every_batch_of_a_training_that_was_killed_and_went_back(tmp_path: Path) -> None:
    """Two kills, one before and one behind the return; each batch that any process fed is compared, byte for byte."""
    root = training_project(tmp_path / "project", **LONG)
    lives, teed = [], tmp_path / "fed"
    teed.mkdir()
    for killed_at_row in (46, 60, None):  # two rows of logs a step, counted in each process
        before = len(list(teed.iterdir()))
        code, log = train_in_child(root, faults.tee_a_spike, teed, *SPIKE, killed_at_row)
        assert code == (0 if killed_at_row is None else -9), log
        lives.append(len(list(teed.iterdir())) - before)
    assert min(lives) > 5, "each process trained"
    batches = []
    for file in sorted(teed.iterdir()):
        with np.load(file) as arrays:
            batches.append({name: arrays[name] for name in FIELDS})
    answers = Answers(root)
    steps = [answers.step_of(batch) for batch in batches]
    backward = [(last, then) for last, then in itertools.pairwise(steps) if then <= last]
    assert [last for last, _ in backward] == [22, 41, 38], "killed, gone back, killed"
    assert backward[1] == (SPIKE[1], 30)
    effective: list[int] = []
    for step in steps:
        effective = [earlier for earlier in effective if earlier < step] + [step]
    main = answers.ledger.journal.main_line()
    said = [step for segment in main for step in range(segment.first_step, segment.last_step + 1) if not segment.skips(step)]
    assert effective == said == [step for step in range(60) if step not in range(39, 44)]
    for step in range(60):
        runs = answers.ledger.step(step).runs
        assert any(not run.skipped for run in runs) == (step in steps), step
    seen_in_vain = {run.status for step in SPIKE for run in answers.ledger.step(step).runs if not run.skipped}
    assert seen_in_vain == {"abandoned"}
    for step, batch in zip(steps, batches, strict=True):
        answers.compare(step, batch)


class Answers:
    """What the ledger, the packed samples and the replay say of a step."""

    def __init__(self, root: Path) -> None:
        self.ledger, self.project = Ledger(root), Project(root)
        self.source = Source(parse(Params, PACK, "pack"), root / "data/encode", root / "data/instruct")
        stored = [self.project.stored(int(row)) for row in range(len(PackedSamples(root / "data/pack")))]
        self._of = {row.stored.input_ids.astype(np.int64).tobytes(): number for number, row in enumerate(stored)}
        self._steps = {int(row): step for step in range(60) for row in self.ledger.plan.rows(step)}

    def step_of(self, batch: dict[str, NDArray[np.int64]]) -> int:
        """The one step that consumes the samples of a batch, found by their tokens alone."""
        (step,) = {self._steps[self._of[tokens.tobytes()]] for tokens in batch["input_ids"]}
        return step

    def compare(self, step: int, batch: dict[str, NDArray[np.int64]]) -> None:
        """Every array of every sample, and the documents behind it."""
        record = self.ledger.step(step)
        pieces = record.pieces.to_pylist()
        consumed = sorted({(piece["consumption"], piece["row"]) for piece in pieces})
        assert [index for index, _ in consumed] == list(range(record.first_sample, record.last_sample + 1))
        assert len(consumed) == len(batch["input_ids"])
        for place, (_, row) in enumerate(consumed):
            sample, made_of = self.source.sample(0, row)
            for name in FIELDS:
                assert getattr(sample, name).astype(np.int64).tobytes() == batch[name][place].tobytes(), (step, row, name)
            named = [
                (int(piece["doc_id"].removeprefix("made/")), piece["doc_offset"], piece["length"])
                for piece in pieces
                if piece["row"] == row
            ]
            assert named == _stretches(made_of), (step, row)
            assert {piece["licence"] for piece in pieces} == {"CC0-1.0"}


def _stretches(pieces: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Document, first token and length of pieces in order, those that touch made one, as the ledger tells them."""
    found: list[tuple[int, int, int]] = []
    for document, offset, length in sorted(pieces):
        if found and found[-1][0] == document and sum(found[-1][1:]) == offset:
            found[-1] = (document, found[-1][1], found[-1][2] + length)
        else:
            found.append((document, offset, length))
    return found

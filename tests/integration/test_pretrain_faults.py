"""Trainings that are killed, poisoned or broken from within, and what becomes of them."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ledger.journal import Journal
from ledger.schedule import LrSchedule
from tests.support import pretrain_faults as faults
from tests.support.training import PRETRAIN, scratch_of, train_in_child, training_project, weights

pytestmark = pytest.mark.slow

STABILITY: dict[str, Any] = {
    "window": 16, "sigmas": 6.0, "consecutive": 2, "good_after": 2, "skip_before": 1, "skip_after": 2,
    "learning_rate_factor": 1.0, "shrink_factor": 0.5, "returns": 3,
}  # fmt: skip
LONG: dict[str, Any] = {
    "rows": 1_400, "steps": 160, "checkpoint_every": 20, "save_every": 20, "micro_batch": 8, "embedding_gradient_shrink": 1.0,
    "batch_start": 8, "batch_end": 8, "batch_increment": 8, "batch_ramp_samples": 0,
    "model": PRETRAIN["model"] | {"dropout": 0.0},
    "optimizer": PRETRAIN["optimizer"] | {"peak_lr": 1.0e-2, "decay_samples": 1_280},
}  # fmt: skip
POISON = (60, 63, 3)  # first and last step, token
_FATES = random.Random(2022)
KILLS = [
    ("row", _FATES.randint(1, 9)), ("checkpoint", _FATES.randint(1, 3)), ("journal", 1),
    ("state", _FATES.randint(1, 3)), ("row", _FATES.randint(1, 4)),
]  # fmt: skip


def rows_of(root: Path, name: str = "loss.csv") -> list[dict[str, str]]:
    with (root / "data/pretrain" / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def hold_out(root: Path) -> None:
    """Held-out tokens beside the training ones, as encode leaves them."""
    tokens = np.random.default_rng(2).integers(8, 128, 700).astype(np.int32)
    schema = pa.schema([("token", pa.int32())])
    with pa.ipc.new_file(str(root / "data/encode/heldout-00000.arrow"), schema) as writer:
        writer.write_batch(pa.record_batch([pa.array(tokens)], schema=schema))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = training_project(tmp_path_factory.mktemp("undisturbed"))
    assert train_in_child(root) == (0, (root / "child.log").read_text(encoding="utf-8"))
    return root


def test_five_kills_one_after_the_other_leave_no_trace(undisturbed: Path, tmp_path: Path) -> None:
    """Among them: within the write of a checkpoint, before its journal line is safe, within the write of a state."""
    root = training_project(tmp_path)
    for place, count in KILLS:
        code, log = train_in_child(root, faults.kill_at, place, count)
        assert code == -9, (place, count, log)
        if place == "checkpoint":
            assert list((scratch_of(root) / "checkpoints").glob(".*")), "it was killed with a checkpoint half written"
    code, log = train_in_child(root)
    assert code == 0, log
    assert weights(root) == weights(undisturbed)


def _first_line_torn(folder: Path) -> None:
    file = folder / "journal.jsonl"
    file.write_bytes(file.read_bytes()[:200])  # as a kill leaves the last line: that alone is no damage


def _journal_edited(folder: Path) -> None:
    file = folder / "journal.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace('"first_step":0', '"first_step":1'), encoding="utf-8")


def _checkpoint_lost(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints/step-000010")


def _rows_lost(folder: Path) -> None:
    file = folder / "loss.csv"
    file.write_bytes(file.read_bytes()[:500])


def _log_garbled(folder: Path) -> None:
    (folder / "loss.csv").write_bytes(b"step\n\xff\n")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_first_line_torn, r"the line of step-000010, step-000020, step-000024 is missing, but 24 steps are finished .*jour"),
        (_journal_edited, r"journal\.jsonl, line 1: its hash is not that of its content"),
        (_checkpoint_lost, r"the folder of step-000010 is missing, but 24 steps are finished"),
        (_rows_lost, r"\d rows where 24 steps are finished: it was cut or edited .*loss\.csv"),
        (_log_garbled, r"not the log of a training: .*loss\.csv"),
    ],
)
def test_damage_to_what_lies_beside_a_state_is_refused_by_name(
    undisturbed: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    root = tmp_path / "project"
    shutil.copytree(undisturbed, root)
    shutil.rmtree(root / "data/pretrain")
    damage(scratch_of(root))
    before = {file: file.read_bytes() for file in scratch_of(root).glob("*.csv")}
    code, log = train_in_child(root)
    assert code == 1, log
    assert re.search(said + r".*Remedy: restore it; or remove ", log), log
    assert "Traceback" not in log
    assert {file: file.read_bytes() for file in before} == before, "rows that are there stay there"


def test_validation_and_watch_leave_the_training_as_it_is(undisturbed: Path, tmp_path: Path) -> None:
    root = training_project(tmp_path, validation={"every": 10, "sequences": 4}, stability=STABILITY | {"sigmas": 1_000.0})
    hold_out(root)
    code, log = train_in_child(root)
    assert code == 0, log
    assert {name: weights(root)[name] for name in weights(undisturbed)} == weights(undisturbed)
    validated = rows_of(root, "validation.csv")
    assert [int(row["step"]) for row in validated] == [10, 20, 24]
    assert {(row["sequences"], row["targets"]) for row in validated} == {("4", str(4 * 32))}
    for row, norms in zip(rows_of(root), rows_of(root, "gradient_norms.csv"), strict=True):
        parts = [float(norm) for name, norm in norms.items() if name != "step"]
        assert float(np.linalg.norm(parts)) == pytest.approx(float(row["grad_norm"]), rel=1e-4)


def test_a_poisoned_range_is_left_out_and_the_training_recovers(tmp_path: Path) -> None:
    clean, sick = training_project(tmp_path / "clean", **LONG), training_project(tmp_path / "sick", **LONG, stability=STABILITY)
    code, log = train_in_child(clean)
    assert code == 0, log
    code, log = train_in_child(sick, faults.poison, *POISON)
    assert code == 0, log
    journal = Journal.read(sick / "data/pretrain/journal.jsonl")
    (line,) = (segment for segment in journal.segments if segment.status == "abandoned")
    assert (line.first_step, line.last_step, line.settings["return_to"]) == (60, 61, "step-000040")
    skipped = [pair for segment in journal.main_line() for pair in segment.skipped]
    assert skipped == [(59, 59), (60, 63)], "all of the poison, and one step before"
    assert journal.main_line()[-1].settings == {"embedding_gradient_shrink": 0.5}
    rows = rows_of(sick)
    assert [int(row["step"]) - 1 for row in rows if not row["loss"]] == [59, 60, 61, 62, 63]
    healthy, recovered = (np.mean([float(row["loss"]) for row in rows_of(root)[-20:]]) for root in (clean, sick))
    assert recovered == pytest.approx(healthy, rel=0.01)


def test_a_loss_that_is_nan_in_the_first_step_ends_the_training_with_a_sentence(tmp_path: Path) -> None:
    root = training_project(tmp_path)
    code, log = train_in_child(root, faults.not_a_number, 1)
    assert code == 1
    assert "loss is nan in the first step, before anything was learnt" in log
    assert "Traceback" not in log
    assert not (root / "data/pretrain").exists()


def test_a_gradient_that_is_not_finite_ends_the_training_before_it_does_harm_unseen(tmp_path: Path) -> None:
    """DeepSpeed would leave the update out and say nothing."""
    root = training_project(tmp_path)
    code, log = train_in_child(root, faults.not_a_number, 7, True)  # two micro-batches a step: the fourth step's first
    assert code == 1
    assert re.search(r"gradient norm is (nan|inf) at step 3", log)
    assert "Traceback" not in log


def test_memory_that_runs_out_is_told_with_the_plan_and_the_knobs(tmp_path: Path) -> None:
    """Real allocations of real steps fail, under a limit of the system."""
    wide = PRETRAIN["model"] | {"layers": 6, "hidden": 512, "heads": 8, "ffn": 1024}
    root = training_project(
        tmp_path, rows=200, steps=4, micro_batch=64, batch_start=64, batch_end=64, batch_increment=64, model=wide
    )
    code, log = train_in_child(root, faults.little_memory, 200_000_000)
    assert code == 1, log
    (said,) = (line for line in log.splitlines() if "out of memory" in line)
    assert re.search(r"rank 0 of 1 is out of memory \(.*alloc", said), said
    assert re.search(r"The plan foresees \d\.\d\d GB .*activations \d\.\d\d GB", said), said
    knobs = re.findall(r"pretrain\.(micro_batch: (?:16|32)|activation_checkpointing: true) \((\d\.\d\d) GB\)", said)
    assert {knob for knob, _ in knobs} == {"micro_batch: 16", "micro_batch: 32", "activation_checkpointing: true"}
    assert f"pretrain.resume_from: {scratch_of(root).name}" in said
    assert not (root / "data/pretrain").exists()


def test_states_say_of_a_killed_return_where_it_stood(tmp_path: Path) -> None:
    """Killed right behind the journal's line of a return, a training goes on as if it had not been."""
    whole, killed = (training_project(tmp_path / name, **LONG | {"steps": 80}, stability=STABILITY) for name in ("a", "b"))
    code, log = train_in_child(whole, faults.poison, *POISON)
    assert code == 0, log
    code, log = train_in_child(killed, faults.poison_and_kill_at, *POISON, "journal", 4)  # three checkpoints, then the return
    assert code == -9, log
    last = (scratch_of(killed) / "journal.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last)["status"] == "abandoned"
    code, log = train_in_child(killed, faults.poison, *POISON)
    assert code == 0, log
    assert weights(killed) == weights(whole)


def test_a_nan_sends_the_training_back_and_rate_and_alpha_are_lower_from_there_on(tmp_path: Path) -> None:
    """What the engine is really given in each step, by the formulas; weights that a NaN spoilt are those of the state again."""
    ramp = {"first_step": 2, "steps": 10, "end": 1.0}
    rule = STABILITY | {"good_after": 1, "skip_before": 0, "skip_after": 0, "learning_rate_factor": 0.5, "shrink_factor": 0.25}
    small = {"steps": 24, "batch_start": 4, "batch_end": 4, "micro_batch": 4, "batch_ramp_samples": 0, "rows": 120}
    root = training_project(tmp_path, stability=rule, embedding_gradient_shrink_ramp=ramp, **small)
    code, log = train_in_child(root, faults.rates_of_a_broken_training, tmp_path / "rates", 15)  # step 14, from 0
    assert code == 0, log
    journal = Journal.read(root / "data/pretrain/journal.jsonl")
    (line,) = (segment for segment in journal.segments if segment.status == "abandoned")
    assert (line.first_step, line.last_step) == (10, 14)
    assert (line.settings["return_to"], line.settings["skip"]) == ("step-000010", [14, 14])
    assert line.settings["cause"].startswith("step 14: loss nan")
    assert journal.checkpoints()["step-000020"].settings["learning_rate_factor"] == 0.5

    schedule = LrSchedule(3.0e-3, 1.0e-4, 16, 200)
    expected = [
        (schedule.at(4 * step) * factor, (0.1 + 0.9 * min(max((step - 2) / 10, 0.0), 1.0)) * shrink)
        for steps, factor, shrink in ((range(15), 1.0, 1.0), ([*range(10, 14), *range(15, 24)], 0.5, 0.25))
        for step in steps
    ]
    found = [tuple(map(float, row.split())) for row in (tmp_path / "rates").read_text(encoding="utf-8").splitlines()]
    assert [asked for asked, _, _ in found] == pytest.approx([rate for rate, _ in expected])
    assert [used for _, used, _ in found] == [asked for asked, _, _ in found]
    assert [alpha for _, _, alpha in found] == pytest.approx([alpha for _, alpha in expected])
    rows = rows_of(root)
    assert [row["step"] for row in rows if not row["loss"]] == ["15"]
    assert all(np.isfinite(float(row["loss"])) for row in rows if row["loss"])


FP16: dict[str, Any] = {"model": PRETRAIN["model"] | {"dropout": 0.0}, "steps": 12}


def test_fp16_learns_what_fp32_learns(tmp_path: Path) -> None:
    full, half = (training_project(tmp_path / precision, **FP16, precision=precision) for precision in ("fp32", "fp16"))
    code, log = train_in_child(full)
    assert code == 0, log
    code, log = train_in_child(half, faults.fp16_on_a_cpu, tmp_path / "scales")
    assert code == 0, log
    assert set((tmp_path / "scales").read_text(encoding="utf-8").split()) == {"65536"}
    for mine, theirs in zip(rows_of(half), rows_of(full), strict=True):
        assert float(mine["loss"]) == pytest.approx(float(theirs["loss"]), abs=5e-3)
        assert float(mine["grad_norm"]) == pytest.approx(float(theirs["grad_norm"]), rel=0.02), "told without the loss scale"


def test_fp16_leaves_out_updates_and_halves_its_scale_whether_it_is_killed_or_not(tmp_path: Path) -> None:
    """Out of range in the first step, when there are no moments yet, and twice more, when the hysteresis is used up."""
    overflows = (0, 4, 5)
    whole, killed = (training_project(tmp_path / name, **FP16, precision="fp16", save_every=1) for name in ("whole", "killed"))
    code, log = train_in_child(whole, faults.fp16_on_a_cpu, tmp_path / "scales", overflows)
    assert code == 0, log
    scales = (tmp_path / "scales").read_text(encoding="utf-8").split()
    assert scales == ["65536"] * 5 + ["32768"] + ["16384"] * 6
    assert [row["step"] for row in rows_of(whole) if row["grad_norm"] == "inf"] == ["1", "5", "6"]
    facts = json.loads((scratch_of(whole) / "state/step-000000012/state.json").read_text(encoding="utf-8"))
    assert (facts["updates"], facts["loss_scaler"]["cur_scale"]) == (9, 16_384)
    for row in (3, 5):
        code, log = train_in_child(killed, faults.fp16_on_a_cpu, tmp_path / "again", overflows, row)
        assert code == -9, log
    code, log = train_in_child(killed, faults.fp16_on_a_cpu, tmp_path / "again", overflows)
    assert code == 0, log
    assert weights(killed) == weights(whole)


def test_fp16_that_never_comes_into_range_ends_with_a_sentence(tmp_path: Path) -> None:
    """From 2^16 on, one overflow is forgiven and sixteen halve the scale; the next has nothing left to halve."""
    root = training_project(tmp_path / "project", **FP16 | {"steps": 20}, precision="fp16")
    code, log = train_in_child(root, faults.fp16_on_a_cpu, tmp_path / "scales", range(20))
    assert code == 1
    assert "FP16 gradients are not finite at step 17, with the least loss scale" in log
    assert "Remedy: set pretrain.precision to bf16" in log
    assert (tmp_path / "scales").read_text(encoding="utf-8").split()[-1] == "1"
    assert not (root / "data/pretrain").exists()

"""GLM-130B's published incident log, asked as a ledger: what a step saw, what was skipped, which branches were given up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks._generated import Size, make, open_ledger
from ledger import LedgerError
from ledger.journal import Journal
from ledger.order import Order
from ledger.plan import DataPlan
from ledger.query import Ledger
from tests.support import glm130b_log

LAST_TASKS = "multitask_0601"  # the task data that the training ended with


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """The published steps and branches over a small corpus, read again and again; its plan is that of the last task data."""
    folder, size = tmp_path_factory.mktemp("published") / "table", Size(20_000)
    make(folder, size)
    found = open_ledger(folder, size)
    found.plan = DataPlan(Order(1234, size.samples, 1), glm130b_log.RAMP, glm130b_log.LAST_ITERATION, "0" * 64)
    journal = Journal.open(Path(folder.parent / "published.jsonl"))
    for segment in glm130b_log.segments():
        own = segment.plan == glm130b_log._digest(LAST_TASKS)
        journal.append(replace(segment, plan=found.plan.digest) if own else segment)
    found.journal = journal
    return found


def test_what_step_49300_saw(ledger: Ledger) -> None:
    record = ledger.step(49_299)
    assert record.last_sample + 1 - record.first_sample == 4_224
    assert record.last_sample + 1 == 195_591_480
    assert [(run.status, run.skipped) for run in record.runs] == [("kept", False)]
    assert len(set(record.pieces["consumption"].to_pylist())) == 4_224


@pytest.mark.parametrize(("first", "last"), [(40_701, 40_900), (42_401, 42_600)])
def test_skipped_iterations_are_absent(ledger: Ledger, first: int, last: int) -> None:
    ancestry = ledger.journal.path_to("49300")
    own = [segment for segment in ancestry if segment.plan == ledger.plan.digest]
    trained = ledger.trained(own)
    for iteration, seen in ((first - 1, True), (first, False), (last, False), (last + 1, True)):
        start, end = ledger.plan.ramp.consumed([iteration - 1, iteration]).tolist()
        assert any(low <= start and end <= high for low, high in trained.tolist()) is seen
    assert all(run.skipped for run in ledger.step(first - 1).runs if run.status == "kept")


def test_the_branch_that_exploded_is_told_apart(ledger: Ledger) -> None:
    """Iteration 40,750 was trained on once, by a branch that was given up, and passed over on the way to the end."""
    runs = ledger.step(40_749).runs
    assert [(run.status, run.skipped) for run in runs] == [("abandoned", False), ("kept", True)]


def test_task_data_changed_under_way(ledger: Ledger) -> None:
    """Of the steps before the last change the plan of the last task data cannot speak, and says so."""
    swaps = [segment.first_step for segment in ledger.journal.path_to("49300") if segment.plan == ledger.plan.digest]
    assert min(swaps) == 24_500
    for step in (0, 22_849, 24_499):
        with pytest.raises(LedgerError, match=r"followed another data plan .* Remedy: ask the version of the project"):
            ledger.step(step)
    assert ledger.step(24_500).pieces.num_rows

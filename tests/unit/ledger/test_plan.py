from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from ledger import LedgerError
from ledger.order import Order
from ledger.plan import DataPlan
from ledger.schedule import BatchRamp

PLAN = DataPlan(Order(7, 100, 2), BatchRamp(4, 8, 2, 20), steps=30, pack_manifest_sha256="ab" * 32)


def test_plan_round_trip() -> None:
    assert DataPlan.from_json(PLAN.to_json()) == PLAN


def test_plan_digest_is_of_what_decides_the_data() -> None:
    longer = DataPlan(PLAN.order, PLAN.ramp, steps=60, pack_manifest_sha256=PLAN.pack_manifest_sha256)
    other = DataPlan(Order(8, 100, 2), PLAN.ramp, PLAN.steps, PLAN.pack_manifest_sha256)
    assert longer.digest == PLAN.digest != other.digest
    text = (
        '{"order":{"epochs":2,"samples":100,"seed":7},"pack_manifest_sha256":"' + "ab" * 32 + '",'
        '"ramp":{"end":8,"increment":2,"ramp_samples":20,"start":4}}'
    )
    assert PLAN.digest == hashlib.sha256(text.encode()).hexdigest()


def test_plan_rows() -> None:
    boundaries = PLAN.ramp.boundaries(30)
    rows = [PLAN.rows(step) for step in range(30)]
    assert [len(part) for part in rows] == np.diff(boundaries).tolist()
    assert np.array_equal(np.concatenate(rows), PLAN.order.rows(np.arange(boundaries[-1])))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"order": 3}', PLAN.to_json().replace('"end"', '"stop"')])
def test_refuses_what_is_no_plan(text: str) -> None:
    with pytest.raises(LedgerError, match="not a data plan"):
        DataPlan.from_json(text)


def test_refuses_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no such file"):
        DataPlan.read(tmp_path / "plan.json")

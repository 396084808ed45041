"""Of which training a state is: what may differ where it goes on, and what may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ledger.order import Order
from ledger.plan import DataPlan
from stages._params import parse
from stages._runner import StageError
from stages.pretrain.identity import check_identity, identity
from stages.pretrain.settings import Params
from stages.pretrain.state import TrainingState
from tests.support.training import PRETRAIN


def training(folder: Path, order: Order | None = None, tokenizer: bytes = b"tokens", **changes: Any) -> dict[str, Any]:
    params = parse(Params, PRETRAIN | changes, "pretrain")
    file = folder / "tokenizer.model"
    file.write_bytes(tokenizer)
    plan = DataPlan(order or Order(params.seed, 90, 1), params.ramp(), params.steps, "0" * 64)
    return identity(params, params.model.with_data(128, 64), plan, file)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingState:
    found, facts = TrainingState(tmp_path), {"training": training(tmp_path)}
    monkeypatch.setattr(found, "facts", lambda steps: facts)
    return found


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"order": Order(8, 90, 1)}, "data.order.seed: 7 there, 8 here"),
        ({"order": Order(7, 91, 1)}, "data.order.samples: 90 there, 91 here"),
        ({"batch_end": 12}, "data.ramp.end: 8 there, 12 here"),
        ({"tokenizer": b"others"}, "tokenizer.sha256: "),
        ({"seed": 8}, "params.seed: 7 there, 8 here"),
    ],
)
def test_another_order_or_tokenizer_is_refused_by_name(
    state: TrainingState, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(StageError, match="is of another training") as refused:
        check_identity(state, 4, training(tmp_path, **changes))
    assert said in str(refused.value)


def test_other_processes_other_kernels_and_more_steps_are_the_same_training(state: TrainingState, tmp_path: Path) -> None:
    free = {"data_parallel": 2, "threads": 4, "attention": "masked", "compile": True, "steps": 30, "zero_stage": 2}
    assert check_identity(state, 4, training(tmp_path, **free))["training"] == training(tmp_path)

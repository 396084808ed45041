"""Compiled blocks: the same training, or a sentence that says why not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import ModelConfig
from model.glm import GLM, Batch, initialise
from model.parallel.parallelize import checkpoint_blocks
from model.parallel.plan import PlanError
from stages._params import parse
from stages.pretrain import compilation
from stages.pretrain.compilation import check_compile, compile_blocks
from stages.pretrain.settings import Params
from tests.support.training import PRETRAIN, run_stage, training_project

CONFIG = ModelConfig(layers=3, hidden=32, heads=2, ffn=48, vocabulary=128, max_sequence=24, query_key_layer_scaling=True)


def params(**changes: Any) -> Params:
    return parse(Params, PRETRAIN | {"compile": True} | changes, "pretrain")


def batch() -> Batch:
    ids = torch.arange(2 * 24).view(2, 24) % 120 + 8
    targets = torch.where(torch.arange(24) < 10, -1, ids)
    return Batch(ids, targets, torch.arange(24).repeat(2, 1), torch.tensor([[0, 24]] * 2), torch.full((2, 1), 10))


def gradients(*, compiled: str | None, checkpointed: bool = False, attention: str = "auto") -> list[torch.Tensor]:
    torch._dynamo.reset()
    model = GLM(CONFIG)
    initialise(model, seed=1)
    model.attention_backend = attention
    if compiled is not None:
        compile_blocks(model, compiled)
    if checkpointed:
        checkpoint_blocks(model)
    model(batch())[0].backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("attention", ["explicit", "prefix"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_compiled_blocks_have_the_gradients_of_plain_ones(attention: str, checkpointed: bool) -> None:
    """By a backend that needs no compiler; layers that differ by a number share what is traced."""
    plain = gradients(compiled=None, attention=attention)
    traced = gradients(compiled="aot_eager", checkpointed=checkpointed, attention=attention)
    assert len(plain) == len(traced)
    for one, other in zip(plain, traced, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_more_kinds_of_input_than_are_kept_are_an_error_and_never_plain_code() -> None:
    torch._dynamo.reset()
    model = GLM(CONFIG)
    compile_blocks(model, "eager")
    assert torch._dynamo.config.fail_on_recompile_limit_hit
    assert torch._dynamo.config.recompile_limit >= 4 * CONFIG.layers


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pipeline_parallel": 2}, "pipeline"),
        ({"tensor_parallel": 2}, "pipeline"),
        ({"zero_stage": 3}, "zero_stage 3"),
    ],
)
def test_where_blocks_cannot_be_compiled_that_is_said(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(PlanError, match=rf"compile: true is refused: .*{reason}.*Set compile: false"):
        check_compile(params(**changes))
    check_compile(params(**changes, compile=False))


def test_a_cpu_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation.torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(PlanError, match=r"needs a C\+\+ compiler.*Set compile: false"):
        check_compile(params())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++, which is not here")
def test_the_stage_trains_compiled_to_the_losses_of_plain_blocks(tmp_path: Path) -> None:
    model = PRETRAIN["model"] | {"layers": 1, "dropout": 0.0}
    losses: list[list[float]] = []
    for compiled in (False, True):
        root = training_project(tmp_path / str(compiled), model=model, steps=6, compile=compiled)
        done = run_stage(root)  # in its sandbox, where compiler and cache have to be
        assert done.returncode == 0, done.stderr
        rows = (root / "data/pretrain/loss.csv").read_text(encoding="utf-8").splitlines()[1:]
        losses.append([float(row.split(",")[5]) for row in rows])
    assert losses[0] == pytest.approx(losses[1], rel=2e-3), "BF16, rounded at other places"
    assert losses[0] != losses[1], "it was compiled"

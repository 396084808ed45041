"""Settings of the recipe: EGS over time, attention, validation windows, and what is refused of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from model.attention import BACKENDS
from model.parallel.plan import PlanError
from model.tokenizer import SPECIAL
from stages._params import ParamsError, parse
from stages._runner import StageError
from stages.pretrain.attention import check_attention
from stages.pretrain.settings import ATTENTION, Params
from stages.pretrain.validation import held_out
from tests.support.parallel_cases import config, params
from tests.support.training import PRETRAIN

STABILITY = {
    "window": 128, "sigmas": 6.0, "consecutive": 2, "good_after": 20, "skip_before": 10, "skip_after": 200,
    "learning_rate_factor": 1.0, "shrink_factor": 0.5, "returns": 10,
}  # fmt: skip


def test_alpha_rises_as_published() -> None:
    """`--shrink-embedding-gradient-steps 6000 500`, from 0.1 to 1."""
    settings = params(1.0, embedding_gradient_shrink_ramp={"first_step": 6_000, "steps": 500})
    assert [settings.shrink(step) for step in (0, 6_000, 6_250, 6_500, 49_299)] == [0.1, 0.1, pytest.approx(0.55), 1.0, 1.0]
    assert params(1.0).shrink(49_299) == 0.1


def test_attention_backends_are_those_of_the_model_and_one_that_cannot_run_is_refused() -> None:
    assert ATTENTION == BACKENDS
    settings = params(1.0, attention="varlen")
    with pytest.raises(PlanError, match=r"attention backend varlen cannot run: .*pretrain\.attention"):
        check_attention(config(settings), settings)
    assert check_attention(config(settings), params(1.0)) == "explicit"
    assert check_attention(config(settings), params(1.0, attention="masked")) == "masked"
    with pytest.raises(PlanError, match="no dropout on attention"):
        check_attention(config(settings, dropout=0.1), params(1.0, attention="prefix"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": {"every": 1, "sequences": 3}, "data_parallel": 2}, r"validation\.sequences must be a multiple of .* 2"),
        ({"stability": STABILITY, "zero_stage": 3}, "stability reads gradients of zero_stage 1 or 2"),
        ({"stability": STABILITY | {"window": 2}}, r"stability\.window: 2 is not allowed"),
        ({"attention": "flash"}, "attention: 'flash' is not allowed"),
        ({"batch_end": 2}, r"^test: batch_end 2 is less than batch_start 4"),
        ({"batch_end": 10}, r"from batch_start 4 to batch_end 10 is no multiple of batch_increment 4: set it to a div"),
        ({"batch_end": 8}, r"batch_ramp_samples 0 leaves no room to grow from batch_start 4 to batch_end 8: set these equal"),
        ({"model": PRETRAIN["model"] | {"hidden": 33}}, r"^test\.model: hidden 33 must be an even multiple of heads 2"),
    ],
)
def test_what_cannot_be_right_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        params(1.0, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_lr": 0.5}, r"^pretrain\.optimizer: min_lr 0\.5 is above peak_lr 0\.003"),
        ({"warmup_samples": 200}, r"^pretrain\.optimizer: warmup_samples 200 must be less than decay_samples 200"),
    ],
)
def test_a_rate_that_cannot_be_scheduled_is_refused_with_the_parameters(changes: dict[str, float], message: str) -> None:
    """Not first by the ranks, behind minutes of building what is never used."""
    with pytest.raises(ParamsError, match=message):
        parse(Params, PRETRAIN | {"optimizer": PRETRAIN["optimizer"] | changes}, "pretrain")


def shards(folder: Path, *counts: int) -> Path:
    first = 8
    for number, count in enumerate(counts):
        tokens = pa.array(np.arange(first, first + count), pa.int32())
        first += count
        with pa.ipc.new_file(str(folder / f"heldout-{number:05d}.arrow"), pa.schema([("token", pa.int32())])) as writer:
            writer.write_batch(pa.record_batch([tokens], names=["token"]))
    return folder


def test_validation_windows_lie_evenly_from_the_first_token_to_the_last(tmp_path: Path) -> None:
    batch = held_out(shards(tmp_path, 10, 13), sequences=3, length=8, blocks=2)
    assert batch.input_ids.tolist()[0] == [8, 9, 10, SPECIAL.gmask, SPECIAL.sop, 11, 12, 13]
    assert batch.target_ids.tolist()[0] == [-1, -1, -1, -1, 11, 12, 13, 14]
    assert batch.input_ids[:, 0].tolist() == [8, 16, 24]
    assert int(batch.target_ids[2, -1]) == 30, "the last token of all"
    assert (batch.block_start.tolist()[0], batch.block_context.tolist()[0]) == ([0, 8, 8], [4, 0])


def test_too_little_held_out_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="6 held-out tokens are too few for a validation window of 7"):
        held_out(shards(tmp_path, 6), sequences=1, length=8, blocks=1)

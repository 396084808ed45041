"""Parameter files at every size fit the stages' schemas, and the 130B one agrees with the published run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import cli
from model.glm import GLM
from stages._params import load_file, load_section
from stages.pretrain.settings import Params

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "profiles").glob("*.yaml"))]
PUBLISHED = ROOT / "profiles/130b.yaml"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_profile_is_accepted_by_every_stage(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(cli.app, ["params", "check", str(file)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("stem", "low", "high"), [("params", 3e6, 10e6), ("125m", 0.10e9, 0.15e9), ("1b", 0.9e9, 1.2e9), ("10b", 9e9, 12e9)]
)
def test_sizes_are_what_the_names_say(stem: str, low: float, high: float) -> None:
    file = next(file for file in FILES if file.stem == stem)
    assert low < _parameters(file) < high


def test_the_130b_profile_is_the_published_model_and_schedule() -> None:
    params = load_section(Params, PUBLISHED, "pretrain")
    assert _parameters(PUBLISHED) == 128_697_794_560
    ramp, schedule = params.ramp(), params.optimizer.schedule()
    assert ramp.consumed(params.steps) == 195_591_480  # sequences at iteration 49,300 (facts 3.4)
    assert ramp.batch_size(0) == 192
    assert ramp.batch_size(5_493_164) == 4224
    assert schedule.at(1_098_632) == pytest.approx(8e-5)
    assert schedule.at(197_753_905) == pytest.approx(8e-6)


def _parameters(file: Path) -> int:
    params = load_section(Params, file, "pretrain")
    tokenizer = load_file(file)["tokenizer"]
    multiple = tokenizer["pad_multiple"]
    vocabulary = -(-tokenizer["vocab_size"] // multiple) * multiple
    length = load_file(file)["pack"]["sequence_length"]
    with torch.device("meta"):
        return sum(p.numel() for p in GLM(params.model.with_data(vocabulary, length)).parameters())

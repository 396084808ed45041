from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from safetensors.torch import save_file

from model.checkpoint import CONFIG, WEIGHTS, read_tensors, write_checkpoint
from model.config import ModelConfig
from model.glm import GLM, initialise
from model.quantization import load_for_inference, quantize_checkpoint
from stages._manifest import describe_folder, sha256_file
from stages._params import ParamsError, load_section, parse
from stages._runner import StageError, StageIO
from stages.quantize import Params, run, scheme

ROOT = Path(__file__).resolve().parents[3]
SMALL = ModelConfig(layers=2, hidden=32, heads=2, ffn=64, vocabulary=96, max_sequence=32)
ALL = Params(("int8", "int4", "int4-group"), 16)


@pytest.fixture
def io(tmp_path: Path) -> StageIO:
    """A project with two checkpoints."""
    (tmp_path / "spm").write_bytes(b"a tokenizer")
    for step in (20, 100):
        model = GLM(SMALL)
        initialise(model, step)
        folder = tmp_path / f"data/pretrain/checkpoints/step-{step:06d}"
        write_checkpoint(folder, model.state_dict(), {"model": asdict(SMALL)}, tmp_path / "spm")
    io = StageIO("quantize", tmp_path, ["data/pretrain"], "data/quantize")
    io.output.mkdir(parents=True)
    return io


def test_the_laptop_profile_has_a_valid_section() -> None:
    assert load_section(Params, ROOT / "params.yaml", "quantize").schemes


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"schemes": ["int3"], "group_size": 64}, r"schemes\[0\]: 'int3' is not allowed"),
        ({"schemes": [], "group_size": 64}, "one or more"),
        ({"schemes": ["int8", "int8"], "group_size": 64}, "each once"),
        ({"schemes": ["int8"], "group_size": 1}, "group_size: 1 is not allowed"),
    ],
)
def test_wrong_params_are_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        parse(Params, data, "params.yaml: quantize")


def test_every_scheme_is_exported_from_the_last_checkpoint(io: StageIO) -> None:
    counts = run(ALL, io)
    last = io.root / "data/pretrain/checkpoints/step-000100"
    assert counts["checkpoint"] == "step-000100"
    assert sorted(path.name for path in io.output.iterdir()) == ["errors.csv", "int4", "int4-group", "int8"]
    for name in ALL.schemes:
        lineage = json.loads((io.output / name / CONFIG).read_text())["quantization"]
        assert (lineage["scheme"], lineage["parent"]) == (name, "step-000100")
        assert lineage["parent_sha256"] == sha256_file(last / WEIGHTS)
        assert counts["bytes"][name] == (io.output / name / WEIGHTS).stat().st_size
        load_for_inference(io.output / name)
    assert counts["bytes"]["int4"] < counts["bytes"]["int4-group"] < counts["bytes"]["int8"] < counts["checkpoint_bytes"]


def test_errors_csv_has_a_row_for_each_matrix_of_each_scheme(io: StageIO, tmp_path: Path) -> None:
    counts = run(ALL, io)
    with (io.output / "errors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["scheme", "layer", "relative_error", "one_minus_cosine", "max_abs_error"]
    checkpoint = io.root / "data/pretrain/checkpoints/step-000100"
    expected = [
        (name, error.layer, pytest.approx(error.relative_error, rel=1e-6))
        for name in ALL.schemes
        for error in quantize_checkpoint(checkpoint, tmp_path / "again", scheme(name, 16))
    ]
    assert [(row["scheme"], row["layer"], float(row["relative_error"])) for row in rows] == expected
    assert len(rows) == 3 * 2 * 4
    mean = counts["mean_relative_error"]
    assert mean["int8"] < mean["int4-group"] < mean["int4"]


def test_equal_input_gives_equal_bytes(io: StageIO) -> None:
    run(ALL, io)
    first = describe_folder(io.output)
    run(ALL, io)
    assert describe_folder(io.output) == first


def test_a_diverged_checkpoint_is_refused_by_tensor(io: StageIO) -> None:
    last = io.root / "data/pretrain/checkpoints/step-000100"
    tensors = read_tensors(last)
    tensors["layers.1.attention.dense.weight"][0, 0] = float("nan")
    save_file(tensors, last / WEIGHTS)
    with pytest.raises(
        StageError, match=r"data/pretrain/checkpoints/step-000100.*layers\.1\.attention\.dense\.weight.*NaN"
    ) as e:
        run(ALL, io)
    assert str(io.root) not in str(e.value)


def test_a_group_that_does_not_fit_is_refused(io: StageIO) -> None:
    with pytest.raises(StageError, match="32 columns are not a multiple of the group size 48"):
        run(Params(("int4-group",), 48), io)


def test_a_project_without_checkpoints_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data/pretrain/checkpoints").mkdir(parents=True)
    with pytest.raises(StageError, match=r"no checkpoint.*data/pretrain/checkpoints.*Remedy"):
        run(ALL, StageIO("quantize", tmp_path, ["data/pretrain"], "data/quantize"))

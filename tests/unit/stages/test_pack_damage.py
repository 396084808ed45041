"""Files that are cut short, absent or of another build, from token shards to the replay: each is named, and can be rebuilt."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from stages import encode, instruct, pack
from stages._runner import StageError
from stages.pack.replay import app
from tests.support.gate_project import run_stage, section, stage_io
from tests.support.training import write_encoded

PACK: dict[str, Any] = {
    "sequence_length": 128, "blocks": 2, "gmask_row": 126, "mask_row": 104, "short_minimum": 8, "span_max": 8,
    "instruction_share": 0.1, "shard_samples": 100,
}  # fmt: skip
SHARD = "data/encode/train-00000.arrow"


@pytest.fixture
def project(gate_project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(gate_project, tmp_path / "project"))


def repack(root: Path) -> None:
    shutil.rmtree(root / "data/pack")
    run_stage(root, pack, **PACK)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])


@pytest.mark.parametrize("keep", [0, 100, -2000, -1])
def test_a_token_shard_cut_short_is_named_and_rebuilt_in_the_same_bytes(project: Path, gate_project: Path, keep: int) -> None:
    cut(project / SHARD, keep)
    with pytest.raises(StageError, match=rf"cut short on disk.*{SHARD}.*dvc repro --force encode"):
        repack(project)
    shutil.rmtree(project / "data/encode")
    run_stage(project, encode)
    assert files(project / "data/encode") == files(gate_project / "data/encode")
    shutil.rmtree(project / "data/.pack.partial")
    run_stage(project, pack, **PACK)
    assert files(project / "data/pack") == files(gate_project / "data/pack")


@pytest.mark.parametrize("table", ["data/encode/train.documents.parquet", "data/instruct/samples.parquet"])
@pytest.mark.parametrize("keep", [0, 50, -9])
def test_a_table_cut_short_is_named(project: Path, table: str, keep: int) -> None:
    cut(project / table, keep)
    with pytest.raises(StageError, match=rf"damaged or cut short: .*{table}\). Remedy: run `dvc repro`"):
        repack(project)


@pytest.mark.parametrize("table", ["data/encode/train.documents.parquet", "data/instruct/samples.parquet"])
def test_a_table_that_is_absent_is_named(project: Path, table: str) -> None:
    (project / table).unlink()
    with pytest.raises(StageError, match=rf"does not exist \(file {table}\)"):
        repack(project)


@pytest.mark.parametrize("keep", [0, 3000, -9])
def test_a_damaged_tokenizer_stops_encode_and_instruct_by_name(project: Path, keep: int) -> None:
    cut(project / "data/tokenizer/tokenizer.model", keep)
    for stage in (encode, instruct):
        io = stage_io(project, stage.__name__.rpartition(".")[2])
        io.output.mkdir()
        with pytest.raises(StageError, match=r"tokenizer cannot be used: data/tokenizer/tokenizer\.model: .*force tokenizer"):
            stage.run(section(stage), io)
    (project / "data/tokenizer/tokenizer.model").unlink()
    with pytest.raises(StageError, match=r"does not exist \(file data/tokenizer/tokenizer\.model\)"):
        encode.run(section(encode), stage_io(project, "encode"))


# --- replay ----------------------------------------------------------------------------------------------------------------


def replay(root: Path) -> str:
    """What it says of a sample that it cannot show."""
    result = CliRunner().invoke(app, ["--sample", "5", "--project", str(root)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert isinstance(result.exception, SystemExit), "a message, not a traceback"
    return result.stderr


@pytest.mark.parametrize(
    "file",
    [
        "data/pack/samples-00000.arrow",
        "data/pack/pieces-00000.parquet",
        "data/pack/pack.json",
        "data/pack/manifest.json",
        SHARD,
        "data/encode/train.documents.parquet",
        "data/instruct/samples.parquet",
        "data/instruct/documents.parquet",
        "data/tokenizer/tokenizer.model",
    ],
)
def test_a_replay_names_what_is_damaged_or_absent(project: Path, file: str) -> None:
    for keep in (-30, 0):
        cut(project / file, keep)
        said = replay(project)
        assert said.startswith("ERROR: ")
        assert file in said and "Remedy: run `dvc repro" in said
    (project / file).unlink()
    said = replay(project)
    assert "data/pack/pack.json" in said if file == SHARD else f"it is not here (file {file})" in said
    assert "Remedy: run `dvc repro" in said


def test_a_replay_from_tokens_of_another_build_is_refused(project: Path) -> None:
    for folder in ("encode", "instruct"):
        shutil.rmtree(project / "data" / folder)
    write_encoded(project, np.arange(9000, dtype=np.int32) % 700 + 8, [9000])
    assert "samples an epoch, data/pack has 270: they are of different builds" in replay(project)

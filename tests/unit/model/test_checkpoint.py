"""Checkpoints: both forms, every tensor-parallel size there and back, and what is said of a damaged one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from model.checkpoint import (
    CONFIG,
    INDEX,
    TOKENIZER,
    WEIGHTS,
    CheckpointError,
    Shards,
    read_model,
    read_tensors,
    write_checkpoint,
)
from model.checkpoint.convert import QUANTITIES, STATE, convert, verify
from model.checkpoint.folder import MANIFEST, new_folder, publish
from model.checkpoint.shards import from_json, to_json, write_index, write_shards
from model.checkpoint_cli import app
from model.config import ModelConfig
from model.glm import GLM, initialise
from model.parallel.split import part

SMALL = 20_000  # bytes of a shard: the test's checkpoint takes several


def settings(tied: bool = True) -> ModelConfig:
    return ModelConfig(
        layers=2, hidden=32, heads=4, ffn=48, vocabulary=512, max_sequence=16, dropout=0.0, tied_embeddings=tied
    )  # fmt: skip


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def single(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    config = settings(request.param)
    model = GLM(config)
    initialise(model, 3)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and LayerNorms too must be told apart
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    (tmp_path / "tokens").write_bytes(b"stands for a tokenizer")
    folder = tmp_path / "single"
    write_checkpoint(folder, dict(model.named_parameters()), {"model": asdict(config)}, tmp_path / "tokens")
    return folder


def _bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_to_another_size_and_back_gives_the_same_bytes(single: Path, tmp_path: Path, size: int) -> None:
    convert(single, tmp_path / "parts", size, SMALL)
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    assert all(file.stat().st_size < 2 * SMALL for file in (tmp_path / "parts").glob("*.safetensors") if size > 1)
    convert(tmp_path / "parts", tmp_path / "other", 3 - min(size, 2), SMALL)
    for source in ("parts", "other"):
        convert(tmp_path / source, tmp_path / f"{source} back", 1)
        assert _bytes(tmp_path / f"{source} back") == _bytes(single)


def test_a_rank_reads_its_part_from_any_size(single: Path, tmp_path: Path) -> None:
    full = read_tensors(single)
    for stored in (1, 2, 4):
        convert(single, tmp_path / f"{stored}", stored, SMALL)
        shards = Shards(tmp_path / f"{stored}")
        assert sorted(shards) == sorted(full)
        for name, tensor in full.items():
            for rank in range(2):
                assert torch.equal(shards.read(name, rank, 2), part(name, tensor, rank, 2)), name


def test_a_rank_of_the_stored_size_opens_its_own_files_alone(single: Path, tmp_path: Path) -> None:
    convert(single, tmp_path / "parts", 4, SMALL)
    for file in (tmp_path / "parts").glob("tensor-[012]-of-4-*"):
        file.unlink()
    assert Shards(tmp_path / "parts").read("layers.0.mlp.dense_h_to_4h.weight", 3, 4).shape == (24, 32)


def test_the_model_and_its_tensors_are_read_from_parts(single: Path, tmp_path: Path) -> None:
    convert(single, tmp_path / "parts", 2, SMALL)
    for name, parameter in read_model(tmp_path / "parts").named_parameters():
        assert torch.equal(parameter, read_model(single).get_parameter(name))


def test_a_training_state_is_reshaped_too(single: Path, tmp_path: Path) -> None:
    full = read_tensors(single)
    state = {f"{quantity}.{name}": tensor + i for i, quantity in enumerate(QUANTITIES) for name, tensor in full.items()}
    folder = tmp_path / "state"
    with new_folder(folder) as partial:
        write_index(partial, write_shards(partial, "rank-0", state.items(), SMALL))
        (partial / CONFIG).write_bytes((single / CONFIG).read_bytes())
        (partial / STATE).write_text("{}")
    assert verify(folder).startswith("training state")
    convert(folder, tmp_path / "two", 2, SMALL)
    convert(tmp_path / "two", tmp_path / "one", 1, SMALL)
    assert verify(tmp_path / "two").startswith("training state")
    back = Shards(tmp_path / "one")
    assert sorted(back) == sorted(state)
    assert all(torch.equal(back.read(name), tensor) for name, tensor in state.items())


def _remove(file: Path) -> None:
    file.unlink()


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _alter(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.parametrize(("damage", "words"), [(_remove, "missing"), (_truncate, "bytes where"), (_alter, "altered")])
def test_a_damaged_shard_is_named_with_its_sha256(
    single: Path, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    parts = tmp_path / "parts"
    convert(single, parts, 2, SMALL)
    file = sorted(parts.glob("*.safetensors"))[-1]
    digest = json.loads((parts / INDEX).read_text())["shards"][file.name]["sha256"]
    damage(file)
    for use in (verify, read_model, lambda folder: convert(folder, tmp_path / "target", 1)):
        with pytest.raises(CheckpointError, match=f"{file.name}.*{words}.*{digest}"):
            use(parts)
    assert not (tmp_path / "target").exists()
    assert not list(tmp_path.glob(".*")), "nothing is left beside"


def test_a_damaged_index_is_refused(single: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    convert(single, parts, 2, SMALL)
    good = json.loads((parts / INDEX).read_text())
    name = "layers.0.attention.dense.weight"
    lost = {key: file for key, file in good["weight_map"].items() if key != f"{name}@1/2"}
    outside = good["weight_map"] | {f"{name}@1/2": "../../secret.safetensors"}
    for bad in (good | {"weight_map": lost}, good | {"weight_map": outside}, {"weight_map": {}}, []):
        (parts / INDEX).write_text(json.dumps(bad))
        with pytest.raises(CheckpointError, match=re.escape(INDEX)):
            verify(parts)
    (parts / INDEX).unlink()
    with pytest.raises(CheckpointError, match=r"no such file"):
        verify(parts)


@pytest.mark.parametrize("form", ["one file", "shards"])
def test_weights_other_than_the_manifest_names_are_read_by_nobody(single: Path, tmp_path: Path, form: str) -> None:
    """One file has no index with digests: a bit of it that is turned gives numbers as good as any."""
    folder, file = single, single / WEIGHTS
    if form == "shards":
        convert(single, tmp_path / "parts", 2)
        folder, file = tmp_path / "parts", tmp_path / "parts" / INDEX
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps({"weights_sha256": digest}))
    assert read_model(folder)
    file.write_bytes(file.read_bytes() + b"\n") if form == "shards" else _alter(file)
    for use in (read_model, verify, lambda folder: convert(folder, tmp_path / "target", 1)):
        with pytest.raises(CheckpointError, match=f"{file.name}: altered: SHA-256 .* manifest.json has {digest}. Remedy: "):
            use(folder)
    assert not (tmp_path / "target").exists()
    (folder / MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest\.json: names no SHA-256 of the weights"):
        read_model(folder)


def test_names_shapes_and_the_manifest_are_compared(single: Path) -> None:
    assert verify(single).startswith("checkpoint, one file, tensor-parallel size 1")
    (single / MANIFEST).write_text(json.dumps({"weights_sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="altered: SHA-256"):
        verify(single)
    (single / MANIFEST).unlink()
    config = json.loads((single / CONFIG).read_text())
    config["model"]["layers"] = 3
    (single / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"layers\.2\..* has shape None"):
        verify(single)


def test_what_cannot_be_cut_is_refused(single: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="heads 4 is no multiple of tensor_parallel 3"):
        convert(single, tmp_path / "three", 3)
    with pytest.raises(CheckpointError, match="exists"):
        convert(single, single, 1)
    config = json.loads((single / CONFIG).read_text())
    (single / CONFIG).write_text(json.dumps(config | {"quantization": {}}))
    with pytest.raises(CheckpointError, match="quantized"):
        convert(single, tmp_path / "two", 2)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "x") as partial:
        (partial / "old").write_text("1")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "x") as partial:
        (partial / "new").write_text("2")
        raise RuntimeError
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["old"]
    (tmp_path / "y").mkdir()
    (tmp_path / "y/new").write_text("2")
    publish(tmp_path / "y", tmp_path / "x")
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == ["x", "x/new"]


def test_two_files_with_one_tensor_are_refused(tmp_path: Path) -> None:
    files = write_shards(tmp_path, "a", [("x", torch.ones(2))], 100) | write_shards(tmp_path, "b", [("x", torch.ones(2))], 100)
    assert from_json(to_json(files)) == files
    with pytest.raises(CheckpointError, match=r"x is in a-00001\.safetensors and in b-00001\.safetensors"):
        write_index(tmp_path, files)


def test_the_command(single: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(app, ["convert", "--tp", "2", str(single), str(tmp_path / "two")]).exit_code == 0
    said = run(app, ["verify", str(tmp_path / "two")])
    assert said.exit_code == 0
    assert "tensor-parallel size 2" in said.output
    assert (tmp_path / "two" / TOKENIZER).read_bytes() == b"stands for a tokenizer"
    assert not (tmp_path / "two" / WEIGHTS).exists()
    _truncate(sorted((tmp_path / "two").glob("*.safetensors"))[0])
    refused = run(app, ["verify", str(tmp_path / "two")])
    assert refused.exit_code == 1
    assert refused.stderr.startswith("glm checkpoint: ")

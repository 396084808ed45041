"""A checkpoint's folder: it appears whole or not at all, and is read whatever form its parameters have."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from model.checkpoint.shards import INDEX, CheckpointError, Shards, flush, sha256_of
from model.config import ModelConfig
from model.glm import GLM

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.model"
MANIFEST = "manifest.json"  # of a published checkpoint: it names the SHA-256 of `weights_file`
_RESTORE = "Remedy: restore it with `dvc checkout` or `dvc repro`"


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, to be filled: it takes that one's place when the block ends, and is dropped if it fails."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    publish(partial, folder)


def publish(partial: Path, folder: Path) -> None:
    """Flush a filled folder and put it in its place: at no moment does half of one stand there."""
    for file in [*partial.iterdir(), partial]:
        flush(file)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], tokenizer: Path) -> None:
    """Write a checkpoint folder in the form of one file so that it appears whole: beside, fsynced, renamed.

    Args:
        folder: where it will stand; replaced if it exists.
        tensors: parameters by name.
        config: content of config.json; its key "model" holds the model's settings.
        tokenizer: model file to copy in.
    """
    with new_folder(folder) as partial:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial / WEIGHTS)
        (partial / WEIGHTS).chmod(0o644)  # safetensors writes for the owner alone
        write_facts(partial, config, tokenizer)


def write_facts(folder: Path, config: Mapping[str, Any], tokenizer: Path) -> None:
    """Write config.json and copy the tokenizer's file in."""
    shutil.copyfile(tokenizer, folder / TOKENIZER)
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def weights_file(folder: Path) -> Path:
    """The file whose SHA-256 stands for all parameters: `model.safetensors`, or the index, which has that of every shard."""
    single = folder / WEIGHTS
    return folder / INDEX if not single.exists() and (folder / INDEX).exists() else single


def check_manifest(folder: Path, digest: str) -> None:
    """Compare the SHA-256 of a checkpoint's `weights_file` with its manifest, where it has one.

    Raises:
        CheckpointError: they differ, or the manifest is damaged.
    """
    file = folder / MANIFEST
    if not file.exists():
        return
    try:
        named = json.loads(file.read_text(encoding="utf-8"))["weights_sha256"]
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{file}: names no SHA-256 of the weights: {error}. {_RESTORE}") from error
    if named != digest:
        raise CheckpointError(f"{weights_file(folder)}: altered: SHA-256 {digest} where {MANIFEST} has {named}. {_RESTORE}")


def stored_bytes(folder: Path) -> int:
    """Size of the files that hold the parameters."""
    file = weights_file(folder)
    return Shards(folder).total_bytes if file.name == INDEX else file.stat().st_size


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder, whole.

    Raises:
        CheckpointError: a file is absent, damaged or altered.
    """
    file = weights_file(folder)
    if file.name == INDEX:
        check_manifest(folder, sha256_of(file))
        shards = Shards(folder)
        return {name: shards.read(name) for name in shards}
    try:
        content = file.read_bytes()
        tensors: dict[str, Tensor] = load(content)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: no such file; a checkpoint folder holds {WEIGHTS} and {CONFIG}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{file}: damaged: {error}. {_RESTORE}") from error
    check_manifest(folder, hashlib.sha256(content).hexdigest())
    return tensors


def read_config(folder: Path) -> ModelConfig:
    """The model's settings of a checkpoint folder.

    Raises:
        CheckpointError: the file is absent or says something else.
    """
    try:
        return ModelConfig.read(folder / CONFIG)
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG}: not a checkpoint's settings: {error}") from error


def read_model(folder: Path) -> GLM:
    """The model of an unquantized checkpoint, FP32, in evaluation mode.

    Raises:
        CheckpointError: files are absent or damaged, or names or shapes do not fit the settings.
    """
    config = read_config(folder)
    with torch.device("meta"):
        model = GLM(config)
    tensors = {name: tensor.float() for name, tensor in read_tensors(folder).items()}
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{weights_file(folder)}: does not fit {CONFIG}: {error}") from error
    return model.eval()

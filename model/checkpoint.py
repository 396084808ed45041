"""Checkpoints as safetensors and JSON: nothing in them is ever unpickled.

A checkpoint folder holds `model.safetensors` (parameters by name), `config.json` (settings under "model", and whatever the
writer adds, such as a quantization scheme) and `tokenizer.model`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from model.config import ModelConfig
from model.glm import GLM

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.model"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; the message names the file."""


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], tokenizer: Path) -> None:
    """Write a checkpoint folder so that it appears whole: beside, fsynced, renamed.

    Args:
        folder: where it will stand; replaced if it exists.
        tensors: parameters by name.
        config: content of config.json; its key "model" holds the model's settings.
        tokenizer: model file to copy in.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial / WEIGHTS)
    shutil.copyfile(tokenizer, partial / TOKENIZER)
    (partial / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (partial / WEIGHTS).chmod(0o644)  # safetensors writes for the owner alone
    for file in [*partial.iterdir(), partial]:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder.

    Raises:
        CheckpointError: the file is absent or damaged.
    """
    file = folder / WEIGHTS
    try:
        tensors: dict[str, Tensor] = load(file.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: no such file; a checkpoint folder holds {WEIGHTS} and {CONFIG}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{file}: damaged: {error}. Remedy: restore it with `dvc checkout` or `dvc repro`") from error
    return tensors


def read_model(folder: Path) -> GLM:
    """The model of an unquantized checkpoint, FP32, in evaluation mode.

    Raises:
        CheckpointError: files are absent or damaged, or names or shapes do not fit the settings.
    """
    try:
        config = ModelConfig.read(folder / CONFIG)
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG}: not a checkpoint's settings: {error}") from error
    with torch.device("meta"):
        model = GLM(config)
    tensors = {name: tensor.float() for name, tensor in read_tensors(folder).items()}
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: does not fit {CONFIG}: {error}") from error
    return model.eval()

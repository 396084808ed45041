"""A checkpoint to another tensor-parallel size, and a check of everything in it. No more than one shard is held in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoint.folder import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    check_manifest,
    new_folder,
    read_config,
    stored_bytes,
    weights_file,
)
from model.checkpoint.shards import INDEX, CheckpointError, ShardFile, Shards, sha256_of, stored_name, write_index, write_shards
from model.glm import GLM
from model.parallel.plan import ParallelPlan, PlanError
from model.parallel.split import part, split_of

SHARD_BYTES = 5_000_000_000
QUANTITIES = ("master", "exp_avg", "exp_avg_sq")  # of a training state
STATE = "state.json"  # of a training's state: how many steps, of which training
Read = Callable[[str, int, int], Tensor]


def convert(source: Path, target: Path, size: int, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `source` again for `size` tensor-parallel ranks, so that each needs the files of its own rank and of rank 0 alone.

    At size 1, parameters that fit into one shard become `model.safetensors`: to another size and back gives the same bytes.
    Training states are reshaped alike, masters and moments.

    Args:
        source: a checkpoint or a training state, in either form, of any tensor-parallel size.
        target: where it will stand; must not exist.
        size: tensor-parallel ranks.
        shard_bytes: largest shard, unless one tensor is larger.

    Raises:
        CheckpointError: the source is damaged or quantized, the target exists, or matrices do not fall into equal parts.
    """
    if target.exists():
        raise CheckpointError(f"{target}: exists. Remedy: name a folder that does not")
    config = read_config(source)
    if "quantization" in json.loads((source / CONFIG).read_text(encoding="utf-8")):
        raise CheckpointError(f"{source}: quantized. Remedy: convert the checkpoint that it was made from")
    try:
        ParallelPlan(tensor=size).check(config.layers, config.heads, config.ffn)
    except PlanError as error:
        raise CheckpointError(f"{source}: {error}") from error
    names, read = _source(source)
    check_manifest(source, sha256_of(weights_file(source)))
    with new_folder(target) as partial:
        for file in sorted(source.iterdir()):
            # The manifest names the source's very bytes: what is written here has none.
            if file.suffix != ".safetensors" and file.name not in (INDEX, MANIFEST):
                shutil.copyfile(file, partial / file.name)
        if size == 1 and not (source / STATE).exists() and stored_bytes(source) <= shard_bytes:
            save_file({name: read(name, 0, 1) for name in names}, partial / WEIGHTS)
            (partial / WEIGHTS).chmod(0o644)
            return
        files: dict[str, ShardFile] = {}
        for rank in range(size):
            files |= write_shards(partial, f"tensor-{rank}-of-{size}", _of_rank(names, read, rank, size), shard_bytes)
        write_index(partial, files)


def _of_rank(names: list[str], read: Read, rank: int, size: int) -> Iterator[tuple[str, Tensor]]:
    for name in names:
        if rank == 0 or split_of(name) is not None:
            yield stored_name(name, rank, size), read(name, rank, size)


def _source(folder: Path) -> tuple[list[str], Read]:
    """Names of the whole tensors, sorted, and how to read a rank's part of one."""
    file = weights_file(folder)
    if file.name == INDEX:
        shards = Shards(folder)
        return sorted(shards), shards.read
    shapes = _header(file)

    def read(name: str, rank: int, size: int) -> Tensor:
        with safe_open(file, framework="pt") as tensors:
            full: Tensor = tensors.get_tensor(name)
        try:
            return part(name, full, rank, size).contiguous()
        except ValueError as error:
            raise CheckpointError(f"{file}: {name}: {error}") from error

    return sorted(shapes), read


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a safetensors file; opening it checks that all of their bytes are there."""
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: no such file; a checkpoint folder holds {WEIGHTS} or {INDEX}, and {CONFIG}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{file}: damaged: {error}. Remedy: restore it with `dvc checkout` or `dvc repro`") from error


def verify(folder: Path) -> str:
    """Check a checkpoint or a training state through, and say in a line what it is.

    Every shard against its SHA-256, the weights against the manifest where there is one, names and shapes against the settings.

    Raises:
        CheckpointError: something is missing, damaged, altered, or does not fit.
    """
    config, file = read_config(folder), weights_file(folder)
    if file.name == INDEX:
        shards = Shards(folder)
        for name in shards.files:
            shards.check(name)
        sizes, form = shards.sizes, f"{len(shards.files)} shards"
        shapes = {name: tuple(shards.read(name).shape) for name in shards}
    else:
        shapes, form = _header(file), "one file"
        sizes = dict.fromkeys(shapes, 1)
    digest = sha256_of(file)
    check_manifest(folder, digest)
    quantized = "quantization" in json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    state = (folder / STATE).exists()
    if not quantized:
        with torch.device("meta"):
            expected = {name: tuple(parameter.shape) for name, parameter in GLM(config).named_parameters()}
        if state:
            expected = {f"{quantity}.{name}": shape for quantity in QUANTITIES for name, shape in expected.items()}
        _check_shapes(file, shapes, expected)
    kind = "training state" if state else "quantized checkpoint" if quantized else "checkpoint"
    return f"{kind}, {form}, tensor-parallel size {max(sizes.values())}, {len(sizes)} tensors, SHA-256 {digest} ({file.name})"


def _check_shapes(file: Path, shapes: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> None:
    for name in sorted(expected.keys() | shapes.keys()):
        if shapes.get(name) != expected.get(name):
            raise CheckpointError(f"{file}: {name} has shape {shapes.get(name)}; {CONFIG} asks for {expected.get(name)}")

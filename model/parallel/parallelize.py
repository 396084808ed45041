"""From a GLM on the meta device to the part of it that one process runs.

`stage_model` builds the whole model without memory, puts tensor-parallel layers in, and leaves out what other stages run; what
remains keeps its names. `fill` then gives it its parts of full tensors that come one at a time, so that every plan starts from
the weights of the single-process model, bit by bit, and no process ever holds them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.config import ModelConfig
from model.glm import GLM, Attention, Block
from model.parallel.collectives import TensorGroup
from model.parallel.layers import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from model.parallel.plan import ParallelPlan, stage_blocks
from model.parallel.split import part, split_of


def tensor_group(plan: ParallelPlan, rank: int) -> TensorGroup:
    """The ranks that share rank `rank`'s matrices; a collective call, on every rank of the plan."""
    mine = TensorGroup()
    if plan.tensor == 1:
        return mine
    for first in range(0, plan.world, plan.tensor):
        ranks = list(range(first, first + plan.tensor))
        group = dist.new_group(ranks)
        if rank in ranks:
            mine = TensorGroup(rank - first, plan.tensor, group)
    return mine


def stage_model(config: ModelConfig, plan: ParallelPlan, stage: int, group: TensorGroup) -> GLM:
    """What the tensor-parallel rank `group.rank` of pipeline stage `stage` runs, on the meta device."""
    with torch.device("meta"):
        model = GLM(config)
        parallelize(model, group)
    _keep_stage(model, plan.pipeline, stage)
    if plan.activation_checkpointing:
        checkpoint_blocks(model)
    return model


def parallelize(model: GLM, group: TensorGroup) -> None:
    """Replace every layer of which a tensor-parallel rank holds a part; values are not carried over."""
    if group.size == 1:
        return
    model.word_embeddings = cast(nn.Embedding, VocabParallelEmbedding(model.word_embeddings, group))
    if not model.config.tied_embeddings:
        model.head = cast(nn.Embedding, VocabParallelEmbedding(model.head, group))
    for block in blocks(model):
        attention, mlp = block.attention, block.mlp
        attention.heads //= group.size
        attention.query_key_value = cast(nn.Linear, ColumnParallelLinear(attention.query_key_value, group))
        attention.dense = cast(nn.Linear, RowParallelLinear(attention.dense, group))
        mlp.dense_h_to_4h = cast(nn.Linear, ColumnParallelLinear(mlp.dense_h_to_4h, group))
        mlp.dense_4h_to_h = cast(nn.Linear, RowParallelLinear(mlp.dense_4h_to_h, group))
        _override(attention, partial(_with_own_draws, attention, group.rank, attention.forward))


def blocks(model: GLM) -> list[Block]:
    """The transformer blocks that this model, whole or a stage, holds."""
    return [cast(Block, module) for module in model.layers.children()]


def checkpoint_blocks(model: GLM) -> None:
    """Keep of each block its input alone, and compute the rest again in the backward pass (facts 4.2: one layer at a time)."""
    for block in blocks(model):
        # Under ZeRO-3 a weight has no elements between its uses: torch's check of what is computed again would stumble.
        again = partial(checkpoint, block.forward, use_reentrant=False, determinism_check="none")
        _override(block, again)


@torch.no_grad()
def fill(model: GLM, weights: Iterable[tuple[str, Tensor]], group: TensorGroup, device: torch.device) -> None:
    """Give the model on the meta device its parts of `weights`, full tensors by name; names of other stages pass by.

    Parameters that are cut are marked `model_parallel`: DeepSpeed then counts their gradients on every rank, all others once.

    Raises:
        KeyError: `weights` ended before every parameter had come.
    """
    missing = {name for name, _ in model.named_parameters()}
    for name, full in weights:
        if name not in missing:
            continue
        missing.remove(name)
        mine = torch.empty_like(part(name, full, group.rank, group.size), device=device)
        parameter = nn.Parameter(mine.copy_(part(name, full, group.rank, group.size)))
        parameter.model_parallel = split_of(name) is not None  # type: ignore[attr-defined]
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, parameter)
    if missing:
        raise KeyError(f"no weights for {', '.join(sorted(missing))}")


def _keep_stage(model: GLM, stages: int, stage: int) -> None:
    if stages == 1:
        return
    kept = {str(number): model.layers[number] for number in stage_blocks(model.config.layers, stages, stage)}
    model.layers = cast(nn.ModuleList, nn.ModuleDict(kept))  # keys are the numbers in the whole model: names stay
    first, last = stage == 0, stage == stages - 1
    if not (first or (last and model.config.tied_embeddings)):
        del model.word_embeddings
    if not first:
        del model.embedding_layernorm
    if not last:
        del model.final_layernorm
        if not model.config.tied_embeddings:
            del model.head


def _with_own_draws(attention: Attention, rank: int, forward: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
    """Attention with dropout of this rank's own on its own heads.

    All ranks of a group are seeded alike, so that dropout on what they all hold is the same everywhere. Here each goes on from
    a seed that follows from the common generator and the rank: nothing is kept, so resuming and computing again repeat it.
    """
    if not (attention.training and attention.dropout):
        return forward(x, *rest)
    seed = int(torch.randint(2**62, ()))
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        torch.manual_seed(seed + rank)
        return forward(x, *rest)


def _override(module: nn.Module, forward: Callable[..., Any]) -> None:
    module.forward = forward

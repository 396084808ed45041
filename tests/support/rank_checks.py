"""What the two ranks of a tensor-parallel group check, each for itself; the other rank is always the same code."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.cross_entropy import weighted_cross_entropy
from model.glm import initial_weights
from model.parallel.collectives import TensorGroup
from model.parallel.cross_entropy import vocab_parallel_cross_entropy
from model.parallel.layers import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from model.parallel.parallelize import blocks, checkpoint_blocks, fill, stage_model, tensor_group
from model.parallel.plan import ParallelPlan
from stages.pretrain.engine import build_engine
from tests.support.parallel_cases import BATCH, batch_of, params, rows

PLAN = ParallelPlan(tensor=2)


def one_raises(rank: int) -> None:
    """Rank 1 raises; rank 0 waits for it."""
    if rank == 1:
        raise ValueError("on purpose")
    dist.barrier()


def all_checks(rank: int, config: ModelConfig) -> None:
    """Every check below."""
    group = tensor_group(PLAN, rank)
    assert (group.rank, group.size) == (rank, 2)
    _layers_equal_the_full_ones(group)
    _cross_entropy_equals_the_full_one(group)
    _dropout_differs_on_own_heads_alone(group, config)
    _a_batch_of_another_shape_is_refused(rank, config)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def _layers_equal_the_full_ones(group: TensorGroup) -> None:
    """A widening and a narrowing layer behind an embedding: outputs and all gradients, FP64."""
    table, wide, narrow = nn.Embedding(256, 8).double(), nn.Linear(8, 12).double(), nn.Linear(12, 8).double()
    for parameter in (*table.parameters(), *wide.parameters(), *narrow.parameters()):
        parameter.data = _random(*parameter.shape)
    ids, direction = torch.tensor([[0, 127, 128, 255], [5, 200, 5, 130]]), _random(2, 4, 8)
    full = narrow(F.gelu(wide(table(ids))))
    full.backward(direction)

    parts = VocabParallelEmbedding(table, group), ColumnParallelLinear(wide, group), RowParallelLinear(narrow, group)
    own_rows, own_wide = slice(group.rank * 128, group.rank * 128 + 128), slice(group.rank * 6, group.rank * 6 + 6)
    own = {
        parts[0].weight: (table.weight, own_rows),
        parts[1].weight: (wide.weight, own_wide),
        parts[1].bias: (wide.bias, own_wide),
        parts[2].weight: (narrow.weight, (slice(None), own_wide)),
        parts[2].bias: (narrow.bias, slice(None)),
    }
    for part, (whole, where) in own.items():
        part.data = whole.detach()[where].clone()
    out = parts[2](F.gelu(parts[1](parts[0](ids))))
    out.backward(direction)
    torch.testing.assert_close(out, full, rtol=1e-12, atol=1e-12)
    for part, (whole, where) in own.items():
        assert whole.grad is not None
        torch.testing.assert_close(part.grad, whole.grad[where], rtol=1e-12, atol=1e-12)


def _cross_entropy_equals_the_full_one(group: TensorGroup) -> None:
    """Loss, each row's loss, and both gradients; targets at the edges of the parts; logits far from zero; no rows at all."""
    for count in (64, 0):
        hidden, head = (3 * _random(count, 16)).float().requires_grad_(), _random(512, 16).float().requires_grad_()
        targets = torch.tensor([0, 255, 256, 511]).repeat(count // 4)
        weights = torch.linspace(0.1, 1.0, count)
        loss, each = weighted_cross_entropy(hidden, head, targets, weights)
        loss.backward()
        mine = hidden.detach().clone().requires_grad_()
        part = head.detach().chunk(2)[group.rank].clone().requires_grad_()
        my_loss, my_each = vocab_parallel_cross_entropy(mine, part, targets, weights, group)
        my_loss.backward()
        assert head.grad is not None
        torch.testing.assert_close(my_loss, loss, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(my_each, each, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mine.grad, hidden.grad, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(part.grad, head.grad.chunk(2)[group.rank], rtol=1e-5, atol=1e-6)


def _dropout_differs_on_own_heads_alone(group: TensorGroup, config: ModelConfig) -> None:
    """Inside attention each rank draws its own numbers, and the same ones when it computes again; outside all draw alike."""
    config = dataclasses.replace(config, dropout=0.5)
    model = stage_model(config, PLAN, 0, group)
    fill(model, initial_weights(config, 3), group, torch.device("cpu"))
    checkpoint_blocks(model)
    drawn: list[Tensor] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float, layer: float = 1.0) -> Tensor:
        drawn.append(torch.rand(8))
        return F.dropout(v, dropout)

    torch.manual_seed(5)
    batch = batch_of(0)
    x = model.embed(batch.input_ids)
    for block in blocks(model):
        x = block(x, attend, model.rotary(batch.position_ids))
    after = torch.rand(8)
    assert _equal_everywhere(x) and _equal_everywhere(after), "what all ranks hold is dropped alike"
    assert not _equal_everywhere(drawn[0]), "heads of other ranks are dropped otherwise"
    first = torch.stack(drawn)
    assert len({tuple(row.tolist()) for row in first}) == len(first), "every layer draws anew"
    drawn.clear()
    x.sum().backward()
    assert torch.equal(torch.stack(drawn[::-1]), first), "computed again, the same"


def _a_batch_of_another_shape_is_refused(rank: int, config: ModelConfig) -> None:
    """Stages tell each other shapes once: another one would hang them."""
    engine = build_engine(config, params(1.0, pipeline_parallel=2), rank)
    micro_batches = [rows(batch_of(0), slice(row, row + 1)) for row in range(BATCH)]
    engine.train_step(micro_batches, 1e-3)
    with pytest.raises(ValueError, match="all micro-batches need the same shapes in a pipeline"):
        engine.train_step([rows(batch_of(0), slice(0, 2)), *micro_batches[1:]], 1e-3)


def _equal_everywhere(tensor: Tensor) -> bool:
    other = tensor.detach().clone()
    dist.broadcast(other, 0)
    differ = torch.tensor(float(not torch.equal(other, tensor)))
    dist.all_reduce(differ)
    return bool(differ == 0)

"""What each process holds: parts that put together are the whole model, bit by bit."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest
import torch

from model.config import GLM_130B, ModelConfig
from model.glm import GLM, initial_weights, initialise
from model.parallel.collectives import TensorGroup
from model.parallel.layers import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from model.parallel.parallelize import blocks, fill, stage_model
from model.parallel.plan import ParallelPlan
from model.parallel.split import part, split_of, whole

SMALL = ModelConfig(layers=4, hidden=32, heads=4, ffn=24, vocabulary=512, max_sequence=16)
CPU = torch.device("cpu")


def _shards(config: ModelConfig, plan: ParallelPlan) -> dict[tuple[int, int], GLM]:
    shards = {}
    for stage, rank in product(range(plan.pipeline), range(plan.tensor)):
        group = TensorGroup(rank, plan.tensor)
        shards[stage, rank] = stage_model(config, plan, stage, group)
        fill(shards[stage, rank], initial_weights(config, 7), group, CPU)
    return shards


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (4, 1), (1, 3), (2, 2), (4, 4)])
def test_shards_put_together_are_the_single_process_model(tensor: int, pipeline: int, tied: bool) -> None:
    config = dataclasses.replace(SMALL, tied_embeddings=tied, embedding_norm=True)
    model = GLM(config)
    initialise(model, 7)
    shards = _shards(config, ParallelPlan(tensor, pipeline))
    found: set[str] = set()
    for stage in range(pipeline):
        ranks = [dict(shards[stage, rank].named_parameters()) for rank in range(tensor)]
        for name in ranks[0]:
            assert torch.equal(whole(name, [rank[name] for rank in ranks]), model.get_parameter(name)), name
            assert all(rank[name].model_parallel == (split_of(name) is not None) for rank in ranks)
        found |= set(ranks[0])
    assert found == {name for name, _ in model.named_parameters()}


def test_only_a_tied_embedding_stands_on_two_stages() -> None:
    for tied in (True, False):
        shards = _shards(dataclasses.replace(SMALL, tied_embeddings=tied), ParallelPlan(pipeline=3))
        holders = [stage for (stage, _), model in shards.items() if hasattr(model, "word_embeddings")]
        assert holders == ([0, 2] if tied else [0])


def test_every_rank_has_whole_heads_with_their_queries_keys_and_values() -> None:
    full = torch.arange(4 * 3 * 8).view(4, 3, 8)  # head, one of q/k/v, head dim: the released layout, row by row
    parts = [part("layers.0.attention.query_key_value.bias", full.flatten(), rank, 2) for rank in range(2)]
    assert torch.equal(parts[1].view(2, 3, 8), full[2:])


def test_every_rank_has_the_same_columns_of_both_halves_of_the_geglu() -> None:
    full = torch.arange(12)  # linear half 0..5, gate half 6..11
    assert part("layers.3.mlp.dense_h_to_4h.bias", full, 1, 2).tolist() == [3, 4, 5, 9, 10, 11]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_cutting_and_putting_together_are_inverse_for_every_parameter(size: int) -> None:
    for name, full in GLM(SMALL).named_parameters():
        assert torch.equal(whole(name, [part(name, full, rank, size) for rank in range(size)]), full)


def test_a_tensor_that_does_not_fall_into_equal_parts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(10,\) cannot be cut in 3"):
        part("layers.0.mlp.dense_h_to_4h.bias", torch.zeros(10), 0, 3)


def test_weights_that_end_early_are_refused() -> None:
    model = stage_model(SMALL, ParallelPlan(), 0, TensorGroup())
    with pytest.raises(KeyError, match=r"final_layernorm\.bias"):
        fill(model, list(initial_weights(SMALL, 1))[:-1], TensorGroup(), CPU)


def test_a_rank_builds_its_part_without_the_whole() -> None:
    model = stage_model(GLM_130B, ParallelPlan(4, 8), 3, TensorGroup(2, 4))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    block = blocks(model)[0]
    assert isinstance(block.attention.query_key_value, ColumnParallelLinear)
    assert isinstance(block.mlp.dense_4h_to_h, RowParallelLinear)
    assert block.attention.heads == 24
    assert [name for name, _ in model.layers.named_children()] == [str(number) for number in range(26, 35)]


def test_the_published_shards_hold_the_published_parameters() -> None:
    """Facts 1.2: 128,697,794,560 parameters, 130,547,482,624 with the embedding on both ends of the pipeline."""
    sharded = replicated = 0
    for stage in range(8):
        for name, parameter in stage_model(GLM_130B, ParallelPlan(4, 8), stage, TensorGroup(0, 4)).named_parameters():
            if split_of(name) is None:
                replicated += parameter.numel()
            else:
                sharded += parameter.numel()
    assert 4 * sharded + replicated == 130_547_482_624
    assert replicated == 70 * 6 * 12_288 + 2 * 12_288  # LayerNorms and the biases of what narrows


def test_the_embedding_knows_its_rows() -> None:
    with torch.device("meta"):
        table = VocabParallelEmbedding(torch.nn.Embedding(512, 8), TensorGroup(3, 4))
    assert (table.first, len(table.weight)) == (384, 128)

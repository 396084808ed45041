"""Who stands where, how blocks fall on stages, and what is refused with a sentence."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from model.config import GLM_130B
from model.parallel.plan import ParallelPlan, Place, PlanError, check_config, stage_blocks, stage_bounds, stage_of

PUBLISHED = ParallelPlan(tensor=4, pipeline=8, data=24, activation_checkpointing=True)


def test_the_published_plan_is_768_processes_and_accepted() -> None:
    assert PUBLISHED.world == 768
    check_config(PUBLISHED, GLM_130B)


def test_the_published_stages_hold_8_9_9_9_9_9_9_8_blocks() -> None:
    assert [len(stage_blocks(70, 8, stage)) for stage in range(8)] == [8, 9, 9, 9, 9, 9, 9, 8]
    assert stage_bounds(70, 8) == [9 * stage for stage in range(9)]


def test_deepspeed_balances_the_published_items_the_same_way() -> None:
    from deepspeed.runtime.utils import partition_balanced

    assert partition_balanced([1] * 72, 8) == stage_bounds(70, 8)


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 7, 24, 70])
def test_every_block_stands_on_one_stage_in_order(layers: int) -> None:
    for stages in range(1, layers + 1):
        blocks = [stage_blocks(layers, stages, stage) for stage in range(stages)]
        assert [number for stage in blocks for number in stage] == list(range(layers))
        assert all(map(len, blocks)), "a stage without parameters hangs"
        bounds = stage_bounds(layers, stages)
        assert bounds[0] == 0 and bounds[-1] == layers + 2
        for stage, numbers in enumerate(blocks):
            assert all(stage_of(f"layers.{number}.mlp.dense_4h_to_h.bias", layers, stages) == stage for number in numbers)


def test_ends_of_the_model_stand_on_the_ends_of_the_pipeline() -> None:
    assert [stage_of(name, 70, 8) for name in ("word_embeddings.weight", "final_layernorm.bias", "head.weight")] == [0, 7, 7]


def test_tensor_parallel_ranks_are_neighbours_and_stages_lie_farthest_apart() -> None:
    plan = ParallelPlan(tensor=2, pipeline=2, data=3)
    assert [plan.place(rank) for rank in range(4)] == [Place(0, 0, 0), Place(0, 0, 1), Place(0, 1, 0), Place(0, 1, 1)]
    assert plan.place(6) == Place(1, 0, 0)
    assert len({plan.place(rank) for rank in range(plan.world)}) == plan.world


def test_places_are_those_of_deepspeeds_topology() -> None:
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    plan = ParallelPlan(tensor=2, pipeline=3, data=4)
    topology = PipeModelDataParallelTopology(3, 2, 4)
    for rank in range(plan.world):
        place = plan.place(rank)
        assert topology.get_rank(pipe=place.stage, data=place.data, model=place.tensor) == rank


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero_stage": 0}, r"zero_stage 0 is refused: .*clips each pipeline stage by its own norm\. Set zero_stage: 1"),
        ({"zero_stage": 2}, r"zero_stage 2 is refused beside tensor_parallel 4 and pipeline_parallel 8.*Set zero_stage: 1"),
        ({"zero_stage": 3, "pipeline": 1}, r"zero_stage 3 is refused beside tensor_parallel 4 and pipeline_parallel 1"),
        ({"pipeline": 71}, r"pipeline_parallel 71 is more than the 70 blocks.*Set it to 70 at most"),
        ({"tensor": 5}, r"model\.heads 96 is no multiple of tensor_parallel 5"),
        ({"tensor": 3}, r"model\.ffn 32768 is no multiple of tensor_parallel 3"),
        ({"tensor": 16}, r"150528 rows is no multiple of 2048 = 128 x tensor_parallel 16\. Set tokenizer\.pad_multiple: 2048"),
    ],
)
def test_what_cannot_run_or_would_run_wrongly_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_config(dataclasses.replace(PUBLISHED, **changes), GLM_130B)


def test_zero_2_and_3_are_accepted_where_the_model_is_whole() -> None:
    for stage in (1, 2, 3):
        ParallelPlan(data=8, zero_stage=stage).check(layers=2, heads=3, ffn=5)

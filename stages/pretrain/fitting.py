"""What to change where a training does not fit: single settings, what each saves, and the smallest layout that does."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

from model.parallel.plan import ParallelPlan, PlanError
from model.planning.cluster import Cluster
from stages.pretrain.profile import Profile, layout_of, memory_of


def knobs(profile: Profile, room: float) -> list[str]:
    """Changes to `pretrain`, each enough alone, that make every stage fit into `room` bytes; the gentlest first.

    Where no single setting is enough, computing activations again goes with each.
    """
    layout = profile.layout
    tries: list[dict[str, Any]] = [{"micro_batch": size} for size in _halves(layout.micro_batch)]
    tries += [{"activation_checkpointing": True}] if not layout.checkpointing else []
    if layout.pipeline == layout.tensor == 1:
        tries += [{"zero_stage": stage} for stage in (2, 3) if stage > layout.zero_stage]
    for name, size in (("tensor_parallel", layout.tensor), ("pipeline_parallel", layout.pipeline)):
        tries += [{name: size * more, "data_parallel": layout.data // more} for more in (2, 4, 8) if layout.data % more == 0]
    found = [change for change in tries if _fits(profile, change, room)]
    if not found and not layout.checkpointing:
        both = [change | {"activation_checkpointing": True} for change in tries]
        found = [change for change in both if _fits(profile, change, room)]
    return [written(change) for change in found]


def savings(profile: Profile, device: str) -> list[tuple[str, int]]:
    """The gentlest changes to `pretrain` that need less memory, and bytes of the fullest stage with each; the best last."""
    layout = profile.layout
    tries: list[dict[str, Any]] = [{"micro_batch": size} for size in _halves(layout.micro_batch)[:2]]
    if not layout.checkpointing:
        tries += [change | {"activation_checkpointing": True} for change in ({}, *tries[-1:])]
    tries += [{"zero_stage": 2}, {"zero_stage": 3}] if layout.data > 1 and layout.pipeline == layout.tensor == 1 else []
    now, found = _fullest(profile, {}, device), []
    for change in tries:
        total = _fullest(profile, change, device)
        if total < now:
            found.append((written(change), total))
    return sorted(found, key=lambda saving: -saving[1])


def _fullest(profile: Profile, change: dict[str, Any], device: str) -> int:
    layout = dataclasses.replace(profile.layout, **{_FIELDS[name]: value for name, value in change.items()})
    return max(stage.total for stage in memory_of(dataclasses.replace(profile, layout=layout), device))


def written(change: dict[str, Any]) -> str:
    """Settings as they stand in a parameter file."""
    return ", ".join(f"{name}: {json.dumps(value)}" for name, value in change.items())


def _halves(size: int) -> list[int]:
    sizes = []
    while size > 1:
        size //= 2
        sizes.append(size)
    return sizes


_FIELDS = {
    "micro_batch": "micro_batch",
    "activation_checkpointing": "checkpointing",
    "zero_stage": "zero_stage",
    "tensor_parallel": "tensor",
    "pipeline_parallel": "pipeline",
    "data_parallel": "data",
}


def _fits(profile: Profile, change: dict[str, Any], room: float) -> bool:
    try:
        return _fullest(profile, change, "cuda") <= room
    except ValueError:  # sizes that do not divide are no way out
        return False


def smallest_layout(profile: Profile, cluster: Cluster, room: float) -> tuple[dict[str, Any], int] | None:
    """Settings of `pretrain` with which every stage fits into `room` bytes, and bytes of the fullest stage then.

    As few GPUs as can be share a model, so that its parts travel least: tensor-parallel ones within a node, then stages. Among
    equals the one that spreads least by ZeRO, that computes nothing again, and whose micro-batch is the largest. None where
    no layout of this cluster does.
    """
    config, micro = profile.config, profile.layout.micro_batch
    tensors = [size for size in _powers(cluster.gpus_per_node) if config.vocabulary % (128 * size) == 0 or size == 1]
    degrees = sorted(itertools.product(tensors, _powers(config.layers)), key=lambda pair: (pair[0] * pair[1], pair[1]))
    for tensor, pipeline in degrees:
        data, rest = divmod(cluster.gpus, tensor * pipeline)
        if rest:
            continue
        stages = (1, 2, 3) if tensor == pipeline == 1 else (1,)
        for zero, again, size in itertools.product(stages, (False, True), [micro, *_halves(micro)]):
            plan = ParallelPlan(tensor, pipeline, data, zero, again)
            changed = dataclasses.replace(profile, layout=layout_of(plan, size))
            if _runs(changed, plan) and (total := max(stage.total for stage in memory_of(changed, "cuda"))) <= room:
                names = ("tensor_parallel", "pipeline_parallel", "data_parallel", "zero_stage", "activation_checkpointing")
                return dict(zip((*names, "micro_batch"), (tensor, pipeline, data, zero, again, size), strict=True)), total
    return None


def _runs(profile: Profile, plan: ParallelPlan) -> bool:
    config, unit = profile.config, plan.data * profile.layout.micro_batch
    try:
        plan.check(config.layers, config.heads, config.ffn)
    except PlanError:
        return False
    return all(batch % unit == 0 for batch in profile.batches)


def _powers(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length()) if 2**power <= most]

"""A parameter file as the arithmetic of planning takes it: the model, its layout, its batches, and what they need."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from model.config import ModelConfig
from model.parallel.plan import ParallelPlan
from model.planning.cluster import Cluster
from model.planning.layout import Layout
from model.planning.memory import Attention, StageMemory, stage_memory
from stages._params import load_file, load_section
from stages.pretrain.settings import Params

_EXPLICIT_LENGTH = 512  # as in model/attention.py


@dataclass(frozen=True)
class Profile:
    """What a parameter file says of a training.

    Attributes:
        name: of the file.
        config: the model, with its vocabulary padded as the tokenizer stage pads it.
        layout: how it is spread.
        batches: number of steps of each batch size.
        precision: of weights and arithmetic.
        attention: the backend that is asked for.
    """

    name: str
    config: ModelConfig
    layout: Layout
    batches: dict[int, int]
    precision: str
    attention: str = "auto"


def read_profile(file: Path) -> Profile:
    """The training of a parameter file.

    Raises:
        ParamsError: a section does not fit its stage.
        OSError: no such file.
    """
    params, other = load_section(Params, file, "pretrain"), load_file(file)
    tokenizer = other["tokenizer"]
    multiple = tokenizer["pad_multiple"] * tokenizer.get("tensor_parallel", 1)
    vocabulary = -(-tokenizer["vocab_size"] // multiple) * multiple
    bounds = params.ramp().boundaries(params.steps)
    plan = params.plan
    return Profile(
        name="laptop" if file.name == "params.yaml" else file.stem,
        config=params.model.with_data(vocabulary, other["pack"]["sequence_length"]),
        layout=layout_of(plan, params.micro_batch),
        batches=dict(sorted(Counter((bounds[1:] - bounds[:-1]).tolist()).items())),
        precision=params.precision,
        attention=params.attention,
    )


def layout_of(plan: ParallelPlan, micro_batch: int) -> Layout:
    """A plan of processes, as the arithmetic of memory and time takes it."""
    return Layout(plan.tensor, plan.pipeline, plan.data, micro_batch, plan.zero_stage, plan.activation_checkpointing)


def on_cluster(profile: Profile, cluster: Cluster) -> Profile:
    """The profile with as many replicas as the cluster holds.

    Raises:
        ValueError: it cannot be cut so; says what to change.
    """
    layout = profile.layout
    group = layout.tensor * layout.pipeline
    if cluster.gpus % group:
        raise ValueError(
            f"{cluster.gpus} GPUs do not divide by tensor_parallel x pipeline_parallel = {group}: set these, or take a "
            f"multiple of {group} GPUs"
        )
    replicas = cluster.gpus // group
    odd = [batch for batch in profile.batches if batch % (replicas * layout.micro_batch)]
    if odd:
        raise ValueError(
            f"a batch of {odd[0]} does not divide by {replicas} replicas x micro_batch {layout.micro_batch}: the profile is "
            f"for {layout.data} replicas, {layout.gpus} GPUs; change the cluster, or batch_start, batch_increment and batch_end"
        )
    return dataclasses.replace(profile, layout=dataclasses.replace(layout, data=replicas))


def memory_of(profile: Profile, device: str, target_share: float = 1.0) -> list[StageMemory]:
    """Memory of each stage at the full batch; on a CPU with what its attention keeps there."""
    attention, asked = Attention(), profile.attention
    if asked == "explicit" or (asked == "auto" and device == "cpu" and profile.config.max_sequence <= _EXPLICIT_LENGTH):
        attention = Attention(scores=True)
    elif device == "cpu":
        attention = Attention(mask_share=target_share)
    return stage_memory(
        profile.config,
        profile.layout,
        max(profile.batches),
        profile.precision,
        device=device,
        attention=attention,
        target_share=target_share,
    )

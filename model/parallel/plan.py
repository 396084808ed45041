"""The three degrees of parallelism: who stands where, how blocks fall on stages, and what is refused and why.

Published: 4-way tensor, 8-way pipeline and 24-way data parallelism with ZeRO-1 (facts 4.2). No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from model.config import ModelConfig
from model.planning.layout import layers_per_stage

ROW_MULTIPLE = 128  # rows of each rank's part of the embedding: what matrix units like


class PlanError(ValueError):
    """A plan that cannot run, or would train something else than it says; the message says why and what to set."""


@dataclass(frozen=True)
class Place:
    """Where a process stands: its pipeline stage, its data-parallel and its tensor-parallel rank."""

    stage: int
    data: int
    tensor: int


@dataclass(frozen=True)
class ParallelPlan:
    """Degrees of parallelism.

    Attributes:
        tensor: processes that share each matrix.
        pipeline: stages, one behind the other.
        data: copies of the model, each with its own sequences.
        zero_stage: what ZeRO spreads over the copies: 1 optimizer states, 2 gradients too, 3 weights too.
        activation_checkpointing: keep each block's input alone and compute the block again in the backward pass.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    zero_stage: int = 1
    activation_checkpointing: bool = False

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.tensor * self.pipeline * self.data

    @property
    def staged(self) -> bool:
        """Whether the model itself is spread, so that it runs as a pipeline (of one stage or more)."""
        return self.tensor > 1 or self.pipeline > 1

    def place(self, rank: int) -> Place:
        """Where global rank `rank` stands. Tensor-parallel ranks are neighbours, stages lie farthest apart."""
        stage, rest = divmod(rank, self.data * self.tensor)
        data, tensor = divmod(rest, self.tensor)
        return Place(stage, data, tensor)

    def check(self, layers: int, heads: int, ffn: int) -> None:
        """Refuse what cannot run, or what DeepSpeed would run wrongly without a word.

        Raises:
            PlanError: says why, and what to set.
        """
        if self.zero_stage == 0:
            raise PlanError(
                "zero_stage 0 is refused: DeepSpeed then takes another BF16 optimizer, whose masters start from rounded "
                "weights, and clips each pipeline stage by its own norm. Set zero_stage: 1"
            )
        if self.staged and self.zero_stage > 1:
            raise PlanError(
                f"zero_stage {self.zero_stage} is refused beside tensor_parallel {self.tensor} and pipeline_parallel "
                f"{self.pipeline}: a pipeline keeps the gradients of several micro-batches, which ZeRO-2 and 3 would give "
                "away. Set zero_stage: 1, or both degrees to 1"
            )
        if self.pipeline > layers:
            raise PlanError(
                f"pipeline_parallel {self.pipeline} is more than the {layers} blocks of the model: a stage without parameters "
                f"hangs. Set it to {layers} at most"
            )
        for name, size in (("heads", heads), ("ffn", ffn)):
            if size % self.tensor:
                raise PlanError(
                    f"model.{name} {size} is no multiple of tensor_parallel {self.tensor}: each rank takes an equal part. "
                    "Change one of them"
                )

    def check_vocabulary(self, rows: int) -> None:
        """Refuse an embedding that does not fall into equal parts of a multiple of 128 rows.

        Raises:
            PlanError: says which multiple the tokenizer stage has to pad to.
        """
        unit = ROW_MULTIPLE * self.tensor
        if self.tensor > 1 and rows % unit:
            raise PlanError(
                f"the vocabulary of {rows} rows is no multiple of {unit} = {ROW_MULTIPLE} x tensor_parallel {self.tensor}. "
                f"Set tokenizer.pad_multiple: {unit}, or a multiple of it"
            )


def stage_bounds(layers: int, stages: int) -> list[int]:
    """First item of each stage and the end of the last, [stages + 1], over embedding, `layers` blocks and head.

    Published: 72 items over 8 stages, 9 each, so that the stages hold [8, 9, 9, 9, 9, 9, 9, 8] blocks (facts 4.2).
    """
    counts = layers_per_stage(layers, stages)
    counts[0] += 1
    counts[-1] += 1
    return [0, *accumulate(counts)]


def stage_blocks(layers: int, stages: int, stage: int) -> range:
    """Numbers of the blocks on a stage. The first stage has the embedding too, the last one the final norm and the head."""
    ends = [0, *accumulate(layers_per_stage(layers, stages))]
    return range(ends[stage], ends[stage + 1])


def stage_of(name: str, layers: int, stages: int) -> int:
    """The stage that owns the parameter `name`; of a tied embedding, the first."""
    room, _, rest = name.partition(".")
    if room == "layers":
        number = int(rest.partition(".")[0])
        return next(stage for stage in range(stages) if number in stage_blocks(layers, stages, stage))
    return stages - 1 if room in ("final_layernorm", "head") else 0


def check_config(plan: ParallelPlan, config: ModelConfig) -> None:
    """All checks of a plan against a complete model.

    Raises:
        PlanError: see `ParallelPlan.check` and `check_vocabulary`.
    """
    plan.check(config.layers, config.heads, config.ffn)
    plan.check_vocabulary(config.vocabulary)

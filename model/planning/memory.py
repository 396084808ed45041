"""Bytes that one GPU of each pipeline stage needs while training, part by part."""

from __future__ import annotations

from dataclasses import dataclass, fields

from model.config import ModelConfig
from model.planning.layout import Layout, layers_per_stage, stage_parameters

OPTIMIZER_BYTES = 12  # a parameter's FP32 master weight and Adam's two FP32 moments
WORK_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class StageMemory:
    """Bytes on one GPU of a stage, at the fullest moment of a step."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    pipeline_buffers: int
    framework: int

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(getattr(self, field.name) for field in fields(self))


def layer_activations(config: ModelConfig, positions: int, work: int, tensor: int, *, scores_kept: bool) -> int:
    """Bytes that autograd keeps of one layer without checkpointing, for `positions` positions of `work` bytes a number.

    Replicated: both LayerNorms' inputs and outputs, and two FP32 statistics each. Sharded: turned queries and keys, values
    and the attention's output, the up-projection, its GELU and their product. Attention by plain products (`scores_kept`)
    adds the probabilities in FP32, and once more in working precision; fused kernels keep an FP32 number a row, and the
    whole projection, of which their values are a view.
    """
    replicated = 4 * config.hidden * work + 2 * 2 * 4
    values = 1 if scores_kept else 3
    sharded = (2 + values + 1) * config.hidden * work + 4 * config.ffn * work
    rows = config.heads * (config.max_sequence * (4 + work % 4) if scores_kept else 4)
    return positions * (replicated + (sharded + rows) // tensor)


def stage_memory(
    config: ModelConfig,
    layout: Layout,
    batch: int,
    precision: str,
    *,
    scores_kept: bool = False,
    head_bytes: int = 0,
    framework: int = 0,
) -> list[StageMemory]:
    """Memory of each pipeline stage for a global batch of `batch` sequences.

    Args:
        config, layout: the model and how it is cut.
        batch: sequences in a step, over all replicas.
        precision: fp16, bf16 or fp32; masters and moments are FP32 always.
        scores_kept: whether attention keeps its scores (plain products) or not (fused kernels).
        head_bytes: what the chunked cross-entropy holds beside the weights, on the last stage.
        framework: context, communication buffers and libraries, of each GPU.

    Raises:
        ValueError: sizes that do not divide, see `Layout.micro_batches` and `stage_parameters`.
    """
    work = WORK_BYTES[precision]
    positions = layout.micro_batch * config.max_sequence
    boundary = positions * config.hidden * work
    whole_layer = layer_activations(config, positions, work, layout.tensor, scores_kept=scores_kept)
    waiting = layout.micro_batches(batch)
    stages = []
    counts = layers_per_stage(config.layers, layout.pipeline)
    for stage, (layers, held) in enumerate(zip(counts, stage_parameters(config, layout), strict=True)):
        in_flight = min(waiting, layout.pipeline - stage)  # 1F1B
        if layout.checkpointing:
            activations = (
                in_flight * layers * boundary // layout.tensor + whole_layer
            )  # inputs are partitioned over tensor ranks
        else:
            activations = in_flight * layers * whole_layer
        stages.append(
            StageMemory(
                weights=held * work // (layout.data if layout.zero_stage == 3 else 1),
                gradients=held * work // (layout.data if layout.zero_stage >= 2 else 1),
                optimizer=held * OPTIMIZER_BYTES // layout.data,
                activations=activations,
                head=head_bytes if stage == layout.pipeline - 1 else 0,
                pipeline_buffers=(in_flight + 1) * boundary if layout.pipeline > 1 else 0,
                framework=framework,
            )
        )
    return stages

"""Bytes that one GPU of each pipeline stage needs while training, part by part; on a CPU, one process."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from model.config import ModelConfig
from model.cross_entropy import chunk_rows
from model.planning.flops import layernorms_per_layer
from model.planning.layout import Layout, layers_per_stage, stage_parameters

OPTIMIZER_BYTES = 12  # a parameter's FP32 master weight and Adam's two FP32 moments
WORK_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4}
_CPU_FRAMEWORK = 456_000_000
"""Resident memory of the stage with interpreter, torch, DeepSpeed and their CPU kernels loaded, after steps of a model of
next to no size (torch 2.13, DeepSpeed 0.19.8, Linux x86-64; `benchmarks/training.py --only plan` measures it again)."""
_CUDA_CONTEXT = 900_000_000
REDUCE_BUCKET = 500_000_000  # numbers in the buffer through which DeepSpeed reduces gradients, in working precision
_LIVE = 1_000_000_000  # weights that DeepSpeed keeps gathered under ZeRO-3 (stage3_max_live_parameters)


@dataclass(frozen=True)
class StageMemory:
    """Bytes on one GPU of a stage.

    Attributes:
        weights: in working precision.
        optimizer: this replica's share of FP32 masters and Adam's moments.
        framework: context, libraries, communication buffers, weights that ZeRO-3 has gathered.
        gradients: sums over micro-batches.
        activations: what autograd keeps at the fullest moment of forward and backward.
        head: what the chunked cross-entropy holds beside the weights, on the last stage.
        pipeline_buffers: of the residual stream, between stages.
        update: copies of the gradients, flat and in FP32, while the optimizer runs.
        saving: copies of masters and moments on their way to the disk; those of a GPU lie in the host's memory.
        accumulates: whether gradients of earlier micro-batches are there when the fullest forward pass ends.
        keeps: whether what one moment has freed stays with the process in the other: on a CPU, where fresh pages are dear.
    """

    weights: int
    optimizer: int
    framework: int
    gradients: int
    activations: int
    head: int
    pipeline_buffers: int
    update: int
    saving: int
    accumulates: bool
    keeps: bool

    @property
    def total(self) -> int:
        """The fuller of two moments, the end of a forward pass and the update of the weights; where pages are kept, both."""
        standing = self.weights + self.optimizer + self.framework + self.saving
        forward = self.activations + self.head + self.pipeline_buffers
        if self.keeps:
            return standing + forward + self.gradients + self.update
        return standing + max(forward + (self.gradients if self.accumulates else 0), self.gradients + self.update)

    def parts(self) -> dict[str, int]:
        """Bytes by name, on a GPU those that never stand together among them."""
        return {name: value for name, value in asdict(self).items() if name not in ("accumulates", "keeps")}


@dataclass(frozen=True)
class Attention:
    """What attention keeps for the backward pass, by the way it is computed (model/attention.py).

    Attributes:
        scores: plain products (`explicit`) keep their probabilities.
        mask_share: share of the rows for which a mask is spelled out: those of targets with `prefix` on a CPU.
    """

    scores: bool = False
    mask_share: float = 0.0


FUSED = Attention()


def layer_activations(config: ModelConfig, positions: int, work: int, tensor: int, attention: Attention = FUSED) -> int:
    """Bytes that autograd keeps of one layer without checkpointing, for `positions` positions of `work` bytes a number.

    Replicated: the LayerNorms' inputs and two FP32 statistics each, the outputs of those before the sub-layers, and a byte a
    number for each of two dropouts.
    Sharded: turned queries and keys, values and the attention's output, the up-projection, its GELU and their product.
    Attention by plain products adds the probabilities in FP32, and once more in working precision; fused kernels keep an FP32
    number a row, the whole projection, of which their values are a view, and their output once more where blocks are joined.
    """
    norms = layernorms_per_layer(config)
    replicated = (norms + 2) * config.hidden * work + norms * 2 * 4 + (2 * config.hidden if config.dropout else 0)
    values, outputs = (1, 1) if attention.scores else (3, 2)
    sharded = (2 + values + outputs) * config.hidden * work + 4 * config.ffn * work
    rows = config.heads * (config.max_sequence * (4 + work % 4) if attention.scores else 4)
    mask = int(attention.mask_share * config.max_sequence) * work
    return positions * (replicated + mask + (sharded + rows) // tensor)


def head_memory(config: ModelConfig, targets: int, work: int, tensor: int, device: str) -> tuple[int, int]:
    """Bytes of the chunked cross-entropy over `targets` positions: what it keeps for the backward pass, and its passing peak.

    Kept: the FP32 gradient of the head, the rows that reach it and their gradient. Passing: a chunk's logits in working
    precision and FP32, in whose place their gradient comes, and the chunk's part of the head's gradient, which a CPU sums in
    FP32 first.
    """
    vocabulary = config.vocabulary // tensor
    matrix = vocabulary * config.hidden
    kept = 4 * matrix + 2 * targets * config.hidden * work
    chunk = min(targets, chunk_rows(vocabulary, device)) * vocabulary * (work + 4 if work < 4 else 4)
    product = matrix * (work if work < 4 else 0) + (4 * matrix if device == "cpu" and work < 4 else 0)
    return kept, chunk + product


def stage_memory(
    config: ModelConfig,
    layout: Layout,
    batch: int,
    precision: str,
    *,
    device: str = "cuda",
    attention: Attention = FUSED,
    target_share: float = 1.0,
) -> list[StageMemory]:
    """Memory of each pipeline stage for a global batch of `batch` sequences.

    Args:
        config, layout: the model and how it is cut.
        batch: sequences in a step, over all replicas.
        precision: fp16, bf16 or fp32; masters and moments are FP32 always.
        device: cuda or cpu.
        attention: what it keeps.
        target_share: share of the positions that carry a loss.

    Raises:
        ValueError: sizes that do not divide, see `Layout.micro_batches` and `stage_parameters`.
    """
    work = WORK_BYTES[precision]
    positions = layout.micro_batch * config.max_sequence
    boundary = positions * config.hidden * work
    whole_layer = layer_activations(config, positions, work, layout.tensor, attention)
    head = sum(head_memory(config, int(target_share * positions), work, layout.tensor, device))
    waiting = layout.micro_batches(batch)
    stages = []
    counts = layers_per_stage(config.layers, layout.pipeline)
    for stage, (layers, held) in enumerate(zip(counts, stage_parameters(config, layout), strict=True)):
        in_flight = min(waiting, layout.pipeline - stage)  # 1F1B
        activations = in_flight * layers * whole_layer
        if layout.checkpointing:  # of each layer its input, whole on every tensor rank, and one layer that is computed again
            activations = in_flight * layers * boundary + whole_layer
        gathered = min(_LIVE, held) * work if layout.zero_stage == 3 else 0
        gradients = held * work // (layout.data if layout.zero_stage >= 2 else 1)
        stages.append(
            StageMemory(
                weights=held * work // (layout.data if layout.zero_stage == 3 else 1),
                optimizer=held * OPTIMIZER_BYTES // layout.data,
                framework=gathered + (_CPU_FRAMEWORK if device == "cpu" else _CUDA_CONTEXT + min(REDUCE_BUCKET, held) * work),
                gradients=gradients,
                activations=activations,
                head=head if stage == layout.pipeline - 1 else 0,
                pipeline_buffers=(in_flight + 1) * boundary if layout.pipeline > 1 else 0,
                update=held * (work + (4 if work < 4 else 0)) // layout.data,
                saving=_saving(held, layout) if device == "cpu" else 0,
                accumulates=waiting > 1,
                keeps=device == "cpu",
            )
        )
    return stages


def _saving(held: int, layout: Layout) -> int:
    """Copies that the first rank of a stage hands to its writer: its share, and for a checkpoint of one file all masters."""
    if layout.tensor == layout.pipeline == 1:
        return 4 * held + 8 * held // layout.data
    return OPTIMIZER_BYTES * held // layout.data

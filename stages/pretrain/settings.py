"""Section `pretrain` of the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ledger.schedule import BatchRamp, LrSchedule
from model.config import NORMS, ModelConfig
from model.parallel.plan import ParallelPlan
from stages._params import NonNegative, OneOf, Positive, Range, Seed


@dataclass(frozen=True)
class Architecture:
    """The model but for vocabulary and sequence length, which come from tokenizer and packed data; see `ModelConfig`."""

    layers: Positive
    hidden: Positive
    heads: Positive
    ffn: Positive
    dropout: Annotated[float, Range(0.0, 0.9)]
    norm: Annotated[str, OneOf(*NORMS)] = "deepnorm"
    embedding_norm: bool = False
    tied_embeddings: bool = True
    query_key_layer_scaling: bool = False
    shrink_logit_gradient: bool = False

    def with_data(self, vocabulary: int, max_sequence: int) -> ModelConfig:
        """The complete model settings."""
        return ModelConfig(**vars(self), vocabulary=vocabulary, max_sequence=max_sequence)


@dataclass(frozen=True)
class Optimizer:
    """AdamW, its learning rate by samples, and clipping (facts 4.1)."""

    peak_lr: Annotated[float, Range(1e-8, 1.0)]
    min_lr: Annotated[float, Range(0.0, 1.0)]
    warmup_samples: NonNegative
    decay_samples: Positive
    beta1: Annotated[float, Range(0.0, 0.99999)]
    beta2: Annotated[float, Range(0.0, 0.99999)]
    eps: Annotated[float, Range(1e-12, 1e-2)]
    weight_decay: Annotated[float, Range(0.0, 1.0)]
    clip_norm: Annotated[float, Range(1e-6, 1e6)]

    def schedule(self) -> LrSchedule:
        """Learning rate as a function of consumed samples."""
        return LrSchedule(self.peak_lr, self.min_lr, self.warmup_samples, self.decay_samples)


@dataclass(frozen=True)
class Params:
    """Section `pretrain`.

    `threads` and the parallel degrees are tracked because they decide the order of floating-point sums, and so the bytes.
    `fp32_gradient_sums` adds micro-batches up in FP32; without it, in `precision`, as published.
    """

    seed: Seed
    model: Architecture
    optimizer: Optimizer
    batch_start: Positive
    batch_end: Positive
    batch_increment: Positive
    batch_ramp_samples: NonNegative
    steps: Positive
    micro_batch: Positive
    checkpoint_every: Positive
    save_every: Positive
    embedding_gradient_shrink: Annotated[float, Range(0.0, 1.0)]
    precision: Annotated[str, OneOf("bf16", "fp16", "fp32")]
    zero_stage: Annotated[int, Range(0, 3)]
    data_parallel: Annotated[int, Range(1, 65_536)]
    threads: Annotated[int, Range(1, 256)]
    tensor_parallel: Annotated[int, Range(1, 1_024)] = 1
    pipeline_parallel: Annotated[int, Range(1, 1_024)] = 1
    activation_checkpointing: bool = False
    fp32_gradient_sums: bool = False

    def __post_init__(self) -> None:
        self.plan.check(self.model.layers, self.model.heads, self.model.ffn)
        if self.fp32_gradient_sums and (self.precision != "bf16" or self.zero_stage != 1):
            raise ValueError("fp32_gradient_sums is for precision bf16 and zero_stage 1 alone: set it to false")
        unit = self.micro_batch * self.data_parallel
        for name in ("batch_start", "batch_end", "batch_increment"):
            size = getattr(self, name)
            if size % unit:
                raise ValueError(
                    f"batch sizes must be multiples of micro_batch * data_parallel = {unit}, found {size}: set {name} to one"
                )

    @property
    def plan(self) -> ParallelPlan:
        """How the training is spread over processes."""
        return ParallelPlan(
            self.tensor_parallel, self.pipeline_parallel, self.data_parallel, self.zero_stage, self.activation_checkpointing
        )

    def ramp(self) -> BatchRamp:
        """Batch size as a function of consumed samples."""
        return BatchRamp(self.batch_start, self.batch_end, self.batch_increment, self.batch_ramp_samples)

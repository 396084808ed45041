"""Section `pretrain` of the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ledger.schedule import BatchRamp, LrSchedule
from model.config import ModelConfig
from stages._params import NonNegative, OneOf, Positive, Range, Seed


@dataclass(frozen=True)
class Architecture:
    """Sizes of the model; vocabulary and sequence length come from the tokenizer and the packed data."""

    layers: Positive
    hidden: Positive
    heads: Positive
    ffn: Positive
    dropout: Annotated[float, Range(0.0, 0.9)]

    def with_data(self, vocabulary: int, max_sequence: int) -> ModelConfig:
        """The complete model settings."""
        return ModelConfig(self.layers, self.hidden, self.heads, self.ffn, vocabulary, max_sequence, self.dropout)


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

    `threads` and `data_parallel` are tracked because they decide the order of floating-point sums, and so the bytes.
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
    precision: Annotated[str, OneOf("bf16", "fp32")]
    zero_stage: Annotated[int, OneOf(1, 2)]
    data_parallel: Annotated[int, Range(1, 64)]
    threads: Annotated[int, Range(1, 256)]

    def __post_init__(self) -> None:
        unit = self.micro_batch * self.data_parallel
        for size in (self.batch_start, self.batch_end, self.batch_increment):
            if size % unit:
                raise ValueError(f"batch sizes must be multiples of micro_batch * data_parallel = {unit}, found {size}")

    def ramp(self) -> BatchRamp:
        """Batch size as a function of consumed samples."""
        return BatchRamp(self.batch_start, self.batch_end, self.batch_increment, self.batch_ramp_samples)

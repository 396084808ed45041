"""Section `pretrain` of the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ledger.schedule import BatchRamp, LrSchedule
from model.config import NORMS, ModelConfig
from model.parallel.plan import ParallelPlan
from stages._params import Fraction, NonNegative, OneOf, Positive, Range, Seed

ATTENTION = ("auto", "explicit", "masked", "prefix", "varlen")  # `model.attention.BACKENDS`, read without torch


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

    def __post_init__(self) -> None:
        self.with_data(1, 1)  # refuses sizes that do not go together

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

    def __post_init__(self) -> None:
        if self.min_lr > self.peak_lr:
            raise ValueError(f"min_lr {self.min_lr} is above peak_lr {self.peak_lr}: the rate falls from one to the other")
        if self.warmup_samples >= self.decay_samples:
            raise ValueError(
                f"warmup_samples {self.warmup_samples} must be less than decay_samples {self.decay_samples}: both count from "
                "the first sample of the training"
            )

    def schedule(self) -> LrSchedule:
        """Learning rate as a function of consumed samples."""
        return LrSchedule(self.peak_lr, self.min_lr, self.warmup_samples, self.decay_samples)


@dataclass(frozen=True)
class ShrinkRamp:
    """EGS's alpha over time: the start value up to `first_step`, then straight to `end` in `steps` steps (facts 4.4).

    Published: `--shrink-embedding-gradient-steps 6000 500`, to 1.0.
    """

    first_step: NonNegative
    steps: Positive
    end: Fraction = 1.0


@dataclass(frozen=True)
class Validation:
    """Every `every` steps and behind the last one, the loss on `sequences` windows of held-out text."""

    every: Positive
    sequences: Positive


@dataclass(frozen=True)
class Stability:
    """When a training goes back by itself, and what it does otherwise then; see `stages.pretrain.stability`.

    Attributes:
        window: values of the past that a new one is compared with; until there are so many, nothing is a spike.
        sigmas: how far above their mean, in their standard deviations, a value is a spike.
        consecutive: spiking steps in a row that make the training go back.
        good_after: steps without a spike behind a checkpoint that is gone back to.
        skip_before, skip_after: steps before the first spike, and behind the last, whose samples are passed over.
        learning_rate_factor, shrink_factor: what learning rate and EGS's alpha are multiplied with from there on.
        returns: how often at most.
    """

    window: Annotated[int, Range(8, 100_000)]
    sigmas: Annotated[float, Range(1.0, 1_000.0)]
    consecutive: Positive
    good_after: NonNegative
    skip_before: NonNegative
    skip_after: NonNegative
    learning_rate_factor: Annotated[float, Range(1e-3, 1.0)]
    shrink_factor: Annotated[float, Range(1e-3, 1.0)]
    returns: Positive


@dataclass(frozen=True)
class Params:
    """Section `pretrain`.

    `threads` and the parallel degrees are tracked because they decide the order of floating-point sums, and so the bytes.
    `fp32_gradient_sums` adds micro-batches up in FP32; without it, in `precision`, as published.
    `shard_bytes` bounds the files of states, and of checkpoints under a plan that spreads the model. `resume_from` names the
    folder in runs/pretrain/scratch of an interrupted training that this one goes on from, on other processes.
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
    attention: Annotated[str, OneOf(*ATTENTION)] = "auto"
    compile: bool = False
    embedding_gradient_shrink_ramp: ShrinkRamp | None = None
    validation: Validation | None = None
    stability: Stability | None = None
    shard_bytes: Annotated[int, Range(1, 1 << 40)] = 5_000_000_000
    resume_from: str = ""

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
        self._check_ramp()
        if self.validation is not None and self.validation.sequences % unit:
            raise ValueError(
                f"validation.sequences must be a multiple of micro_batch * data_parallel = {unit}, "
                f"found {self.validation.sequences}"
            )
        if self.stability is not None and (self.zero_stage == 3 or self.fp32_gradient_sums):
            raise ValueError("stability reads gradients of zero_stage 1 or 2, without fp32_gradient_sums; set it to null else")

    def _check_ramp(self) -> None:
        grown = self.batch_end - self.batch_start
        if grown < 0:
            raise ValueError(f"batch_end {self.batch_end} is less than batch_start {self.batch_start}: batches grow or stay")
        if grown % self.batch_increment:
            raise ValueError(
                f"from batch_start {self.batch_start} to batch_end {self.batch_end} is no multiple of batch_increment "
                f"{self.batch_increment}: set it to a divisor of {grown}"
            )
        if grown and not self.batch_ramp_samples:
            raise ValueError(
                f"batch_ramp_samples 0 leaves no room to grow from batch_start {self.batch_start} to batch_end "
                f"{self.batch_end}: set these equal, or give the ramp samples"
            )

    def shrink(self, step: int) -> float:
        """EGS's alpha in `step`, from 0."""
        start, ramp = self.embedding_gradient_shrink, self.embedding_gradient_shrink_ramp
        if ramp is None:
            return start
        return start + (ramp.end - start) * min(max((step - ramp.first_step) / ramp.steps, 0.0), 1.0)

    @property
    def plan(self) -> ParallelPlan:
        """How the training is spread over processes."""
        return ParallelPlan(
            self.tensor_parallel, self.pipeline_parallel, self.data_parallel, self.zero_stage, self.activation_checkpointing
        )

    def ramp(self) -> BatchRamp:
        """Batch size as a function of consumed samples."""
        return BatchRamp(self.batch_start, self.batch_end, self.batch_increment, self.batch_ramp_samples)

"""How long a whole run takes, and what it costs, from one assumption: the FLOP/s that a GPU reaches at the full batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from model.config import ModelConfig
from model.planning.flops import hardware_flops, model_flops_per_token
from model.planning.layout import Layout

_DAY = 86_400.0


@dataclass(frozen=True)
class Schedule:
    """A run in time.

    Attributes:
        step_seconds: a step at the full batch.
        days: all steps, the batch ramp's too; no failure, no checkpoint, no validation.
        samples: sequences of all steps.
        positions: their positions, padding and context among them: the "tokens" of the published 400 billion.
        samples_per_second, tokens_per_second: at the full batch.
        hardware_flops_per_gpu: what the hardware does each second at the full batch, as assumed.
        model_flops_per_gpu: what the model needs of that.
        total_hardware_flops: of the whole run.
    """

    step_seconds: float
    days: float
    samples: int
    positions: int
    samples_per_second: float
    tokens_per_second: float
    hardware_flops_per_gpu: float
    model_flops_per_gpu: float
    total_hardware_flops: float

    def gpu_hours(self, gpus: int) -> float:
        """Hours of all GPUs together."""
        return self.days * 24 * gpus


def step_seconds(config: ModelConfig, layout: Layout, batch: int, full_batch: int, achieved: float) -> float:
    """Seconds of a step of `batch` sequences, where GPUs reach `achieved` hardware FLOP/s at `full_batch`.

    The GPUs' own speed is taken to be the same at any batch, so that a smaller one is slower by its larger bubble alone.
    """
    working = (1 - layout.bubble(batch)) / (1 - layout.bubble(full_batch))
    return hardware_flops(config, batch, recompute=layout.checkpointing) / (layout.gpus * achieved * working)


def schedule(config: ModelConfig, layout: Layout, batches: Mapping[int, int], achieved: float) -> Schedule:
    """The run whose steps are counted in `batches`: batch size to number of steps.

    Raises:
        ValueError: a batch size does not divide over the replicas.
    """
    full = max(batches)
    seconds = sum(count * step_seconds(config, layout, batch, full, achieved) for batch, count in batches.items())
    samples = sum(batch * count for batch, count in batches.items())
    step = step_seconds(config, layout, full, full, achieved)
    tokens = full * config.max_sequence / step
    return Schedule(
        step_seconds=step,
        days=seconds / _DAY,
        samples=samples,
        positions=samples * config.max_sequence,
        samples_per_second=full / step,
        tokens_per_second=tokens,
        hardware_flops_per_gpu=achieved,
        model_flops_per_gpu=model_flops_per_token(config) * tokens / layout.gpus,
        total_hardware_flops=hardware_flops(config, samples, recompute=layout.checkpointing),
    )

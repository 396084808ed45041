"""Section `pack` of the parameters."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from model.masking import TRUNCATIONS, MaskingConfig
from stages._params import Fraction, OneOf, Positive, Range, Seed


@dataclass(frozen=True)
class Params:
    """Section `pack`; the fields that masking uses are explained in `model.masking.MaskingConfig`.

    Attributes:
        seed: of every draw.
        epochs: masking epochs to make.
        instruction_share: of instruction sequences among all.
        shard_samples: sequences in a shard; with the sequence length it bounds what a worker holds.
    """

    seed: Seed
    epochs: Annotated[int, Range(1, 1000)]
    instruction_share: Annotated[float, Range(0.0, 0.5)]
    shard_samples: Positive
    sequence_length: Annotated[int, Range(32, 131_072)]
    blocks: Annotated[int, Range(1, 64)]
    gmask_row: Positive
    mask_row: Positive
    gmask_probability: Fraction
    gmask_min_ratio: Fraction
    mask_ratio: Annotated[float, Range(0.01, 0.9)]
    span_lambda: Annotated[float, Range(0.1, 100.0)]
    span_max: Annotated[int, Range(1, 1000)]
    short_probability: Fraction
    short_minimum: Positive
    single_span_probability: Fraction
    truncation: Annotated[str, OneOf(*TRUNCATIONS)]

    def __post_init__(self) -> None:
        self.masking()  # refuses combinations that do not fit a sequence

    def masking(self) -> MaskingConfig:
        """The fields that decide how one sample is made."""
        return MaskingConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(MaskingConfig)})

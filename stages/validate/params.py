"""Parameters of the stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from stages._params import Fraction, NonNegative, Positive, Range


@dataclass(frozen=True)
class Length:
    """Where a quantile of the lengths of a language's training documents must lie, in characters."""

    quantile: Fraction
    low: NonNegative
    high: NonNegative


@dataclass(frozen=True)
class Params:
    """Section `validate` of params.yaml.

    Attributes:
        lengths: by language.
        min_kept_share: of a step's documents that must be left after it.
        max_byte_share: of a language's tokens that may be bytes of characters without a piece.
        max_left_over_share: of an epoch's tokens that no sample may use.
        max_deviation: how far the share of a kind of sample may lie from its parameter, in standard errors.
    """

    languages: tuple[str, ...]
    min_characters: Positive
    max_characters: Positive
    max_replacement_share: Fraction
    lengths: dict[str, tuple[Length, ...]]
    min_language_share: Fraction
    max_language_share: Fraction
    min_language_bytes: NonNegative
    min_heldout_bytes: NonNegative
    min_kept_share: Fraction
    max_byte_share: Fraction
    max_left_over_share: Fraction
    max_deviation: Annotated[float, Range(0.0, 100.0)]

    def __post_init__(self) -> None:
        if set(self.lengths) - set(self.languages):
            raise ValueError(f"lengths names {sorted(set(self.lengths) - set(self.languages))}, which languages does not")
        for lang, bounds in self.lengths.items():
            for bound in bounds:
                if bound.low > bound.high:
                    raise ValueError(f"lengths of {lang}: low {bound.low} is over high {bound.high}")

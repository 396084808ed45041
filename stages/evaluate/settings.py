"""Section `evaluate` of the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from stages._params import Fraction, NonNegative, Positive, Range, Seed


@dataclass(frozen=True)
class Baselines:
    """The n-gram models; `discount` null estimates it from the counts."""

    train_tokens: Positive
    smoothing: Annotated[float, Range(1e-6, 1e3)]
    discount: Fraction | None


@dataclass(frozen=True)
class Cloze:
    """Items of the last-word cloze; lengths in tokens.

    Attributes:
        items: wanted for each language.
        context: at most so much stands before the word.
        min_context: at least so much of the document stands before it.
        min_sentence: at least so much of the sentence stands before it.
        min_count: a choice ends at least so many training sentences of the document's source.
        frequency_ratio: between any wrong choice and the right one, in these counts.
    """

    items: Positive
    context: Positive
    min_context: Positive
    min_sentence: Positive
    min_count: Positive
    frequency_ratio: Annotated[float, Range(1.0, 1e6)]

    def __post_init__(self) -> None:
        if self.min_context > self.context:
            raise ValueError(f"min_context {self.min_context} is over context {self.context}")


@dataclass(frozen=True)
class Params:
    """Section `evaluate`.

    `threads` and `batch_positions` are tracked because they decide the order of floating-point sums, and so the bytes.

    Attributes:
        heldout_tokens: of each language, in whole documents drawn by SHA-256, on which everything is scored.
        checkpoint_tokens: as many of these for each checkpoint before the last; 0 for none.
        window, context: of `model.scoring.score_documents`.
        bootstrap: resamples.
    """

    seed: Seed
    threads: Annotated[int, Range(1, 256)]
    batch_positions: Annotated[int, Range(64, 2**24)]
    heldout_tokens: Positive
    checkpoint_tokens: NonNegative
    window: Annotated[int, Range(2, 131_071)]
    context: Positive
    bootstrap: Annotated[int, Range(100, 1_000_000)]
    baselines: Baselines
    cloze: Cloze

    def __post_init__(self) -> None:
        if self.context >= self.window:
            raise ValueError(f"context {self.context} leaves nothing to score in a window of {self.window}")

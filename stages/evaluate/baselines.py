"""Unigram and bigram models of the training tokens: what a language model must beat before it has learnt any context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Floats = NDArray[np.float64]
_LEAST_DISCOUNT = 0.05  # an estimate of 0 would make every unseen pair impossible


@dataclass(frozen=True)
class Unigram:
    """Relative frequencies with additive smoothing.

    Attributes:
        log_probability: [vocabulary], nats.
    """

    log_probability: Floats

    @classmethod
    def fit(cls, tokens: Ids, vocabulary: int, smoothing: float) -> Unigram:
        """p(w) = (count(w) + smoothing) / (tokens + smoothing * vocabulary)."""
        counts = np.bincount(tokens, minlength=vocabulary) + smoothing
        return cls(np.log(counts) - np.log(counts.sum()))

    def nats(self, ids: Ids) -> float:
        """Negative log-likelihood of a text."""
        return float(-self.log_probability[ids].sum())

    def scores(self, context: Ids, choices: Ids) -> Floats:
        """Log-probability of each choice; the context does not count."""
        return self.log_probability[choices]


@dataclass(frozen=True)
class Bigram:
    """Interpolated absolute discounting over the unigram (Ney, Essen and Kneser 1994).

    p(w | v) = max(count(v w) - D, 0) / count(v) + D * types(v) / count(v) * p(w), where types(v) is the number of
    different tokens seen behind v. A text's first token has no v and goes by the unigram, as the GLM starts from nothing.

    Attributes:
        unigram: the lower order.
        pairs: sorted keys v * vocabulary + w of the pairs seen.
        counts: how often each.
        total, types: [vocabulary], of v.
        discount: D.
    """

    unigram: Unigram
    pairs: NDArray[np.int64]
    counts: NDArray[np.int64]
    total: NDArray[np.int64]
    types: NDArray[np.int64]
    discount: float

    @classmethod
    def fit(cls, tokens: Ids, unigram: Unigram, discount: float | None) -> Bigram:
        """Count pairs; D is `discount`, or estimated as n1 / (n1 + 2 n2) from the pairs seen once and twice."""
        vocabulary = len(unigram.log_probability)
        keys = tokens[:-1].astype(np.int64) * vocabulary + tokens[1:]
        pairs, counts = np.unique(keys, return_counts=True)
        if discount is None:
            once, twice = int((counts == 1).sum()), int((counts == 2).sum())
            discount = max(once / max(once + 2 * twice, 1), _LEAST_DISCOUNT)
        before = pairs // vocabulary
        total = np.bincount(tokens[:-1], minlength=vocabulary)
        return cls(unigram, pairs, counts, total, np.bincount(before, minlength=vocabulary), discount)

    def log_probability(self, before: Ids, following: Ids) -> Floats:
        """log p(following | before), elementwise, nats."""
        vocabulary = len(self.total)
        keys = before.astype(np.int64) * vocabulary + following
        at = np.minimum(np.searchsorted(self.pairs, keys), max(len(self.pairs) - 1, 0))
        seen = np.where(self.pairs[at] == keys, self.counts[at], 0) if len(self.pairs) else np.zeros(len(keys))
        total = np.maximum(self.total[before], 1)
        left_over = np.where(self.total[before] > 0, self.discount * self.types[before] / total, 1.0)
        lower = np.exp(self.unigram.log_probability[following])
        return np.log(np.maximum(seen - self.discount, 0) / total + left_over * lower)

    def nats(self, ids: Ids) -> float:
        """Negative log-likelihood of a text."""
        return self.unigram.nats(ids[:1]) - float(self.log_probability(ids[:-1], ids[1:]).sum())

    def scores(self, context: Ids, choices: Ids) -> Floats:
        """Log-probability of each choice (single tokens) behind the context's last token."""
        return self.log_probability(np.full(len(choices), context[-1]), choices)

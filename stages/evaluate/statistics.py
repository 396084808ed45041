"""Intervals: Wilson's for a share, a paired bootstrap over documents for a difference in bits per byte."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
_RESAMPLE_BATCH = 1 << 22  # drawn document numbers held at a time


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


def bits_per_byte(nats: NDArray[np.float64], size: NDArray[np.int64]) -> float:
    """Bits per UTF-8 byte of documents together: long ones weigh more, as in the Pile's measure."""
    return float(nats.sum() / math.log(2) / size.sum())


def wilson(correct: int, items: int) -> Interval:
    """Share of correct items with Wilson's score interval (1927): inside [0, 1], and sound at few items."""
    share = correct / items
    middle = (share + Z95**2 / (2 * items)) / (1 + Z95**2 / items)
    half = Z95 / (1 + Z95**2 / items) * math.sqrt(share * (1 - share) / items + Z95**2 / (4 * items**2))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def paired_bootstrap(
    nats: NDArray[np.float64], reference: NDArray[np.float64], size: NDArray[np.int64], resamples: int, seed: int
) -> Interval:
    """Difference in bits per byte, model minus reference, both on the same documents, which are drawn with replacement.

    Args:
        nats, reference: [documents], negative log-likelihoods.
        size: [documents], UTF-8 bytes.
        resamples: bootstrap samples; the interval is their 2.5 and 97.5 percentiles.
        seed: of Philox, whose raw stream is fixed by its definition; equal seeds draw equal documents for every model.
    """
    documents = len(size)
    difference = (nats - reference) / math.log(2)
    philox = np.random.Philox(key=np.array([seed, documents], dtype=np.uint64))
    rows = max(1, _RESAMPLE_BATCH // documents)
    means = []
    for start in range(0, resamples, rows):
        shape = min(rows, resamples - start), documents
        uniform = (philox.random_raw(shape[0] * documents) >> np.uint64(11)) * 2.0**-53
        drawn = (uniform * documents).astype(np.int64).reshape(shape)
        means.append(difference[drawn].sum(axis=1) / size[drawn].sum(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Interval(float(difference.sum() / size.sum()), float(low), float(high))

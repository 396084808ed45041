"""Whether rows of files are items of an evaluation set in use: n-grams of units in common, as the decontaminate stage asks.

Documents have passed that stage; labelled files have not. The n-grams are those of `stages/_ngrams.py`, as XXH64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages import _ngrams, _units
from stages._errors import StageError
from stages._runner import StageIO
from stages.instruct.params import LESSON, Params
from stages.instruct.rows import plain_files

_WHOLE = 2**62  # characters of a text that are looked at: all
_FORMULA = 10  # items of a set; what more of them share is a formula of the set, not an item
_SHORT = 0.6  # of the units of an n-gram: a shorter text counts where it is equal as a whole, a still shorter one never


class Evaluations:
    """Hashed n-grams of every evaluation set, set by set, sorted."""

    def __init__(self, params: Params, stage: StageIO) -> None:
        self._units = params.overlap_units
        self.names = [evaluation.name for evaluation in params.evaluations]
        self._hashes = []
        for evaluation in params.evaluations:
            files = plain_files(evaluation.files, stage, f"evaluation {evaluation.name!r}")
            items = [list(strings(row)) for file in files for _, row in file.rows()]
            self._hashes.append(self._of_items(items))

    def matches(self, rows: list[list[str]]) -> NDArray[np.bool_]:
        """[evaluations, rows]: whether one of the row's texts shares an n-gram with an item."""
        found = np.zeros((len(self.names), len(rows)), np.bool_)
        if not self.names or not rows:
            return found
        hashes, of_row = self._ngrams(rows)
        for index, known in enumerate(self._hashes):
            if len(known):
                place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
                found[index, of_row[known[place] == hashes]] = True
        return found

    def _of_items(self, items: list[list[str]]) -> NDArray[np.uint64]:
        hashes, of_item = self._ngrams(items)
        pairs = np.unique(np.stack([hashes, of_item.astype(np.uint64)]), axis=1)
        known, items_of = np.unique(pairs[0], return_counts=True)
        return known[items_of <= _FORMULA]

    def _ngrams(self, rows: list[list[str]]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """(hash, row) of the n-grams of every text of every row."""
        texts = [text for row in rows for text in row]
        row_of_text = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        sizes = np.full(len(texts), self._units, np.int64)
        hashes, splits = _units.ngram_hashes(pa.array(texts, pa.large_string()), sizes, _WHOLE)
        number = np.diff(splits)
        least = _SHORT * self._units
        counts = [number[index] > 1 or len(_ngrams.units(text)) >= least for index, text in enumerate(texts)]
        kept = np.repeat(np.array(counts, np.bool_), number)
        return hashes[kept], np.repeat(row_of_text, number)[kept]


def check_share(dataset: str, overlaps: dict[str, int], samples: int, params: Params) -> None:
    """Refuse a data set that is an evaluation set by its content.

    Raises:
        StageError: more of its samples overlap with one set than may, and the set is not named in `allowed_overlaps`.
    """
    for evaluation, number in sorted(overlaps.items()):
        if not params.allows(evaluation) and number > params.max_overlap_share * samples:
            raise StageError(
                f"data set {dataset!r} is, in part or whole, the evaluation set {evaluation!r}: {number} of its {samples} "
                f"samples share {params.overlap_units} words or characters in a row with its items{LESSON}"
            )


def strings(value: Any) -> Iterator[str]:
    """Every text inside a row's fields, and every line of those of several lines."""
    if isinstance(value, str):
        lines = value.split("\n")
        yield from filter(None, [value, *(lines if len(lines) > 1 else [])])
    elif isinstance(value, (dict, list, tuple)):
        inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for item in inner:
            yield from strings(item)

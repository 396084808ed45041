"""Splits documents into train and held-out parts, and takes from train what overlaps with anything that is evaluated.

Reads:    data/dedup/documents/*.parquet, data/dedup/clusters.parquet, the evaluation sets of `evaluations`
Writes:   data/decontaminate/{train,heldout}/documents/*.parquet, data/decontaminate/hits.parquet
Params:   decontaminate
Promises: similar documents (one group of dedup) stand on one side; every overlap stands in hits with the text that shows it; an
          evaluation that overlaps with nothing stops the build unless that was to be expected

Two rules find an overlap: a common n-gram of 13 units (GPT-3, appendix C; GLM-130B, section 5, names 13-grams too), and for
passages of evaluation sets that are shorter than that the whole passage without case, blanks and signs (as in the GPT-4
report, appendix C, there 50 characters). `scan` finds them by hashes, a record batch at a time; `hits` names their owners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.decontaminate.params import EvaluationSet, Params

if TYPE_CHECKING:
    from stages._runner import StageIO

__all__ = ["EvaluationSet", "Params", "run"]


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Split, look for overlaps, write both sides; see `build`, which loads numba."""
    from stages.decontaminate.build import build

    return build(params, io)

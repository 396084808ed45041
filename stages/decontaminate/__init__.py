"""Splits documents into train and held-out parts, and takes from train what overlaps with anything that is evaluated.

Reads:    data/dedup/documents/*.parquet, data/dedup/clusters.parquet, the evaluation sets of `evaluations`, takedowns.jsonl
Writes:   data/decontaminate/{train,heldout}/documents/*.parquet, hits.parquet and, where any are asked for, takedowns.parquet
Params:   decontaminate
Promises: similar documents (one group of dedup) stand on one side; every overlap stands in hits with the text that shows it; an
          evaluation that overlaps with nothing stops the build unless that was to be expected; what was taken down stands on
          no side, and all others on the side where they stood

Two rules find an overlap. A common n-gram of 13 units, unless it stands in more than ten training documents (GPT-3, appendix C,
which then cut the passage and 200 characters around it out; here the document goes. GLM-130B, section 5, names 13-grams too).
And of evaluation sets the whole passage, without case, blanks and signs, where it is shorter than that (after the GPT-4 report,
appendix C: three random substrings of 50 characters of an item, or the whole of a shorter one). The fewest units of such a
passage are ours: of 128 short items of real sets that were planted in 29 MB of real text all were found but eight that were a
prompt's own words, and nothing was found by it where nothing was planted.

`scan` finds them by hashes, a record batch at a time; `hits` names their owners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.decontaminate.params import EvaluationSet, Params

if TYPE_CHECKING:
    from stages._runner import StageIO

__all__ = ["EvaluationSet", "Params", "run"]


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Split, look for overlaps, write both sides; see `build`, which loads numba."""
    io.expect("stages.decontaminate.build")
    from stages.decontaminate.build import build

    return build(params, io)

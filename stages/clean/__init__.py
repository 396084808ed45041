"""Repairs and normalises text, identifies its language, drops what fails a quality rule and masks personal data.

Reads: data/corpus/documents/*.parquet
Writes: data/clean/documents/*.parquet (the same shards), data/clean/drops.parquet, data/clean/samples.parquet
Params: clean
Promises: each document of the corpus stands in documents, or in drops with its reason; `lang` is identified, not claimed; what
each rule dropped, and what it only just kept, is sampled; a rule that matches nothing fails the stage unless told it may.

One small module per concern: `screen` tells which documents the slow steps need not look at, `normalise` repairs and
normalises, `boilerplate` finds lines that recur across documents, `statistics` counts (with `characters`, `counting`,
`phrases`, `repetition` and `runs`), `language` identifies, `rules` judge, `privacy` masks; `shard` does all of it to one shard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.clean.params import Params

if TYPE_CHECKING:
    from stages._runner import StageIO

__all__ = ["Params", "run"]


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Clean every shard of the corpus; see `build`, which loads numba."""
    io.expect("stages.clean.shard")
    from stages.clean.build import run as build

    return build(params, io)

"""Removes exact and near duplicates and records which document stands for which.

Reads: data/clean/documents/*.parquet
Writes: data/dedup/documents/*.parquet (the same shards), clusters.parquet, index/ (with `index`), passages.parquet (with
    `passages`)
Params: dedup
Promises: a removed document has the units of its survivor, or an exact Jaccard similarity of at least `threshold` with it
    (with `verify: signature`, an estimated one); documents of different languages are never joined; the bytes do not depend on
    the number of workers.

The steps, each a map whose tasks meet through files: `signatures` (one pass over the text), `candidates` (copies, band tables,
a first look at signatures), `components` (who may have to do with whom), `gather` (sets of shingles of those alone), `verify`
(exact similarity, survivors), `output` (documents and index). A signature is datasketch's, bit for bit: `minhash`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.dedup.params import CLUSTERS, Params

if TYPE_CHECKING:
    from stages._runner import StageIO

__all__ = ["CLUSTERS", "Params", "run"]


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Cluster all documents, then write the survivors shard by shard; see `build`, which loads numba."""
    io.expect("stages.dedup.build")
    from stages.dedup.build import build

    return build(params, io)

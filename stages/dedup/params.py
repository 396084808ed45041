"""Parameters of dedup, and the table that it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa

from stages._params import Fraction, OneOf, Positive, Range, Seed

CLUSTERS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("cluster", pa.string()),
        ("survivor", pa.bool_()),
        ("kind", pa.string()),
        ("jaccard", pa.float64()),
        ("group", pa.string()),
    ]
)


@dataclass(frozen=True)
class Params:
    """Parameters of this stage.

    Attributes:
        ngram: units of a shingle, by language; only documents of one language are compared.
        permutations: values of a MinHash signature.
        bands: that a signature is cut into; two documents that agree in one are a candidate pair.
        rows: values of a band.
        scheme: datasketch's permutation scheme.
        seed: of the permutations.
        threshold: Jaccard similarity with the survivor from which a document is a near duplicate.
        verify: `exact` compares the sets of shingles themselves, `signature` the share of equal values in two signatures.
        max_characters: of a document whose shingles count; copies are compared whole.
        passages: first removes exact copies of whole `lines` or `paragraphs` (between empty lines) in later documents.
        passage_units: of the shortest line or paragraph that is removed.
        index: whether to leave the index that `glm dedup query` asks.
        may_match_nothing: whether a corpus without any duplicate is no error.
    """

    ngram: dict[str, Positive]
    permutations: Positive
    bands: Positive
    rows: Positive
    scheme: Annotated[str, OneOf("affine32")]
    seed: Annotated[Seed, Range(0, 2**32 - 1)]
    threshold: Fraction
    verify: Annotated[str, OneOf("exact", "signature")]
    max_characters: Positive
    passages: Annotated[str, OneOf("lines", "paragraphs")] | None
    passage_units: Positive
    index: bool
    may_match_nothing: bool

    def __post_init__(self) -> None:
        if self.bands * self.rows > self.permutations:
            raise ValueError(f"bands x rows = {self.bands * self.rows} exceeds permutations = {self.permutations}")

    @property
    def floor(self) -> float:
        """Similarity of signatures below which a pair is given up unseen.

        With `verify: exact` it lies five standard errors of the estimate below the threshold: of pairs at the threshold itself
        fewer than one in a million falls below it.
        """
        if self.verify == "signature":
            return self.threshold
        return self.threshold - 5 * (self.threshold * (1 - self.threshold) / self.permutations) ** 0.5

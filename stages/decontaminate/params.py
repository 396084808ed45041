"""Parameters of the stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from stages._params import Fraction, OneOf, Positive, Seed

HELDOUT = "heldout"  # the evaluation that this stage makes itself


@dataclass(frozen=True)
class EvaluationSet:
    """A set of evaluation items.

    Attributes:
        files: paths or globs, relative to the project (then declared in dvc.yaml) or absolute; JSON lines in GLM-130B's form,
            plain text with one item a line, or Parquet; each as it is or as .gz, .bz2, .zst.
        columns: fields of the JSON object or columns of the Parquet table; the first holds the item's text, the others what
            may follow it. Parquet needs them; JSON lines in GLM-130B's form do not.
        passages: what must occur whole for a substring hit: the `item`, or any of its `lines` (for items in which a template
            joins several sentences).
        sha256: digests of files by file name; a file named here must have that digest.
    """

    name: str
    files: tuple[str, ...]
    columns: tuple[str, ...] = ()
    passages: Annotated[str, OneOf("item", "lines")] = "item"
    sha256: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Params:
    """Section `decontaminate` of params.yaml.

    Attributes:
        heldout_share: of each source's bytes.
        ngram: units (words, Han characters) of an overlap, by language.
        substring: fewest units of a passage that counts where it occurs whole although it is shorter than an n-gram, by
            language; null looks for n-grams alone. Evaluation sets only.
        max_documents: an n-gram or passage in more training documents is a formula, not a leak; a passage in more items of a
            set is that set's template.
        may_match_nothing: evaluations (`heldout` or a set's name) that need not overlap with anything; every other one must.
    """

    seed: Seed
    heldout_share: Fraction
    ngram: dict[str, Positive]
    substring: dict[str, Positive] | None
    max_documents: Positive
    action: Annotated[str, OneOf("remove", "mark")]
    may_match_nothing: tuple[str, ...]
    evaluations: tuple[EvaluationSet, ...]

    def __post_init__(self) -> None:
        for name, lengths in (("ngram", self.ngram), ("substring", self.substring)):
            if lengths is not None and not {"en", "zh"} <= set(lengths):
                raise ValueError(f"{name} needs a length for en and for zh, found {lengths}")
        names = [HELDOUT, *(item.name for item in self.evaluations)]
        if len(set(names)) < len(names):
            raise ValueError(f"evaluation names must differ from each other and from {HELDOUT!r}: {names[1:]}")
        unknown = sorted(set(self.may_match_nothing) - set(names))
        if unknown:
            raise ValueError(f"may_match_nothing names {unknown[0]!r}, which is none of {names}")

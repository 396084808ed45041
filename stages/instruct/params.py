"""The instruct section of `params.yaml`: the data sets of the mix, where their rows come from, and what none may be."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated

from stages._packages import Package
from stages._params import Fraction, OneOf, Positive, Range, Seed
from stages.instruct.tasks import TASKS

FORMATS = ("jsonl", "parquet", "wordnet", "cedict", "sayings")


@dataclass(frozen=True)
class Dataset:
    """One data set of the mix, in one language. Its rows are found in training documents, or come from files.

    Attributes:
        task: what is asked; of documents one of `tasks.TASKS`, and the wordings of that name in templates.yaml unless `form`
            or `templates` says otherwise.
        lang: of the answer.
        sources: ids of the corpus sources in whose training documents the task looks for examples.
        cap: most samples taken from it (null: all), so that a large data set does not drown the others. GLM-130B: 100,000 for
            a data set of T0, 200,000 for one of DeepStruct, 500,000 for two of these (paper, appendix C.1).
        files: shell patterns of labelled files: relative to the project (then declared in dvc.yaml), absolute, or names of
            members of `package`; `!pattern` leaves some out, by their names below the first wildcard. The format follows from
            the name unless `format` says it.
        package: whose members `files` are.
        form: `fields`: a row holds fields that a template words; `prompted`: it holds prompt and target, as T0's does.
        columns: by variable of the template, the row's field that fills it (`a.b` goes into a nested one); empty takes all
            fields under their own names. A `prompted` row has the variables prompt, target and (if it can) template.
        templates: a file of PromptSource templates, declared in dvc.yaml where it is relative.
        licence: of the files: SPDX expression or LicenseRef. Null where nobody has cleared it yet: the stage then refuses it.
        rights: why this licence holds.
        aliases: other names by which an evaluation may call it.
        sha256: digests by file name, as the patterns find them; another digest is refused.
    """

    name: str
    task: str
    lang: Annotated[str, OneOf("en", "zh")]
    sources: tuple[str, ...] = ()
    cap: Positive | None = 100_000
    files: tuple[str, ...] = ()
    package: Package | None = None
    format: Annotated[str, OneOf(*FORMATS)] | None = None
    form: Annotated[str, OneOf("fields", "prompted")] = "fields"
    columns: dict[str, str] = field(default_factory=dict)
    templates: str | None = None
    licence: str | None = None
    rights: str = ""
    aliases: tuple[str, ...] = ()
    sha256: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.+-]+", self.name):
            raise ValueError(f"data set {self.name!r}: a name is letters, digits, '.', '_', '-' and '+'")
        if bool(self.sources) == bool(self.files):
            raise ValueError(f"data set {self.name!r} needs sources (of training documents) or files, and not both")
        if self.sources:
            extra = [name for name in ("package", "columns", "templates", "format", "sha256") if getattr(self, name)]
            if extra or self.form != "fields":
                raise ValueError(f"data set {self.name!r}: {(extra or ['form'])[0]} is for data sets of files")
            if self.task not in TASKS:
                raise ValueError(f"data set {self.name!r}: task {self.task!r} is unknown; allowed: {', '.join(TASKS)}")
        elif self.form == "prompted" and self.templates:
            raise ValueError(f"data set {self.name!r}: what is prompted already takes no templates")
        elif self.form == "fields" and not self.templates and "text" not in self.columns:
            raise ValueError(f"data set {self.name!r}: columns must say which field is `text` of our templates")

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that it is called."""
        return (self.name, *self.aliases, *self.sources, *([self.package.name] if self.package else []))


@dataclass(frozen=True)
class Evaluation:
    """An evaluation set in use, against whose items the rows of files are held; formats as of data sets."""

    name: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Params:
    """Section `instruct` of params.yaml.

    Attributes:
        block_length: most positions of prompt, `[MASK]`, `sop`, target and `eop` together.
        minimum_text_share: share of the block that a text keeps before its target is cut.
        truncation: what is cut of a text too long: `published` cuts the worded prompt's end, as GLM-130B did; `keep_question`
            cuts inside the template's `text`, so that a question behind it survives (where our own templates word it).
        evaluation_sets: names that no data set and no source of the mix may bear ...
        allowed_overlaps: ... but these.
        evaluations: their files, to be recognised by content too.
        overlap_units: units (words, Han characters) in a row that a row shares with an evaluation item to overlap with it.
        max_overlap_share: of a data set's samples that may overlap with one evaluation set before it counts as that set; the
            samples themselves are left out.
    """

    seed: Seed
    block_length: Annotated[int, Range(16, 131_072)]
    minimum_text_share: Fraction
    datasets: tuple[Dataset, ...]
    evaluation_sets: tuple[str, ...]
    allowed_overlaps: tuple[str, ...] = ()
    truncation: Annotated[str, OneOf("published", "keep_question")] = "keep_question"
    evaluations: tuple[Evaluation, ...] = ()
    overlap_units: Annotated[int, Range(5, 64)] = 13
    max_overlap_share: Fraction = 0.01

    def __post_init__(self) -> None:
        used = [evaluation.name for evaluation in self.evaluations]
        for kind, names in (("data sets", [dataset.name for dataset in self.datasets]), ("evaluations", used)):
            repeated = [name for name, count in Counter(names).items() if count > 1]
            if repeated:
                raise ValueError(f"two {kind} are named {repeated[0]!r}")
        sets = (*self.evaluation_sets, *used)
        evaluated = {folded(name) for name in sets if not self.allows(name)}
        for dataset in self.datasets:
            for name in dataset.names:
                if folded(name) in evaluated:
                    raise ValueError(f"data set {dataset.name!r} trains on {name!r}, which is an evaluation set{LESSON}")

    def allows(self, evaluation: str) -> bool:
        """Whether a data set may be this evaluation set."""
        return folded(evaluation) in {folded(name) for name in self.allowed_overlaps}


LESSON = (
    " (GLM-130B trained its first 23,000 steps or so on the evaluation sections of T0++ by this mistake: paper, appendix C.1); "
    "leave it out, or name it in allowed_overlaps and report its score as a training score"
)


def folded(name: str) -> str:
    """Names of data sets are compared without case and without the difference between `-`, `_` and `/`."""
    return re.sub(r"[-_/]+", "-", name.casefold())

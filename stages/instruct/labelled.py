"""Samples from files of labelled rows: each collection of files is read twice, to choose and to word what is chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages import _takedowns
from stages._errors import StageError
from stages._manifest import canonical
from stages._runner import StageIO
from stages.instruct.choosing import Choice
from stages.instruct.fitting import Worded, plain, word
from stages.instruct.mix import Mix, Pending, Tables
from stages.instruct.overlap import Evaluations, check_share, strings
from stages.instruct.params import Dataset, Params
from stages.instruct.prompts import PromptSource, Template, load_promptsource
from stages.instruct.rows import File, find

_CHUNK = 2048  # rows
_PREPARED = (  # names under which prompt and target of prepared rows are known: T0's training sets, then others
    ("inputs_pretokenized", "targets_pretokenized"),
    ("inputs", "targets"),
    ("prompt", "completion"),
    ("prompt", "target"),
)
Wordings = list[Template] | list[PromptSource]


class Collection:
    """Files that one or several data sets read: their rows are documents, named once however many samples they give."""

    def __init__(self, datasets: list[Dataset], files: list[File], params: Params, stones: _takedowns.Tombstones) -> None:
        self.datasets, self.files, self._params, self._stones = datasets, files, params, stones
        self.source = datasets[0].package.name if datasets[0].package else datasets[0].name
        self.choices = [Choice(params.seed, dataset) for dataset in datasets]
        self.passed = [0] * len(datasets)

    def choose(self) -> None:
        """Decide which rows each data set takes."""
        for doc_id, row, place in self._rows():
            for index, choice in enumerate(self.choices):
                if fields(row, choice.dataset, place) is None:
                    self.passed[index] += 1
                else:
                    choice.offer(doc_id, 0)
        for choice in self.choices:
            choice.close()

    def taken(self) -> Iterator[tuple[str, dict[str, Any], tuple[str, str], list[tuple[Choice, int]]]]:
        """(doc_id, row, place, choices that take it with the draw for its wording) of every row that is taken."""
        for doc_id, row, place in self._rows():
            takers = [
                (choice, wording)
                for choice in self.choices
                if (wording := choice.take(doc_id, 0)) is not None and fields(row, choice.dataset, place) is not None
            ]
            if takers:
                yield doc_id, row, place, takers

    def _rows(self) -> Iterator[tuple[str, dict[str, Any], tuple[str, str]]]:
        for file in self.files:
            for name, row in file.rows():
                doc_id, place = f"{self.source}/{file.label}#{name}", (file.label, name)
                if not (self._stones and self._stones.names(doc_id, hashlib.sha256(_raw(row, place)).hexdigest())):
                    yield doc_id, row, place


class Labelled:
    """Chooses, words and writes what comes from files; the rows get numbers of their own, behind the training documents'."""

    def __init__(
        self, mix: Mix, tables: Tables, first_index: int, templates: Mapping[tuple[str, str], list[Template]], stage: StageIO
    ) -> None:
        self._mix, self._tables, self._next = mix, tables, first_index
        self._params, self._stage = mix.params, stage
        for dataset in mix.params.datasets:
            if dataset.files and dataset.licence is None:
                raise StageError(
                    f"data set {dataset.name!r} states no licence",
                    file="params.yaml",
                    remedy="find out under which licence it may be trained on and state it, or leave the data set out",
                )
        self._evaluations = Evaluations(mix.params, stage)
        self._stones = _takedowns.of_stage(stage)
        self._wordings = {
            dataset.name: wordings(dataset, templates, stage)
            for dataset in mix.params.datasets
            if dataset.files and dataset.form == "fields"
        }

    def run(self) -> None:
        """Write the samples of every data set of files.

        Raises:
            StageError: a data set without rows, a row that its template cannot word, or an evaluation set.
        """
        for collection in self._collections():
            collection.choose()
            for choice, passed in zip(collection.choices, collection.passed, strict=True):
                self._open(choice, passed, collection)
            waiting: list[tuple[str, bytes, list[Pending]]] = []
            rows = self._stage.track(collection.taken(), f"wording {collection.source}", unit="rows")
            for doc_id, row, place, takers in rows:
                waiting.append((doc_id, _raw(row, place), [self._word(doc_id, row, place, *taker) for taker in takers]))
                if len(waiting) == _CHUNK:
                    self._flush(waiting, collection)
                    waiting = []
            self._flush(waiting, collection)
            for dataset in collection.datasets:
                self._close(dataset)

    def _collections(self) -> Iterator[Collection]:
        groups: dict[str, list[Dataset]] = {}
        for dataset in self._params.datasets:
            if dataset.files:
                package = dataset.package
                key = canonical([package.sha256, dataset.files, dataset.format]) if package else dataset.name
                groups.setdefault(key, []).append(dataset)
        for datasets in groups.values():
            yield Collection(datasets, find(datasets[0], self._stage), self._params, self._stones)

    def _open(self, choice: Choice, passed: int, collection: Collection) -> None:
        tally = self._mix.tallies[choice.dataset.name]
        tally.available, tally.files = choice.available, collection.files
        tally.counts["passed"] = passed
        if not choice.available:
            raise StageError(
                f"data set {choice.dataset.name!r}: no row has all the fields {', '.join(choice.dataset.columns.values())}",
                file=collection.files[0].label,
                remedy="correct its columns in params.yaml",
            )

    def _close(self, dataset: Dataset) -> None:
        tally = self._mix.tallies[dataset.name]
        seen = tally.counts["samples"] + tally.counts["overlapping"]
        check_share(dataset.name, tally.overlaps, seen, self._params)
        if not tally.counts["samples"]:
            raise StageError(
                f"data set {dataset.name!r}: {tally.counts['unworded']} rows are worded by no template, "
                f"{tally.counts['overlapping']} overlap with an evaluation set: nothing is left",
                file=tally.files[0].label,
                remedy="correct its templates, or leave it out",
            )

    def _word(self, doc_id: str, row: dict[str, Any], place: tuple[str, str], choice: Choice, wording: int) -> Pending:
        """The example in words; a Pending without template where none words it."""
        dataset = choice.dataset
        variables = fields(row, dataset, place) or {}
        document = {"doc_id": doc_id, "licence": dataset.licence}
        name, worded = self._wording(dataset, variables, wording, place)
        return Pending(choice, name, document, 0, worded, list(strings(row)) if self._evaluations.names else [])

    def _wording(self, dataset: Dataset, variables: dict[str, Any], wording: int, place: tuple[str, str]) -> tuple[str, Worded]:
        import jinja2

        lead = " " if dataset.lang == "en" else ""  # the blank before a target's first word belongs to it
        if dataset.form == "prompted":
            name = str(variables.get("template") or Path(place[0]).with_suffix("").as_posix())
            return name, plain(variables["prompt"].rstrip(), lead + variables["target"].strip(), self._params)
        found = self._wordings[dataset.name]
        for step in range(len(found)):
            template = found[(wording + step) % len(found)]
            try:
                if isinstance(template, Template):
                    return template.name, word(template, variables, self._params)
                rendered = template.render(variables, wording >> 8)
            except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
                raise StageError(
                    f"data set {dataset.name!r}, template {template.name!r}: {type(error).__name__}: {error}",
                    file=place[0],
                    row=place[1],
                    remedy="correct the template, or the data set's columns",
                ) from error
            if rendered:
                return template.name, plain(rendered[0], lead + rendered[1], self._params)
        return "", plain("", "", self._params)

    def _flush(self, waiting: list[tuple[str, bytes, list[Pending]]], collection: Collection) -> None:
        """Write rows: those that overlap with an evaluation set, and those that no template words, are counted alone."""
        overlapping = self._overlapping([pendings[0].texts for _, _, pendings in waiting])
        numbers: dict[str, int] = {}
        writing: list[Pending] = []
        for (doc_id, _, pendings), names in zip(waiting, overlapping, strict=True):
            kept = []
            for pending in pendings:
                tally = self._mix.tallies[pending.choice.dataset.name]
                tally.overlaps.update(names)
                refused = [name for name in names if not self._params.allows(name)]
                if not pending.template:
                    tally.counts["unworded"] += 1
                elif refused:
                    tally.counts["overlapping"] += 1
                else:
                    kept.append(pending)
            if kept:
                numbers[doc_id] = self._next
                self._next += 1
                writing += kept
        lengths = self._mix.write(writing, numbers)
        for doc_id, raw, pendings in waiting:
            if doc_id in numbers:
                dataset = pendings[0].choice.dataset
                self._tables.add(
                    "documents",
                    {
                        "doc_index": numbers[doc_id],
                        "doc_id": doc_id,
                        "source": collection.source,
                        "lang": dataset.lang,
                        "licence": dataset.licence,
                        "length": lengths[doc_id],
                        "bytes": len(raw),
                        "raw_sha256": hashlib.sha256(raw).hexdigest(),
                    },
                )

    def _overlapping(self, texts: list[list[str]]) -> list[list[str]]:
        found = self._evaluations.matches(texts)
        names = self._evaluations.names
        return [[name for index, name in enumerate(names) if found[index, row]] for row in range(len(texts))]


def _raw(row: dict[str, Any], place: tuple[str, str]) -> bytes:
    """A row as canonical JSON, of which its hash is made.

    Raises:
        StageError: it holds what JSON has no form for.
    """
    try:
        return canonical(row).encode()
    except (TypeError, ValueError) as error:
        remedy = "make it text or a finite number, or leave the column out"
        raise StageError(f"the row cannot be told as JSON: {error}", file=place[0], row=place[1], remedy=remedy) from error


def wordings(dataset: Dataset, templates: Mapping[tuple[str, str], list[Template]], stage: StageIO) -> Wordings:
    """The templates of a data set of fields.

    Raises:
        StageError: there are none.
    """
    if dataset.templates is None:
        return our_wordings(dataset, templates)
    path = Path(dataset.templates)
    return load_promptsource(path if path.is_absolute() else stage.input(dataset.templates))


def our_wordings(dataset: Dataset, templates: Mapping[tuple[str, str], list[Template]]) -> list[Template]:
    """Our templates of its task, in its language.

    Raises:
        StageError: there are none.
    """
    if (dataset.task, dataset.lang) not in templates:
        raise StageError(
            f"data set {dataset.name!r}: task {dataset.task!r} has no template in {dataset.lang!r}",
            file="templates.yaml",
            remedy="write one there",
        )
    return templates[dataset.task, dataset.lang]


def fields(row: dict[str, Any], dataset: Dataset, place: tuple[str, str]) -> dict[str, Any] | None:
    """The variables of a row; None where it leaves one of the fields that `columns` names empty.

    Raises:
        StageError: it has no such field at all.
    """
    if dataset.form == "prompted":
        return _prepared(row, dataset, place)
    if not dataset.columns:
        return row
    found = {variable: _value(row, path, dataset, place) for variable, path in dataset.columns.items()}
    if any(value is None or value == "" for value in found.values()):
        return None
    return found if dataset.templates else {name: str(value) for name, value in found.items()}


def _prepared(row: dict[str, Any], dataset: Dataset, place: tuple[str, str]) -> dict[str, Any] | None:
    columns = dataset.columns
    if "prompt" not in columns:
        known = next((pair for pair in _PREPARED if row.keys() >= set(pair)), None)
        if known is None:
            raise _no_field(f"{_PREPARED[0][0]!r} and {_PREPARED[0][1]!r}", row, dataset, place)
        columns = {"prompt": known[0], "target": known[1]} | columns
    found = {variable: _value(row, path, dataset, place) for variable, path in columns.items()}
    for name in ("prompt", "target"):
        value = found[name]
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value is not None and not isinstance(value, str):
            kind = "token ids of another tokenizer" if isinstance(value, list) else type(value).__name__
            raise StageError(
                f"data set {dataset.name!r}: field {columns[name]!r} holds {kind}, not one text",
                file=place[0],
                row=place[1],
                remedy=f"name the field that holds the {name} in columns",
            )
        found[name] = value
    return found if found["prompt"] and found["prompt"].strip() and found["target"] and found["target"].strip() else None


def _value(row: dict[str, Any], path: str, dataset: Dataset, place: tuple[str, str]) -> Any:
    value: Any = row
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            if dataset.format in ("wordnet", "cedict", "sayings"):  # their rows leave out what a sense does not have
                return None
            raise _no_field(repr(path), row, dataset, place)
        value = value[key]
    return value


def _no_field(wanted: str, row: dict[str, Any], dataset: Dataset, place: tuple[str, str]) -> StageError:
    return StageError(
        f"data set {dataset.name!r}: the row has no field {wanted}; it has {', '.join(map(str, row))}",
        file=place[0],
        row=place[1],
        remedy="correct its columns in params.yaml",
    )

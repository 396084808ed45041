"""Takes the stage's steps: samples from training documents, then samples from files, then the register."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from stages import _texts
from stages._documents import opened, read_batches, read_documents
from stages._manifest import canonical, write_atomic
from stages._runner import StageError, StageIO
from stages.instruct.choosing import Choice
from stages.instruct.fitting import fit, word
from stages.instruct.labelled import Labelled, our_wordings
from stages.instruct.mix import DOCUMENTS, SAMPLES, Mix, Pending, Tables
from stages.instruct.params import Dataset, Params
from stages.instruct.prompts import Template, load_templates
from stages.instruct.tasks import TASKS, Example

__all__ = ["DOCUMENTS", "SAMPLES", "Dataset", "Params", "Template", "fit", "load_templates", "run"]
_CHUNK = 2048  # documents


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Write samples.parquet, documents.parquet and registry.json; return counts by data set."""
    templates = load_templates()
    tables = Tables(io.output)
    mix = Mix(params, _texts.load_tokenizer(str(io.input(_texts.MODEL))), tables, io.settings.processes)
    table = io.input("data/encode/train.documents.parquet")
    with opened(table) as encoded:
        labelled = Labelled(mix, tables, encoded.metadata.num_rows, templates, io)
    _from_documents(params, io, mix, templates, table)
    labelled.run()
    tables.close()
    registry = mix.registry()
    write_atomic(io.output / "registry.json", canonical(registry))
    return {
        "samples": tables.rows["samples"],
        "documents": tables.rows["documents"],
        "datasets": {entry["name"]: entry["samples"] for entry in registry},
    }


def _from_documents(
    params: Params, io: StageIO, mix: Mix, templates: dict[tuple[str, str], list[Template]], table: Path
) -> None:
    """Two passes over the training documents: one chooses, one words and writes, in the order of the documents."""
    folder = io.input("data/decontaminate/train")
    choices = [Choice(params.seed, dataset) for dataset in params.datasets if dataset.sources]
    if not choices:
        return
    for document in io.track(read_documents(folder), "looking for examples", unit="documents"):
        for choice in choices:
            for number, _ in examples(document, choice.dataset):
                choice.offer(document["doc_id"], number)
    for choice in choices:
        choice.close()
        mix.tallies[choice.dataset.name].available = choice.available
        if not choice.available:
            raise StageError(
                f"data set {choice.dataset.name!r}: task {choice.dataset.task!r} finds no example in "
                f"{', '.join(choice.dataset.sources)}",
                file="data/decontaminate/train/documents",
                remedy="correct its task, lang and sources in params.yaml, or leave it out",
            )
    wordings = {choice.dataset.name: our_wordings(choice.dataset, templates) for choice in choices}
    waiting: list[Pending] = []
    numbers: dict[str, int] = {}
    for doc_index, document in io.track(numbered(read_documents(folder), table), "wording samples", unit="documents"):
        numbers[document["doc_id"]] = doc_index
        origin = {name: document[name] for name in ("doc_id", "licence")}
        for choice in choices:
            for number, example in examples(document, choice.dataset):
                wording = choice.take(document["doc_id"], number)
                if wording is not None:
                    mine = wordings[choice.dataset.name]
                    template = mine[wording % len(mine)]
                    waiting.append(Pending(choice, template.name, origin, number, word(template, example, params)))
        if len(numbers) == _CHUNK or len(waiting) >= _CHUNK:
            mix.write(waiting, numbers)
            waiting, numbers = [], {}
    mix.write(waiting, numbers)


def examples(document: dict[str, Any], dataset: Dataset) -> Iterator[tuple[int, Example]]:
    """The data set's numbered examples in one document; none where source or language is another."""
    if document["source"] in dataset.sources and document["lang"] == dataset.lang:
        yield from enumerate(TASKS[dataset.task](document))


def numbered(documents: Iterable[dict[str, Any]], table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each document with its doc_index in the encode stage's table.

    Raises:
        StageError: the table is of other documents.
    """
    rows = (row for batch in read_batches(table, ["doc_index", "doc_id"]) for row in batch.to_pylist())
    for document, row in zip_longest(documents, rows):
        if document is None or row is None or document["doc_id"] != row["doc_id"]:
            raise StageError(
                "the table of encoded documents is not of these training documents",
                file=f"data/encode/{table.name}",
                row=row and row["doc_index"],
                remedy="run `dvc repro`, which encodes them first",
            )
        yield row["doc_index"], document

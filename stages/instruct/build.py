"""Chooses examples under each data set's cap, words them, fits them to a block, and writes them."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from model.tokenizer import Tokenizer
from stages._documents import read_documents, write_table
from stages._manifest import canonical
from stages._params import Fraction, OneOf, Positive, Range, Seed, to_plain
from stages._runner import StageError, StageIO
from stages.instruct.tasks import TASKS, Example

TEMPLATES = Path(__file__).with_name("templates.yaml")
MASK = "[MASK]"
SAMPLES = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("template", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("doc_index", pa.int64(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("target_ids", pa.list_(pa.int32()), nullable=False),
    ]
)


@dataclass(frozen=True)
class Dataset:
    """One data set of the mix: a task over the documents of some sources, in one language.

    Attributes:
        cap: most samples taken from it (null: all), so that a large data set does not drown the others.
    """

    name: str
    task: Annotated[str, OneOf(*TASKS)]
    lang: Annotated[str, OneOf("en", "zh")]
    sources: tuple[str, ...]
    cap: Positive | None


@dataclass(frozen=True)
class Params:
    """Section `instruct` of params.yaml.

    Attributes:
        block_length: most positions of prompt, `[MASK]`, `sop`, target and `eop` together.
        minimum_text_share: share of the block that a text keeps before its target is cut.
        evaluation_sets: names that no data set and no source of the mix may bear ...
        allowed_overlaps: ... but these.
    """

    seed: Seed
    block_length: Annotated[int, Range(16, 131_072)]
    minimum_text_share: Fraction
    datasets: tuple[Dataset, ...]
    evaluation_sets: tuple[str, ...]
    allowed_overlaps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        repeated = [name for name, count in Counter(dataset.name for dataset in self.datasets).items() if count > 1]
        if repeated:
            raise ValueError(f"two data sets are named {repeated[0]!r}")
        evaluated = {_folded(name) for name in self.evaluation_sets} - {_folded(name) for name in self.allowed_overlaps}
        for dataset in self.datasets:
            for name in (dataset.name, *dataset.sources):
                if _folded(name) in evaluated:
                    raise ValueError(
                        f"data set {dataset.name!r} trains on {name!r}, which is an evaluation set; leave it out, or name it "
                        "in allowed_overlaps and report its score as a training score"
                    )


class Template:
    """One prompt in Jinja, cut at its `[MASK]` into prompt and target before anything is filled in."""

    def __init__(self, name: str, source: str) -> None:
        import jinja2

        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)
        before, mask, behind = source.partition(MASK)
        if not mask or MASK in behind:
            raise StageError(f"template {name} needs exactly one {MASK}", file=TEMPLATES.name)
        self.name = name
        self._prompt, self._target = environment.from_string(before), environment.from_string(behind)

    def prompt(self, example: Example) -> str:
        """The text before the mask."""
        return self._prompt.render(example)

    def target(self, example: Example) -> str:
        """The text behind the mask."""
        return self._target.render(example)


@dataclass(frozen=True)
class Fitted:
    """A worded example that fits a block."""

    prompt: str
    target: str
    prompt_ids: list[int]
    target_ids: list[int]
    text_cut: bool
    target_cut: bool


def load_templates(file: Path = TEMPLATES) -> dict[tuple[str, str], list[Template]]:
    """Templates by (task, language), in the order of the file."""
    described = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {
        (task, lang): [Template(f"{task}.{lang}.{name}", source) for name, source in wordings.items()]
        for task, languages in described.items()
        for lang, wordings in languages.items()
    }


def fit(template: Template, example: Example, tokenizer: Tokenizer, params: Params) -> Fitted:
    """Word an example within `block_length` positions.

    The published rule: where text and target are too long, keep the head of the text, at least a quarter of the block of
    it, then cut the target. GLM-130B cuts the rendered prompt's end; here the cut falls inside `text`, so that a question
    that stands behind it survives.

    Raises:
        StageError: the template's own words leave no room for a target.
    """
    target_ids = tokenizer.encode(template.target(example))
    room = params.block_length - 3  # [MASK], sop, eop
    text = example["text"][: 16 * room]  # more than ever fits; spares encoding a whole chapter
    text_ids = tokenizer.encode(text)
    words = len(tokenizer.encode(template.prompt(example | {"text": ""})))
    least = words + min(len(text_ids), int(params.minimum_text_share * params.block_length))
    if least >= room:
        raise StageError(
            f"template {template.name} needs {least} of {room} tokens before any target",
            file=TEMPLATES.name,
            remedy="shorten the template, raise instruct.block_length, or lower instruct.minimum_text_share",
        )
    prompt_room, keep = max(room - len(target_ids), least), len(text_ids)
    while True:
        prompt = template.prompt(example | {"text": text})
        prompt_ids = tokenizer.encode(prompt)
        excess = len(prompt_ids) - prompt_room
        if excess <= 0:
            break
        keep = max(0, keep - excess)
        text = tokenizer.decode_bytes(text_ids[:keep]).decode(errors="ignore").rstrip()
    kept = target_ids[: room - len(prompt_ids)]
    return Fitted(
        prompt=prompt,
        target=tokenizer.decode(kept),
        prompt_ids=[*prompt_ids, tokenizer.special.mask],
        target_ids=kept,
        text_cut=text != example["text"],
        target_cut=len(kept) < len(target_ids),
    )


def draw(seed: int, dataset: str, doc_id: str, number: int) -> tuple[int, int]:
    """Two numbers of an example's own, of 64 bits each: one chooses examples under a cap, one the wording."""
    digest = hashlib.sha256(f"{seed}\n{dataset}\n{doc_id}\n{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")


def examples(document: dict[str, Any], dataset: Dataset) -> Iterator[tuple[int, Example]]:
    """The data set's numbered examples in one document; none where source or language is another."""
    if document["source"] in dataset.sources and document["lang"] == dataset.lang:
        yield from enumerate(TASKS[dataset.task](document))


def thresholds(documents: Iterable[dict[str, Any]], params: Params) -> tuple[list[float], list[int]]:
    """Per data set: the draw up to which examples are taken so that `cap` of them are, and how many there are in all."""
    smallest: list[list[int]] = [[] for _ in params.datasets]  # heaps of negated draws: the largest kept one on top
    available = [0] * len(params.datasets)
    for document in documents:
        for index, dataset in enumerate(params.datasets):
            for number, _ in examples(document, dataset):
                available[index] += 1
                key = -draw(params.seed, dataset.name, document["doc_id"], number)[0]
                if dataset.cap is not None and len(smallest[index]) < dataset.cap:
                    heapq.heappush(smallest[index], key)
                elif dataset.cap is not None:
                    heapq.heappushpop(smallest[index], key)
    limits = [
        float("inf") if dataset.cap is None or count <= dataset.cap else -heap[0]
        for dataset, heap, count in zip(params.datasets, smallest, available, strict=True)
    ]
    return limits, available


class Mix:
    """Words the chosen examples of each document and counts what it made, data set by data set."""

    def __init__(self, params: Params, tokenizer: Tokenizer, limits: list[float]) -> None:
        self.params, self.tokenizer, self.limits = params, tokenizer, limits
        self.templates = load_templates()
        for dataset in params.datasets:
            if (dataset.task, dataset.lang) not in self.templates:
                raise StageError(
                    f"data set {dataset.name!r}: task {dataset.task!r} has no template in {dataset.lang!r}",
                    file=TEMPLATES.name,
                    remedy="write one there",
                )
        self.counts: list[Counter[str]] = [Counter() for _ in params.datasets]
        self.licences: list[set[str]] = [set() for _ in params.datasets]

    def samples(self, document: dict[str, Any], doc_index: int) -> Iterator[dict[str, Any]]:
        """Rows of the samples table from one document."""
        for index, dataset in enumerate(self.params.datasets):
            for number, example in examples(document, dataset):
                rank, choice = draw(self.params.seed, dataset.name, document["doc_id"], number)
                if rank > self.limits[index]:
                    continue
                templates = self.templates[dataset.task, dataset.lang]
                template = templates[choice % len(templates)]
                fitted = fit(template, example, self.tokenizer, self.params)
                self.counts[index].update(samples=1, texts_cut=fitted.text_cut, targets_cut=fitted.target_cut)
                self.licences[index].add(document["licence"])
                yield {
                    "sample_id": f"{dataset.name}/{document['doc_id']}/{number}",
                    "dataset": dataset.name,
                    **{name: document[name] for name in ("licence", "lang", "doc_id")},
                    "template": template.name,
                    "doc_index": doc_index,
                    **{name: getattr(fitted, name) for name in ("prompt", "target", "prompt_ids", "target_ids")},
                }

    def registry(self, available: list[int]) -> list[dict[str, Any]]:
        """One entry per data set: what it is, under which licences, how much of it there is and was taken."""
        return [
            {
                **to_plain(dataset),
                "licences": sorted(self.licences[index]),
                "available": available[index],
                **{name: self.counts[index][name] for name in ("samples", "texts_cut", "targets_cut")},
            }
            for index, dataset in enumerate(self.params.datasets)
        ]


def numbered(documents: Iterable[dict[str, Any]], table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each document with its doc_index in the encode stage's table.

    Raises:
        StageError: the table is of other documents.
    """
    batches = pq.ParquetFile(table).iter_batches(columns=["doc_index", "doc_id"])
    rows = (row for batch in batches for row in batch.to_pylist())
    for document, row in zip_longest(documents, rows):
        if document is None or row is None or document["doc_id"] != row["doc_id"]:
            raise StageError(
                "the table of encoded documents is not of these training documents",
                file=f"data/encode/{table.name}",
                row=row and row["doc_index"],
                remedy="run `dvc repro`, which encodes them first",
            )
        yield row["doc_index"], document


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Two passes over the documents: one chooses, one words and writes, in the order of the documents."""
    folder = io.input("data/decontaminate/train")
    limits, available = thresholds(io.track(read_documents(folder), "looking for examples", unit="documents"), params)
    for dataset, count in zip(params.datasets, available, strict=True):
        if not count:
            raise StageError(
                f"data set {dataset.name!r}: task {dataset.task!r} finds no example in {', '.join(dataset.sources)}",
                file="data/decontaminate/train/documents",
                remedy="correct its task, lang and sources in params.yaml, or leave it out",
            )
    mix = Mix(params, Tokenizer(io.input("data/tokenizer/tokenizer.model")), limits)
    pairs = numbered(read_documents(folder), io.input("data/encode/train.documents.parquet"))
    documents = io.track(pairs, "wording samples", unit="documents")
    rows = (row for doc_index, document in documents for row in mix.samples(document, doc_index))
    samples = write_table(io.output / "samples.parquet", SAMPLES, rows)
    registry = mix.registry(available)
    (io.output / "registry.json").write_text(canonical(registry), encoding="utf-8")
    return {"samples": samples, "datasets": {entry["name"]: entry["samples"] for entry in registry}}


def _folded(name: str) -> str:
    """Names of data sets are compared without case and without the difference between `-` and `_`."""
    return name.casefold().replace("_", "-")

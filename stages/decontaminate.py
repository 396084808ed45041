"""Splits documents into train and held-out parts, and takes from train what overlaps with anything that is evaluated.

Reads: data/dedup/documents/*.parquet, data/dedup/clusters.parquet, the evaluation sets of `evaluations`
Writes: data/decontaminate/{train,heldout}/documents/*.parquet, data/decontaminate/hits.parquet
Params: decontaminate
Promises: similar documents (one group of dedup) stand on one side; every overlap stands in hits with the n-gram that shows it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from stages import _documents, _manifest, _ngrams
from stages._params import Fraction, OneOf, Positive, Seed
from stages._runner import StageError, StageIO, run_stage

HELDOUT = "heldout"
HITS = pa.schema([(name, pa.string()) for name in ("doc_id", "evaluation", "item", "ngram", "action")])


@dataclass(frozen=True)
class EvaluationSet:
    """A set of evaluation items: JSON lines (or .gz) in GLM-130B's form; `file` is relative to the project, or absolute."""

    name: str
    file: str


@dataclass(frozen=True)
class Params:
    """Parameters of this stage."""

    seed: Seed
    heldout_share: Fraction
    ngram: dict[str, Positive]
    max_documents: Positive
    action: Annotated[str, OneOf("remove", "mark")]
    evaluations: tuple[EvaluationSet, ...]

    def __post_init__(self) -> None:
        if not {"en", "zh"} <= set(self.ngram):
            raise ValueError(f"ngram needs a length for en and for zh, found {self.ngram}")
        names = [HELDOUT, *(item.name for item in self.evaluations)]
        if len(set(names)) < len(names):
            raise ValueError(f"evaluation names must differ from each other and from {HELDOUT!r}: {names[1:]}")


class Entry(NamedTuple):
    """What the split needs of a document."""

    doc_id: str
    source: str
    bytes: int
    group: str


class Item(NamedTuple):
    """What is evaluated: the evaluation's name and the item's id in it."""

    evaluation: str
    item: str


class Hit(NamedTuple):
    """One row of hits.parquet but the action: the first n-gram of the document that is also in the item."""

    doc_id: str
    evaluation: str
    item: str
    ngram: str


def split(entries: Iterable[Entry], share: float, seed: int) -> set[str]:
    """The doc_ids of the held-out part.

    For each source its groups are taken in the order of SHA-256(seed, group) until `share` of its bytes is reached. A group
    that would pass the mark by more than half of it is left out, but a source of two groups or more gives at least one, its
    smallest.
    """
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.group].append(entry)
    sources: dict[str, list[str]] = defaultdict(list)
    for name, members in groups.items():
        sources[min(member.source for member in members)].append(name)
    size = {name: sum(member.bytes for member in members) for name, members in groups.items()}
    heldout: set[str] = set()
    for names in sources.values():
        goal, taken = share * sum(size[name] for name in names), 0
        chosen = []
        for name in sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest()):
            if taken < goal and taken + size[name] <= 1.5 * goal:
                chosen.append(name)
                taken += size[name]
        if not chosen and len(names) > 1 and share > 0:
            chosen = [min(names, key=lambda name: (size[name], name))]
        heldout.update(member.doc_id for name in chosen for member in groups[name])
    return heldout


# --- evaluation sets -------------------------------------------------------------------------------------------------------


def item_texts(record: dict[str, Any]) -> tuple[str, list[str]]:
    """The text of one item in GLM-130B's form and its possible ends: input with choices and targets, or a running text.

    Raises:
        ValueError: the record has none of the fields.
    """
    running = record.get("text", record.get("text_pretokenized"))
    if isinstance(running, str):
        return running, []
    start = record.get("inputs_pretokenized")
    if isinstance(start, list):
        start = "\n".join(start)
    if not isinstance(start, str):
        raise ValueError("no inputs_pretokenized and no text")
    return start, [*(record.get("choices_pretokenized") or []), *(record.get("targets_pretokenized") or [])]


def read_items(file: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(id, text, ends) of every item of a file; an item without an `id` is named by its line, from 0."""
    opener = gzip.open if file.suffix == ".gz" else open
    number = -1
    try:
        with opener(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                if line.strip():
                    record = json.loads(line)
                    text, ends = item_texts(record)
                    yield str(record.get("id", number)), text, ends
    except (OSError, EOFError) as error:
        raise StageError(f"cannot read evaluation set: {error}", file=file, remedy="see decontaminate.evaluations") from error
    except (ValueError, AttributeError, TypeError) as error:
        form = "one JSON object a line, with inputs_pretokenized and choices_pretokenized or targets_pretokenized, or with text"
        raise StageError(f"not an evaluation item: {error}", file=file, row=number, remedy=form) from error


def sequence_language(sequence: list[str]) -> str:
    """`zh` where at least half of the units are of an unspaced script, else `en`."""
    return "zh" if 2 * sum(map(_ngrams.is_unspaced, sequence)) >= len(sequence) else "en"


# --- overlap ---------------------------------------------------------------------------------------------------------------


class Index:
    """Where each n-gram of the evaluated texts occurs."""

    def __init__(self, ngram: dict[str, int]) -> None:
        self.ngram = ngram
        self.first: dict[str, Item] = {}
        self.others: dict[str, dict[Item, None]] = {}  # apart, because few n-grams occur in more than one item
        self.short = Counter[str]()

    def add(self, item: Item, text: str, ends: Iterable[str] = (), lang: str | None = None) -> None:
        """Enter an item: its text followed by each of its `ends`. One shorter than an n-gram cannot be found and is counted."""
        sequence = _ngrams.units(text)
        tails = [_ngrams.units(end) for end in ends]
        n = self.ngram[lang or sequence_language(sequence or list(chain(*tails)))]
        joints = ([*sequence[-n + 1 :], *tail] if n > 1 else tail for tail in tails)
        found = False
        for gram in chain(_ngrams.ngrams(sequence, n), *(_ngrams.ngrams(joint, n) for joint in joints)):
            found = True
            if self.first.setdefault(gram, item) != item:
                self.others.setdefault(gram, {})[item] = None
        self.short[item.evaluation] += not found

    def items(self, gram: str) -> list[Item]:
        """The items in which an n-gram of the index occurs."""
        return [self.first[gram], *self.others.get(gram, {})]

    def overlaps(self, text: str, lang: str) -> list[str]:
        """The different n-grams of a text that are in the index, in order of appearance."""
        grams = _ngrams.ngrams(_ngrams.units(text), self.ngram[lang])
        return list(dict.fromkeys(gram for gram in grams if gram in self.first))


def find_hits(overlaps: dict[str, list[str]], index: Index, max_documents: int) -> tuple[list[Hit], set[str]]:
    """Hits of the documents whose n-grams (by doc_id) are in the index, and the n-grams that are formulas.

    An n-gram in more than `max_documents` training documents is a common formula rather than a leak, and makes no hit (GPT-3,
    appendix C: more than 10).
    """
    spread = Counter(gram for grams in overlaps.values() for gram in grams)
    formulas = {gram for gram, documents in spread.items() if documents > max_documents}
    hits = []
    for doc_id, grams in overlaps.items():
        first: dict[Item, str] = {}
        for gram in grams:
            if gram not in formulas:
                for item in index.items(gram):
                    first.setdefault(item, gram)
        hits += [Hit(doc_id, *item, gram) for item, gram in sorted(first.items())]
    return hits, formulas


# --- the stage -------------------------------------------------------------------------------------------------------------


def _entries(rows: Iterable[dict[str, Any]], groups: dict[str, str], languages: Iterable[str]) -> list[Entry]:
    entries = []
    for row in rows:
        if row["lang"] not in languages:
            file, remedy = f"{row['source']}-*.parquet", "add it to decontaminate.ngram"
            raise StageError(f"no n-gram length for language {row['lang']!r}", file=file, row=row["doc_id"], remedy=remedy)
        group = groups.get(row["doc_id"], row["doc_id"])
        entries.append(Entry(row["doc_id"], row["source"], len(row["text"].encode()), group))
    return entries


def _evaluation_index(params: Params, io: StageIO) -> tuple[Index, dict[str, dict[str, Any]]]:
    index, record = Index(params.ngram), {}
    for evaluation in params.evaluations:
        file = Path(evaluation.file) if Path(evaluation.file).is_absolute() else io.input(evaluation.file)
        total = 0
        for name, text, ends in io.track(read_items(file), evaluation.name):
            index.add(Item(evaluation.name, name), text, ends)
            total += 1
        short = index.short[evaluation.name]
        if total == short:
            raise StageError(f"evaluation set {evaluation.name!r} has no item of n-gram length", file=file)
        record[evaluation.name] = {"items": total, "too_short": short, "sha256": _manifest.sha256_file(file)}
    return index, record


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Split, look for overlaps, write both sides."""
    source = io.input("data/dedup")
    clusters = pq.read_table(source / "clusters.parquet", columns=["doc_id", "group"]).to_pydict()
    groups = dict(zip(clusters["doc_id"], clusters["group"], strict=True))
    index, evaluations = _evaluation_index(params, io)
    entries = _entries(_documents.read_documents(source), groups, params.ngram)
    heldout = split(entries, params.heldout_share, params.seed)
    for row in _documents.read_documents(source):
        if row["doc_id"] in heldout:
            index.add(Item(HELDOUT, row["doc_id"]), row["text"], lang=row["lang"])
    overlaps = {}
    with io.progress("looking for overlaps", sum(entry.bytes for entry in entries) / 1e6, "MB") as progress:
        for row, entry in zip(_documents.read_documents(source), entries, strict=True):
            progress.advance(entry.bytes / 1e6)
            found = index.overlaps(row["text"], row["lang"]) if row["doc_id"] not in heldout else []
            if found:
                overlaps[row["doc_id"]] = found
    hits, formulas = find_hits(overlaps, index, params.max_documents)
    _documents.write_table(io.output / "hits.parquet", HITS, ({**hit._asdict(), "action": params.action} for hit in hits))
    removed = {hit.doc_id for hit in hits} if params.action == "remove" else set()
    sides = _write_sides(io, heldout, removed)
    return {
        "documents_in": len(entries),
        **sides,
        "contaminated": _by_source(entries, {hit.doc_id for hit in hits}),
        "removed": len(removed),
        "hits": dict(Counter(hit.evaluation for hit in hits)),
        "formulas": len(formulas),
        "evaluations": evaluations,
        "heldout_too_short": index.short[HELDOUT],
    }


def _write_sides(io: StageIO, heldout: set[str], removed: set[str]) -> dict[str, Any]:
    counts: dict[str, dict[str, Counter[str]]] = {side: defaultdict(Counter) for side in ("train", HELDOUT)}
    for file in _documents.document_files(io.input("data/dedup")):
        sides: dict[str, list[dict[str, Any]]] = {"train": [], HELDOUT: []}
        for row in _documents.read_shard(file):
            if row["doc_id"] in removed:
                continue
            side = HELDOUT if row["doc_id"] in heldout else "train"
            sides[side].append(row)
            counts[side][row["source"]].update(documents=1, bytes=len(row["text"].encode()))
        for side, rows in sides.items():
            _documents.write_shard(io.output / side / "documents" / file.name, rows)
    if not counts["train"]:
        raise StageError("no training document is left", file="data/dedup/documents", remedy="see decontaminate in params.yaml")
    return {side: {source: dict(counter) for source, counter in by.items()} for side, by in counts.items()}


def _by_source(entries: list[Entry], chosen: set[str]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        if entry.doc_id in chosen:
            counts[entry.source].update(documents=1, bytes=entry.bytes)
    return {source: dict(counter) for source, counter in counts.items()}


if __name__ == "__main__":
    run_stage("decontaminate", Params, run)

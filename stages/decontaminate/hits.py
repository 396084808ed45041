"""From candidates to hits: whose n-grams they are, which of them are formulas, and the rows of hits.parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages import _documents
from stages.decontaminate.evaluations import Item
from stages.decontaminate.params import HELDOUT
from stages.decontaminate.scan import HashSet, by_language, load_array, matches

HITS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("evaluation", pa.string()),
        ("item", pa.string()),
        ("ngram", pa.string()),
        ("action", pa.string()),
        ("method", pa.string()),
        ("start", pa.int64()),
    ]
)
OWNERS = pa.schema([("ngram", pa.string()), ("item", pa.string())])


class Hit(NamedTuple):
    """One row of hits.parquet but the action: the document's row, the item, and the first text that they have in common."""

    row: int
    evaluation: str
    item: str
    ngram: str
    method: str
    start: int


@dataclass(frozen=True)
class Naming:
    """A shard of held-out documents that may own some of the hashes in the array at `wanted`."""

    shard: str
    wanted: str
    output: str
    ngram: dict[str, int]


def name_owners(task: Naming) -> int:
    """Write (n-gram, doc_id) for every n-gram of a held-out document whose hash is wanted."""
    wanted = HashSet(load_array(task.wanted))
    rows: list[dict[str, Any]] = []
    for batch in _documents.read_batches(task.shard, ["doc_id", "lang", "text"]):
        for lang, part in by_language(batch):
            n = task.ngram[lang]
            for text, sequence, found in matches(part, wanted, n):
                doc_id = part["doc_id"][text].as_py()
                grams = dict.fromkeys(" ".join(sequence[place : place + n]) for place, _ in found)
                rows += ({"ngram": gram, "item": doc_id} for gram in grams)
    return _documents.write_table(task.output, OWNERS, rows)


class Owners:
    """The items in which each candidate's text stands."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._of: dict[str, dict[Item, None]] = {text: {} for text in texts}
        self.matched: dict[str, set[str]] = {}

    def add_documents(self, files: Iterable[str]) -> None:
        """Enter what `name_owners` found."""
        for file in files:
            for ngram, item in _rows(file, ["ngram", "item"]):
                self._enter(ngram, Item(HELDOUT, item))

    def add_set(self, evaluation: str, evaluated: str, wanted: HashSet, templates: set[str]) -> None:
        """Enter the items of an evaluation set, from its table of `EVALUATED` rows."""
        for batch in _documents.read_batches(evaluated):
            passages = batch.filter(pc.is_null(batch["n"]))
            for item, text in zip(passages["item"].to_pylist(), passages["text"].to_pylist(), strict=True):
                if text not in templates:
                    self._enter(text, Item(evaluation, item))
            for n in pc.unique(pc.drop_null(batch["n"])).to_pylist():
                part = batch.filter(pc.equal(batch["n"], n))
                for text, sequence, found in matches(part, wanted, n):
                    item = Item(evaluation, part["item"][text].as_py())
                    for place, _ in found:
                        self._enter(" ".join(sequence[place : place + n]), item)

    def items(self, text: str) -> Iterable[Item]:
        """The items of a text; none where only its hash was that of one."""
        return self._of.get(text, ())

    def _enter(self, text: str, item: Item) -> None:
        if text in self._of:
            self._of[text][item] = None
            self.matched.setdefault(item.evaluation, set()).add(item.item)


def spread(candidates: Sequence[Sequence[str]]) -> tuple[Counter[str], NDArray[np.uint64]]:
    """In how many documents each candidate's text stands, and the different hashes, sorted; `candidates` by shard and part."""
    documents: Counter[str] = Counter()
    hashes: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
    for files in candidates:
        for file in files:
            for batch in _documents.read_batches(file, ["ngram", "hash"]):
                documents.update(batch["ngram"].to_pylist())
                hashes.append(np.unique(batch["hash"].to_numpy()))
    return documents, np.unique(np.concatenate(hashes))


def find_hits(files: Iterable[str], owners: Owners, formulas: set[str]) -> Iterator[Hit]:
    """The hits of one shard: for each document and item the first text in common that is no formula.

    An n-gram in more than `max_documents` training documents is a common formula rather than a leak, and makes no hit (GPT-3,
    appendix C: more than 10).
    """
    rows = sorted(row for file in files for row in _rows(file, ["row", "start", "method", "ngram"]) if row[3] not in formulas)
    first: dict[tuple[int, Item], Hit] = {}
    for row, start, method, ngram in rows:
        for item in owners.items(ngram):
            if (row, item) not in first:
                first[row, item] = Hit(row, *item, ngram, method, start)
    return (first[key] for key in sorted(first))


def _rows(file: str, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    for batch in _documents.read_batches(file, columns):
        yield from zip(*(batch[name].to_pylist() for name in columns), strict=True)

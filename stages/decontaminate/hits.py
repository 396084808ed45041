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
from stages.decontaminate.hashes import HashSet, find, once
from stages.decontaminate.params import HELDOUT
from stages.decontaminate.scan import by_language, index

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
    owned = []
    for batch in _documents.read_batches(task.shard, ["doc_id", "lang", "text"]):
        for lang, part in by_language(batch):
            found = once(find(part["text"], task.ngram[lang], index(task.wanted)))
            columns = [found["ngram"].cast(pa.string()), part["doc_id"].take(found["text"])]
            owned.append(pa.record_batch(columns, schema=OWNERS))
    return _documents.write_batches(task.output, OWNERS, owned)


class Owners:
    """The items in which each candidate's text stands."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._of: dict[str, dict[Item, None]] = {text: {} for text in texts}
        self.matched: dict[str, set[str]] = {}

    def add_documents(self, files: Iterable[str]) -> None:
        """Enter what `name_owners` found."""
        for file in files:
            items: dict[str, Item] = {}  # one object for each: a document owns hundreds of n-grams
            for ngram, name in _rows(file, ["ngram", "item"]):
                self._enter(ngram, items.get(name) or items.setdefault(name, Item(HELDOUT, name)))

    def add_set(self, evaluation: str, evaluated: str, wanted: HashSet, templates: set[str]) -> None:
        """Enter the items of an evaluation set, from its table of `EVALUATED` rows."""
        for batch in _documents.read_batches(evaluated):
            passages = batch.filter(pc.is_null(batch["n"]))
            for item, text in zip(passages["item"].to_pylist(), passages["text"].to_pylist(), strict=True):
                if text not in templates:
                    self._enter(text, Item(evaluation, item))
            for n in pc.unique(pc.drop_null(batch["n"])).to_pylist():
                part = batch.filter(pc.equal(batch["n"], n))
                found = find(part["text"], n, wanted)
                items = part["item"].take(found["text"])
                for ngram, name in zip(found["ngram"].to_pylist(), items.to_pylist(), strict=True):
                    self._enter(ngram, Item(evaluation, name))

    def items(self, text: str) -> Iterable[Item]:
        """The items of a text; none where only its hash was that of one."""
        return self._of.get(text, ())

    def _enter(self, text: str, item: Item) -> None:
        owners = self._of.get(text)
        if owners is not None and item not in owners:
            owners[item] = None
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

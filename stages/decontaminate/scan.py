"""Where documents overlap with evaluated texts: hashed n-grams of whole record batches, confirmed by the n-grams themselves.

A 64-bit hash stands for each n-gram. What the index holds of a document is looked up batch by batch, and its candidates carry
the n-gram's text, by which their owners are found, so that no collision can make a hit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages import _documents, _ngrams, _storage
from stages.decontaminate.hashes import HashSet, find, ngram_hashes, once

CANDIDATES = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("hash", pa.uint64(), nullable=False),
        pa.field("ngram", pa.string(), nullable=False),
    ]
)
PASSAGES = pa.schema([("hash", pa.uint64()), ("lang", pa.string()), ("passage", pa.string())])


@dataclass(frozen=True)
class Scan:
    """One shard to look through.

    Attributes:
        side: address of an int8 array, one entry a document; only those of `TRAIN` are looked at.
        index: address of the sorted hashes of all evaluated n-grams of one part.
        passages: address of the table of short passages, or None.
        output: address of the candidates.
    """

    shard: str
    side: str
    index: str
    passages: str | None
    output: str
    ngram: dict[str, int]
    substring: dict[str, int] | None


# --- arrays ---------------------------------------------------------------------------------------------------------------


def save_array(address: str, array: NDArray[Any]) -> None:
    """Write an array as .npy."""
    with _storage.atomic_output(address) as stream:
        np.save(stream, array)


def load_array(address: str) -> NDArray[Any]:
    """Read an array that `save_array` wrote."""
    with _storage.open_input(address) as stream:
        return np.load(stream)


@lru_cache(maxsize=1)
def index(address: str) -> HashSet:
    """The set of the hashes in an array at an address, which many tasks name."""
    return HashSet(load_array(address))


# --- evaluated texts -------------------------------------------------------------------------------------------------------


def passage_table(passages: Sequence[tuple[str, str]], substring: dict[str, int]) -> pa.Table:
    """Passages (text, language) by the hash of their first units, as many as every passage of the language has."""
    rows = []
    for passage, lang in sorted(passages):
        n = substring[lang]
        head = " ".join(passage.split(" ")[:n])
        rows.append({"hash": int(ngram_hashes(pa.array([head]), n)[0][0]), "lang": lang, "passage": passage})
    return pa.Table.from_pylist(rows, schema=PASSAGES)


@lru_cache(maxsize=1)
def _passages(address: str) -> dict[str, tuple[HashSet, dict[int, list[list[str]]]]]:
    """By language the set of first hashes, and the passages behind each."""
    found: dict[str, dict[int, list[list[str]]]] = defaultdict(lambda: defaultdict(list))
    for row in _documents.read_shard(address):
        found[row["lang"]][row["hash"]].append(row["passage"].split(" "))
    return {lang: (HashSet(np.array(sorted(heads), np.uint64)), heads) for lang, heads in found.items()}


# --- documents -------------------------------------------------------------------------------------------------------------

TRAIN, HELDOUT_SIDE, REMOVED, TAKEN_DOWN = 0, 1, 2, 3


def side_batches(shard: str, side: NDArray[np.int8], wanted: int, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """A shard's documents whose side is `wanted`, in batches; a column `row` names their rows, unless all columns are read."""
    start = 0
    for batch in _documents.read_batches(shard, columns or _documents.SCHEMA.names):
        rows = start + np.flatnonzero(side[start : start + len(batch)] == wanted)
        taken = batch if len(rows) == len(batch) else batch.take(pa.array(rows - start))
        start += len(batch)
        if len(taken):
            yield taken if columns is None else taken.append_column("row", pa.array(rows))


def by_language(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """A batch by the language of its documents."""
    langs = sorted(pc.unique(batch["lang"]).to_pylist())
    for lang in langs:
        yield lang, batch if len(langs) == 1 else batch.filter(pc.equal(batch["lang"], lang))


def scan(task: Scan) -> dict[str, int]:
    """Write the candidates of one shard: places where a training document has an n-gram or a passage of the index."""
    wanted = index(task.index)
    passages = {} if task.passages is None else _passages(task.passages)
    documents, found = 0, [CANDIDATES.empty_table()]
    for batch in side_batches(task.shard, load_array(task.side), TRAIN, ["lang", "text"]):
        documents += len(batch)
        for lang, part in by_language(batch):
            found.append(_ngram_candidates(part, wanted, task.ngram[lang]))
            if lang in passages and task.substring is not None:
                found.append(_passage_candidates(part, *passages[lang], task.substring[lang]))
    candidates = pa.concat_tables(found).sort_by([(name, "ascending") for name in ("row", "start", "method", "ngram")])
    _documents.write_batches(task.output, CANDIDATES, candidates.to_batches())
    return {"documents": documents, "candidates": len(candidates)}


def _ngram_candidates(part: pa.RecordBatch, wanted: HashSet, n: int) -> pa.Table:
    found = once(find(part["text"], n, wanted))
    method = pa.array(["ngram"]).take(pa.array(np.zeros(len(found), np.int8)))
    columns = [part["row"].take(found["text"]), found["start"], method, found["hash"], found["ngram"].cast(pa.string())]
    return pa.table(columns, schema=CANDIDATES)


def _passage_candidates(part: pa.RecordBatch, heads: HashSet, passages: dict[int, list[list[str]]], n: int) -> pa.Table:
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    sequences: dict[int, list[str]] = {}
    for match in find(part["text"], n, heads).to_pylist():
        text, start = match["text"], match["start"]
        if text not in sequences:
            sequences = {text: _ngrams.units(part["text"][text].as_py())}
        for passage in passages[match["hash"]]:
            if sequences[text][start : start + len(passage)] == passage:
                whole = " ".join(passage)
                row = {"row": part["row"][text].as_py(), "start": start, "method": "substring", "hash": match["hash"]}
                rows.setdefault((text, whole), {**row, "ngram": whole})
    return pa.Table.from_pylist(list(rows.values()), schema=CANDIDATES)

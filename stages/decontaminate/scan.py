"""Where documents overlap with evaluated texts: hashed n-grams of whole record batches, confirmed on the units themselves.

A 64-bit hash stands for each n-gram. What the index holds of a document is looked up batch by batch; a document with a match
is then read again by `stages._ngrams`, and its candidates carry the n-gram's text, so that no collision can make a hit.
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

from stages import _documents, _ngrams, _storage, _units

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
_WHOLE = 2**62  # characters of a text that are looked at: all
Hashes = NDArray[np.uint64]


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


# --- hashes ----------------------------------------------------------------------------------------------------------------


def ngram_hashes(texts: pa.Array, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Hashes]:
    """(text, place in units, hash) of every n-gram of every text, in order; a text shorter than n gives one hash of it all."""
    hashes, splits = _units.ngram_hashes(texts, np.full(len(texts), n, np.int64), _WHOLE)
    of_text = np.repeat(np.arange(len(texts)), np.diff(splits))
    return of_text, np.arange(len(hashes)) - splits[of_text], hashes


class HashSet:
    """A set of 64-bit hashes: a table of flags answers for most that are not in it, a binary search for the rest."""

    BYTES = 24  # at most, for each hash

    def __init__(self, ordered: Hashes) -> None:
        self.ordered = ordered
        slots = 1 << max(10, (8 * len(ordered) - 1).bit_length())
        self._mask = np.uint64(slots - 1)
        self._flags = np.zeros(slots, np.bool_)
        self._flags[ordered & self._mask] = True

    def contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Which of the hashes are in the set."""
        found = self._flags[hashes & self._mask]
        maybe = np.flatnonzero(found)
        if len(maybe):
            place = np.searchsorted(self.ordered, hashes[maybe])
            found[maybe] = self.ordered[np.minimum(place, len(self.ordered) - 1)] == hashes[maybe]
        return found


def save_array(address: str, array: NDArray[Any]) -> None:
    """Write an array as .npy."""
    with _storage.atomic_output(address) as stream:
        np.save(stream, array)


def load_array(address: str) -> NDArray[Any]:
    """Read an array that `save_array` wrote."""
    with _storage.open_input(address) as stream:
        return np.load(stream)


@lru_cache(maxsize=1)
def _index(address: str) -> HashSet:
    return HashSet(load_array(address))


# --- evaluated texts -------------------------------------------------------------------------------------------------------


def passage_table(passages: Sequence[tuple[str, str]], substring: dict[str, int]) -> pa.Table:
    """Passages (text, language) by the hash of their first units, as many as every passage of the language has."""
    rows = []
    for passage, lang in sorted(passages):
        head = " ".join(passage.split(" ")[: substring[lang]])
        rows.append({"hash": _units.digest(head.encode()), "lang": lang, "passage": passage})
    return pa.Table.from_pylist(rows, schema=PASSAGES)


@lru_cache(maxsize=1)
def _passages(address: str) -> dict[str, tuple[HashSet, dict[int, list[list[str]]]]]:
    """By language the set of first hashes, and the passages behind each."""
    found: dict[str, dict[int, list[list[str]]]] = defaultdict(lambda: defaultdict(list))
    for row in _documents.read_shard(address):
        found[row["lang"]][row["hash"]].append(row["passage"].split(" "))
    return {lang: (HashSet(np.array(sorted(heads), np.uint64)), heads) for lang, heads in found.items()}


# --- documents -------------------------------------------------------------------------------------------------------------

TRAIN, HELDOUT_SIDE, REMOVED = 0, 1, 2


def side_batches(shard: str, side: NDArray[np.int8], wanted: int, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """A shard's documents whose side is `wanted`, in batches; a column `row` names their rows, unless all columns are read."""
    start = 0
    for batch in _documents.read_batches(shard, columns):
        rows = start + np.flatnonzero(side[start : start + len(batch)] == wanted)
        taken = batch.take(pa.array(rows - start))
        start += len(batch)
        if len(taken):
            yield taken if columns is None else taken.append_column("row", pa.array(rows))


def by_language(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """A batch by the language of its documents."""
    for lang in sorted(pc.unique(batch["lang"]).to_pylist()):
        yield lang, batch.filter(pc.equal(batch["lang"], lang))


def scan(task: Scan) -> dict[str, int]:
    """Write the candidates of one shard: places where a training document has an n-gram or a passage of the index."""
    index = _index(task.index)
    passages = {} if task.passages is None else _passages(task.passages)
    counts = {"documents": 0, "candidates": 0}
    rows: list[dict[str, Any]] = []
    for batch in side_batches(task.shard, load_array(task.side), TRAIN, ["lang", "text"]):
        counts["documents"] += len(batch)
        for lang, part in by_language(batch):
            rows += _ngram_candidates(part, index, task.ngram[lang])
            if lang in passages and task.substring is not None:
                rows += _passage_candidates(part, *passages[lang], task.substring[lang])
    rows.sort(key=lambda row: (row["row"], row["start"], row["method"], row["ngram"]))
    counts["candidates"] = len(rows)
    _documents.write_table(task.output, CANDIDATES, rows)
    return counts


def matches(part: pa.RecordBatch, index: HashSet, n: int) -> Iterator[tuple[int, list[str], list[tuple[int, int]]]]:
    """(number in the batch, units, [(place, hash)]) of every document of n units or more of which the index has an n-gram."""
    of_text, place, hashes = ngram_hashes(part["text"], n)
    found = np.flatnonzero(index.contains(hashes))
    texts, first = np.unique(of_text[found], return_index=True)
    for text, mine in zip(texts.tolist(), np.split(found, first[1:]), strict=False):  # nothing found: one empty part, no text
        sequence = _ngrams.units(part["text"][text].as_py())
        if len(sequence) >= n:
            yield text, sequence, list(zip(place[mine].tolist(), hashes[mine].tolist(), strict=True))


def _ngram_candidates(part: pa.RecordBatch, index: HashSet, n: int) -> Iterator[dict[str, Any]]:
    for text, sequence, found in matches(part, index, n):
        first: dict[str, tuple[int, int]] = {}
        for place, value in found:
            first.setdefault(" ".join(sequence[place : place + n]), (place, value))
        yield from (_candidate(part, text, "ngram", gram, *where) for gram, where in first.items())


def _passage_candidates(
    part: pa.RecordBatch, heads: HashSet, passages: dict[int, list[list[str]]], n: int
) -> Iterator[dict[str, Any]]:
    for text, sequence, found in matches(part, heads, n):
        first: dict[str, tuple[int, int]] = {}
        for place, value in found:
            for passage in passages[value]:
                if sequence[place : place + len(passage)] == passage:
                    first.setdefault(" ".join(passage), (place, value))
        yield from (_candidate(part, text, "substring", passage, *where) for passage, where in first.items())


def _candidate(part: pa.RecordBatch, text: int, method: str, ngram: str, start: int, value: int) -> dict[str, Any]:
    return {"row": part["row"][text].as_py(), "start": start, "method": method, "hash": value, "ngram": ngram}

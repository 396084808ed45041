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

from stages import _documents, _jit, _ngrams, _storage, _units

_kernel = _jit.kernels(__file__)

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
_B1, _B6, _B63 = np.uint64(1), np.uint64(6), np.uint64(63)
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


def ngram_hashes(texts: pa.Array, n: int) -> tuple[Hashes, NDArray[np.int64]]:
    """The hash of every n-gram of every text, in order, and where each text's begin and end; see `_units.ngram_hashes`."""
    return _units.ngram_hashes(texts, np.full(len(texts), n, np.int64), _WHOLE)


def distinct(hashes: Hashes) -> Hashes:
    """The different ones, sorted; of many different values faster than `np.unique`, which hashes them once more."""
    ordered = np.sort(hashes)
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


class HashSet:
    """A set of 64-bit hashes: a table of bits answers for most that are not in it, buckets by the highest bits for the rest."""

    BYTES = 24  # at most, for each hash

    def __init__(self, ordered: Hashes) -> None:
        size = max(10, len(ordered).bit_length())
        self._ordered = ordered
        self._bits = _marked(ordered, np.zeros(1 << (size - 2), np.uint64))  # 16 to 32 bits for each hash
        self._shift = np.uint64(65 - size)  # a bucket holds one or two
        self._starts = np.searchsorted(ordered >> self._shift, np.arange((1 << (size - 1)) + 1, dtype=np.uint64))

    def contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Which of the hashes are in the set."""
        found: NDArray[np.bool_] = _contained(hashes, self._bits, self._ordered, self._starts, self._shift)
        return found


@_kernel
def _marked(hashes: Any, bits: Any) -> Any:
    last = np.uint64(len(bits) - 1)
    for value in hashes:
        bits[(value >> _B6) & last] |= _B1 << (value & _B63)
    return bits


@_kernel
def _contained(hashes: Any, bits: Any, ordered: Any, starts: Any, shift: Any) -> Any:
    last = np.uint64(len(bits) - 1)
    found = np.zeros(len(hashes), np.bool_)
    for number in range(len(hashes)):
        value = hashes[number]
        if (bits[(value >> _B6) & last] >> (value & _B63)) & _B1:
            bucket = value >> shift
            for place in range(starts[bucket], starts[bucket + _B1]):
                found[number] |= ordered[place] == value
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

TRAIN, HELDOUT_SIDE, REMOVED, TAKEN_DOWN = 0, 1, 2, 3


def side_batches(shard: str, side: NDArray[np.int8], wanted: int, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """A shard's documents whose side is `wanted`, in batches; a column `row` names their rows, unless all columns are read."""
    start = 0
    for batch in _documents.read_batches(shard, columns):
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
    hashes, splits = ngram_hashes(part["text"], n)
    found = np.flatnonzero(index.contains(hashes))
    of_text = np.searchsorted(splits, found, side="right") - 1
    texts, first = np.unique(of_text, return_index=True)
    column = part["text"]
    for text, mine in zip(texts.tolist(), np.split(found, first[1:]), strict=False):  # nothing found: one empty part, no text
        sequence = _ngrams.units(column[text].as_py())
        if len(sequence) >= n:
            yield text, sequence, list(zip((mine - splits[text]).tolist(), hashes[mine].tolist(), strict=True))


def _ngram_candidates(part: pa.RecordBatch, index: HashSet, n: int) -> Iterator[dict[str, Any]]:
    for text, sequence, found in matches(part, index, n):
        first: dict[str, tuple[int, int]] = {}
        for place, value in found:
            first.setdefault(" ".join(sequence[place : place + n]), (place, value))
        yield from _candidates(part, text, "ngram", first)


def _passage_candidates(
    part: pa.RecordBatch, heads: HashSet, passages: dict[int, list[list[str]]], n: int
) -> Iterator[dict[str, Any]]:
    for text, sequence, found in matches(part, heads, n):
        first: dict[str, tuple[int, int]] = {}
        for place, value in found:
            for passage in passages[value]:
                if sequence[place : place + len(passage)] == passage:
                    first.setdefault(" ".join(passage), (place, value))
        yield from _candidates(part, text, "substring", first)


def _candidates(part: pa.RecordBatch, text: int, method: str, first: dict[str, tuple[int, int]]) -> Iterator[dict[str, Any]]:
    row = part["row"][text].as_py()
    for gram, (start, value) in first.items():
        yield {"row": row, "start": start, "method": method, "hash": value, "ngram": gram}

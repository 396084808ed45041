"""Lines that recur across the documents of one source: menus, licence notes; counted in one pass, removed in another.

A line is known by a 64-bit hash of its source and its bytes, as they were fetched. Each shard leaves the sorted hashes of its
lines with the number of its documents that hold each (`tally`); ranges of hashes are then added up across shards, one range at
a time (`recurring`), so that memory is bounded by the range and by the lines that do recur. The result is a set of hashes: it
depends neither on the number of ranges nor on who counted what.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from stages import _storage
from stages._jit import kernels
from stages.clean import runs
from stages.clean.runs import inlined
from stages.clean.statistics import utf8

Hashes = npt.NDArray[np.uint64]
COUNTS = pa.schema([pa.field("hash", pa.uint64(), nullable=False), pa.field("documents", pa.uint32(), nullable=False)])
_ROW_GROUP = 1 << 16  # hashes; a range reads the groups that it meets


@dataclass(frozen=True)
class Lines:
    """The lines of a batch that are long enough, in order.

    Attributes:
        hashes: uint64 [lines].
        documents: int64 [lines], the row of the batch.
    """

    hashes: Hashes
    documents: npt.NDArray[np.int64]


def lines(texts: pa.LargeStringArray, sources: list[str], min_bytes: int) -> Lines:
    """Hash the lines, without the blanks at their ends, of at least `min_bytes` bytes."""
    buffer, offsets = utf8(texts)
    seeds = np.array([_seed(source) for source in sources], np.uint64)
    hashes, documents = _hash_lines(buffer, offsets, seeds, min_bytes)
    return Lines(hashes, documents)


def remove(text: str, recurs: Iterable[bool], min_bytes: int) -> tuple[str, list[str]]:
    """`text` without the long lines of which `recurs` says yes (one answer for each, in order), and the lines taken out."""
    answers = iter(recurs)
    kept: list[str] = []
    removed: list[str] = []
    for line in text.split("\n"):
        bare = line.strip(_BLANKS)
        (removed if len(bare.encode()) >= min_bytes and next(answers) else kept).append(line)
    return "\n".join(kept), [line.strip(_BLANKS) for line in removed]


def tally(batches: Iterable[Lines]) -> tuple[Hashes, npt.NDArray[np.uint32]]:
    """The distinct hashes of a shard, sorted, and the number of documents that hold each."""
    parts = [_once(batch.hashes, batch.documents) for batch in batches]
    hashes, counts = np.unique(np.concatenate(parts) if parts else np.zeros(0, np.uint64), return_counts=True)
    return hashes, counts.astype(np.uint32)


def write_counts(address: str, hashes: Hashes, documents: npt.NDArray[np.uint32]) -> None:
    """Write sorted hashes and their counts in row groups that a range of hashes can be read by."""
    with _storage.atomic_output(address) as stream:
        pq.write_table(pa.table([hashes, documents], schema=COUNTS), stream, compression="none", row_group_size=_ROW_GROUP)


def ranges(rows: int, max_memory: int) -> list[tuple[int, int]]:
    """Ranges [first, last] that cut the hashes of `rows` lines into parts that fit the memory: 64 bytes a line while adding."""
    number = max(1, -(-rows * 64 // max_memory))
    edges = [part * (1 << 64) // number for part in range(number + 1)]
    return [(first, last - 1) for first, last in pairwise(edges)]


def recurring(addresses: Iterable[str], first: int, last: int, min_documents: int) -> tuple[Hashes, npt.NDArray[np.uint32]]:
    """Hashes in [first, last] that stand in enough documents of all shards together, sorted, and their counts."""
    parts = list(_read_range(addresses, first, last))
    if not parts:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    hashes, inverse = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    documents = np.bincount(inverse, np.concatenate([part[1] for part in parts]), len(hashes)).astype(np.uint32)
    often = documents >= min_documents
    return hashes[often], documents[often]


def read_counts(addresses: Iterable[str]) -> tuple[Hashes, npt.NDArray[np.uint32]]:
    """All hashes and counts of several files of ascending ranges."""
    parts = list(_read_range(addresses, 0, (1 << 64) - 1))
    if not parts:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _read_range(addresses: Iterable[str], first: int, last: int) -> Iterator[tuple[Hashes, npt.NDArray[np.uint32]]]:
    for address in addresses:
        with _storage.open_input(address) as stream, pq.ParquetFile(stream) as file:
            for group in range(file.num_row_groups):
                bounds = file.metadata.row_group(group).column(0).statistics
                if file.metadata.row_group(group).num_rows == 0 or bounds.max < first or bounds.min > last:
                    continue
                table = file.read_row_group(group)
                hashes, documents = (table[name].to_numpy() for name in COUNTS.names)
                inside = (hashes >= np.uint64(first)) & (hashes <= np.uint64(last))
                yield hashes[inside], documents[inside]


# --- hashing ---------------------------------------------------------------------------------------------------------------

_BLANKS = " \t\r\v\f\u3000"
_jit = kernels(__file__, runs.__file__)
_OFFSET, _PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)  # FNV-1a


@lru_cache(maxsize=1 << 12)
def _seed(source: str) -> int:
    value = int(_OFFSET)
    for byte in source.encode():
        value = (value ^ byte) * int(_PRIME) & (1 << 64) - 1
    return value


@inlined
def _mixed(value):  # type: ignore[no-untyped-def]
    """The finaliser of MurmurHash3: FNV-1a alone spreads the high bits badly, and ranges are cut by them."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@inlined
def _wide(buffer, place):  # type: ignore[no-untyped-def]
    """Whether the ideographic space stands at `place`."""
    return buffer[place] == 0xE3 and buffer[place + 1] == 0x80 and buffer[place + 2] == 0x80


@inlined
def _narrow(byte):  # type: ignore[no-untyped-def]
    return byte == 32 or 9 <= byte <= 13


@_jit
def _once(hashes, documents):  # type: ignore[no-untyped-def]
    """The distinct hashes of each document, one document after the other."""
    kept, number, start = np.empty_like(hashes), 0, 0
    while start < len(hashes):
        end = start
        while end < len(hashes) and documents[end] == documents[start]:
            end += 1
        own = np.sort(hashes[start:end])
        for index in range(len(own)):
            if index == 0 or own[index] != own[index - 1]:
                kept[number] = own[index]
                number += 1
        start = end
    return kept[:number]


@_jit
def _hash_lines(buffer, offsets, seeds, min_bytes):  # type: ignore[no-untyped-def]
    hashes, documents = np.empty(1024, np.uint64), np.empty(1024, np.int64)
    number = 0
    for document in range(len(seeds)):
        place, stop = offsets[document], offsets[document + 1]
        while place < stop:
            end = place
            while end < stop and buffer[end] != 10:
                end += 1
            start, last = place, end
            while start < last and (_narrow(buffer[start]) or (last - start >= 3 and _wide(buffer, start))):
                start += 1 if _narrow(buffer[start]) else 3
            while start < last and (_narrow(buffer[last - 1]) or (last - start >= 3 and _wide(buffer, last - 3))):
                last -= 1 if _narrow(buffer[last - 1]) else 3
            if last - start >= min_bytes:
                if number == len(hashes):
                    hashes, documents = np.append(hashes, np.empty_like(hashes)), np.append(documents, np.empty_like(documents))
                value = seeds[document]
                for index in range(start, last):
                    value = (value ^ np.uint64(buffer[index])) * _PRIME
                hashes[number], documents[number] = _mixed(value), document
                number += 1
            place = end + 1
    return hashes[:number], documents[:number]

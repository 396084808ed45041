"""What a checkpoint consumed, in order, below one hash: the ordered root, and the set of documents that it was shown.

The ordered root is the root of a Merkle tree (RFC 6962) with one leaf for each step that was trained on, in the order of
training along the checkpoint's path through the journal. Content of a leaf, all numbers big-endian:

    step (8 bytes) || first consumption index (8) || samples (8) || SHA-256 of the step's records

and one record for each stretch of a document in the step's samples, in the order of sample, document number, offset:

    sample in the step, from 0 (4) || raw_sha256 of the document (32) || first token in the document (4) || tokens (4)

Stretches that touch inside one sample count as one, so the root does not depend on how the provenance tables are cut. The
leaves of a checkpoint begin with those of its parent. The cost is one gather and 44 hashed bytes a stretch, a chunk of samples
at a time, without a loop over samples.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ledger import LedgerError
from ledger.journal import Segment
from ledger.order import Int64
from ledger.proof.merkle import MerkleTree
from ledger.query import Ledger

ORDER = (
    "one per trained step, in the order of training: step (8 bytes) || first consumption index (8) || samples (8) || SHA-256 "
    "of the step's records; record: sample in the step (4) || raw_sha256 (32) || first token in the document (4) || "
    "tokens (4); big-endian, in the order of sample, document number, first token"
)
TRAINED_TABLES = ("data/encode/train.documents.parquet", "data/instruct/documents.parquet")
_CHUNK = 1 << 19  # samples whose records are laid out at once
_RECORD = np.dtype([("sample", ">u4"), ("document", "V32"), ("offset", ">u4"), ("length", ">u4")])
Digests = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Step:
    """A trained step: its number, first consumption index, number of samples, and the bytes of its records."""

    step: int
    first_sample: int
    samples: int
    records: bytes

    @property
    def leaf(self) -> bytes:
        """Content of its leaf."""
        return struct.pack(">QQQ", self.step, self.first_sample, self.samples) + hashlib.sha256(self.records).digest()

    def rows(self) -> list[tuple[int, str, int, int]]:
        """The records in words: sample in the step, raw_sha256, first token, tokens."""
        table = np.frombuffer(self.records, _RECORD)
        return [(int(row["sample"]), bytes(row["document"]).hex(), int(row["offset"]), int(row["length"])) for row in table]


class Consumption:
    """What the segments of a project's journal consumed; each is walked once, however many checkpoints are asked for."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._leaves: dict[int, list[bytes]] = {}
        self._seen: dict[int, npt.NDArray[np.bool_]] = {}

    @cached_property
    def digests(self) -> Digests:
        """raw_sha256 of every document, by doc_index, shape [documents, 32].

        Raises:
            LedgerError: a table is missing, or names other documents than the token shards were made of.
        """
        root = self.ledger.root
        files = sorted((root / "data/decontaminate/train/documents").glob("*.parquet"))
        labelled = root / "data/instruct/documents.parquet"
        known = root / "data/encode/train.documents.parquet"
        for file in (labelled, known):
            if not file.is_file():
                raise LedgerError(f"{file}: no such file. Remedy: run `dvc repro` or `dvc pull`")
        names, columns = [], []
        for file in files:
            table = pq.read_table(file, columns=["doc_id", "raw_sha256"])
            names.append(table["doc_id"].cast(pa.string()))
            columns.append(_binary(table["raw_sha256"], str(file)))
        ids = pa.chunked_array([chunk for name in names for chunk in name.chunks], pa.string())
        wanted = pq.read_table(known, columns=["doc_id"])["doc_id"].cast(pa.string())
        columns = [np.concatenate([np.zeros((0, 32), np.uint8), *columns])]
        if not ids.equals(wanted):  # the same documents in another order
            place = pc.index_in(wanted, value_set=ids)
            if place.null_count or len(ids) != len(wanted):
                raise LedgerError(f"{known}: lists other documents than data/decontaminate. Remedy: run `dvc repro encode`")
            columns = [columns[0][place.to_numpy()]]
        columns.append(_binary(pq.read_table(labelled, columns=["raw_sha256"])["raw_sha256"], str(labelled)))
        return np.concatenate(columns)

    def steps(self, segment: Segment, only: int | None = None) -> Iterator[Step]:
        """The steps that a segment trained on (or `only` one of them), in order, with their records.

        Raises:
            LedgerError: the segment followed another data plan.
        """
        for steps, _ in self._batches(segment, only):
            yield from steps

    def leaves(self, segment: Segment) -> list[bytes]:
        """Leaves of the ordered tree of what led to a segment, its ancestors' first."""
        return [leaf for ancestor in self.ledger.journal.ancestry(segment) for leaf in self.own_leaves(ancestor)]

    def tree(self, segment: Segment) -> MerkleTree:
        """The ordered tree of the checkpoint that a segment left."""
        return MerkleTree(self.leaves(segment))

    def documents(self, segment: Segment) -> list[str]:
        """raw_sha256 of the documents that the checkpoint was shown; of equal ones each counts."""
        ancestry = self.ledger.journal.ancestry(segment)
        for ancestor in ancestry:
            self.own_leaves(ancestor)
        seen = np.logical_or.reduce([self._seen[ancestor.index] for ancestor in ancestry])
        return [row.tobytes().hex() for row in self.digests[seen]]

    def training_set(self) -> list[str]:
        """raw_sha256 of every train document and labelled row, by doc_index."""
        return [row.tobytes().hex() for row in self.digests]

    def training_ids(self) -> list[str]:
        """SHA-256 of the id (UTF-8) of every train document and labelled row, by doc_index."""
        root = self.ledger.root
        tables = [pq.read_table(root / file, columns=["doc_id"]) for file in TRAINED_TABLES]
        return [id_digest(doc_id) for table in tables for doc_id in table["doc_id"].to_pylist()]

    def own_leaves(self, segment: Segment) -> list[bytes]:
        """Leaves of a segment's own steps."""
        if segment.index not in self._leaves:
            leaves, seen = [], np.zeros(len(self.digests), np.bool_)
            for steps, document in self._batches(segment):
                leaves += [step.leaf for step in steps]
                seen[document] = True
            self._leaves[segment.index], self._seen[segment.index] = leaves, seen
        return self._leaves[segment.index]

    def _batches(self, segment: Segment, only: int | None = None) -> Iterator[tuple[list[Step], Int64]]:
        """The steps of a segment, a chunk at a time, with the doc_index of every record."""
        self.ledger.trained([segment])  # refuses segments of another plan
        steps = range(segment.first_step, segment.last_step + 1) if only is None else [only]
        numbers = np.array([step for step in steps if not segment.skips(step)], np.int64)
        ramp = self.ledger.plan.ramp
        first, end = ramp.consumed(numbers), ramp.consumed(numbers + 1)
        done = 0
        while done < len(numbers):
            many = max(1, int(np.searchsorted(np.cumsum(end[done:] - first[done:]), _CHUNK)))
            yield self._laid_out(numbers[done : done + many], first[done : done + many], end[done : done + many])
            done += many

    def _laid_out(self, numbers: Int64, first: Int64, end: Int64) -> tuple[list[Step], Int64]:
        """Steps whose records are laid out together, and the doc_index of each record."""
        size = end - first
        consumption = np.repeat(first - np.cumsum(size) + size, size) + np.arange(size.sum())
        place = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)  # of each sample in its step
        held = self.ledger.table.pieces_of(self.ledger.plan.order.rows(consumption))
        which, document, start, tokens = _merged(held.which, held.doc_index, held.doc_offset, held.length)
        records = np.empty(len(which), _RECORD)
        records["sample"], records["offset"], records["length"] = place[which], start, tokens
        records["document"] = self.digests[document].view("V32").ravel()
        cuts = np.searchsorted(which, np.concatenate([[0], np.cumsum(size)])).tolist()
        facts = zip(numbers.tolist(), first.tolist(), size.tolist(), cuts, cuts[1:], strict=False)
        return [Step(step, at, samples, records[low:high].tobytes()) for step, at, samples, low, high in facts], document


def id_digest(doc_id: str) -> str:
    """The leaf of a document's id: records of one file share its bytes, so a raw hash may stand for several documents."""
    return hashlib.sha256(doc_id.encode()).hexdigest()


def _merged(which: Int64, document: Int64, offset: Int64, length: Int64) -> tuple[Int64, Int64, Int64, Int64]:
    """Pieces in the order of sample, document, offset, those that touch made one."""
    order = np.lexsort((length, offset, document, which))
    which, document, offset, length = which[order], document[order], offset[order], length[order]
    same = (np.diff(which) == 0) & (np.diff(document) == 0) & (offset[1:] == offset[:-1] + length[:-1])
    (heads,) = np.nonzero(np.concatenate([[True], ~same])[: len(which)])
    total = np.add.reduceat(length, heads) if len(heads) else length
    return which[heads], document[heads], offset[heads], total


def _binary(column: pa.ChunkedArray, where: str) -> Digests:
    """Hexadecimal SHA-256 digests as bytes, shape [n, 32]."""
    text = "".join(column.to_pylist())
    if len(text) != 64 * len(column):
        raise LedgerError(f"{where}: raw_sha256 holds something else than SHA-256 digests. Remedy: run `dvc repro`")
    try:
        return np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, 32)
    except ValueError as error:
        raise LedgerError(f"{where}: raw_sha256 is not hexadecimal: {error}. Remedy: run `dvc repro`") from error

"""Makes the document table (see `ledger.table.documents`) from the tables of documents and pieces, a batch at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ledger import LedgerError, canonical_json
from ledger.order import Int64
from ledger.table.arrays import Column, save_ascending, save_column
from ledger.table.documents import FACTS, VERSION, DocumentTable

_ROWS = 1 << 20
_GROUP = ("source", "lang", "licence")


class Batch(NamedTuple):
    """Pieces, in the order of samples: columns of `data/pack/pieces-*.parquet`."""

    sample: Int64
    doc_index: Int64
    doc_offset: Int64
    length: Int64


class Described(NamedTuple):
    """Documents in their order: tokens, group, and whether they are training documents (labelled rows stand behind)."""

    length: Int64
    group: Column
    train: bool


@dataclass
class Groups:
    """Numbers for (source, lang, licence) in the order in which they appear."""

    numbers: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def of(self, batch: Any) -> Column:
        """The numbers of a record batch's rows."""
        columns = [batch[name].dictionary_encode() for name in _GROUP]
        codes = np.stack([column.indices.to_numpy() for column in columns])
        sizes = [max(1, len(column.dictionary)) for column in columns]
        flat = np.ravel_multi_index(tuple(codes), tuple(sizes))
        present, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
        numbers = np.empty(len(present), np.int64)
        for place in np.argsort(first).tolist():
            code = codes[:, first[place]].tolist()
            name = tuple(str(column.dictionary[index]) for column, index in zip(columns, code, strict=True))
            numbers[place] = self.numbers.setdefault((name[0], name[1], name[2]), len(self.numbers))
        return numbers[inverse]


def tabulate(
    folder: Path, samples: int, epochs: int, documents: Iterable[Described], groups: Groups, pieces: Iterable[Batch]
) -> DocumentTable:
    """Write the table into `folder`, which appears whole, and map it.

    Args:
        folder: to make; its parent exists.
        samples, epochs: packed samples of a masking epoch, and masking epochs.
        documents: all documents in their order.
        groups: what their group numbers stand for, filled while `documents` is read.
        pieces: all pieces, in the order of samples, a sample's all in one batch.

    Raises:
        LedgerError: pieces out of order, outside the samples, or of documents that there are not.
    """
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        raw = _Raw(work)
        _read_documents(raw, documents)
        lines = _Lines(samples, epochs, raw)
        for batch in pieces:
            lines.add(batch)
        lines.finish()
        facts = _save(work, raw, lines) | {"names": [list(name) for name in groups.numbers]}
        (work / FACTS).write_text(canonical_json(facts), encoding="utf-8")
        raw.drop()
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return DocumentTable.load(folder)


class _Raw:
    """Columns that grow on the disk while they are made, as they will be read: int64, one behind the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}

    def add(self, name: str, values: Any) -> None:
        if name not in self._files:
            self._files[name] = (self._folder / f"raw-{name}").open("wb")
        self._files[name].write(np.ascontiguousarray(values, np.int64).tobytes())

    def column(self, name: str) -> Int64:
        """What was added, mapped."""
        if name not in self._files:
            return np.empty(0, np.int64)
        self._files[name].flush()
        file = self._folder / f"raw-{name}"
        return np.memmap(file, np.int64, mode="r") if file.stat().st_size else np.empty(0, np.int64)

    def drop(self) -> None:
        for name, file in self._files.items():
            file.close()
            (self._folder / f"raw-{name}").unlink()


def _read_documents(raw: _Raw, documents: Iterable[Described]) -> None:
    start = 0
    for part in documents:
        raw.add("groups", part.group)
        if part.train:
            ends = start + np.cumsum(part.length)
            raw.add("documents", ends - part.length)
            start = int(ends[-1]) if len(ends) else start
    raw.add("documents", [start])
    if not start:
        raise LedgerError("data/encode/train.documents.parquet: no training token. Remedy: run `dvc repro encode`")


class _Lines:
    """Where samples and gaps begin on the line, and the pieces that are not on it; masking epoch by masking epoch."""

    def __init__(self, samples: int, epochs: int, raw: _Raw) -> None:
        self.samples, self.epochs, self.raw = samples, epochs, raw
        self.starts = raw.column("documents")
        self.tokens, self.train, self.count = int(self.starts[-1]), len(self.starts) - 1, len(raw.column("groups"))
        self.turns: list[int] = []
        self.followers: list[int] = []
        self.row = 0  # first packed sample of which nothing is known yet
        self.reached = 0  # end of the last piece on the line
        self.lost = 0  # tokens in gaps
        self.loose_rows = self.loose_pieces = 0

    def add(self, batch: Batch) -> None:
        """Take pieces on: those of whole samples, none of them before those taken on so far."""
        sample, doc_index = batch.sample, batch.doc_index
        if not len(sample):
            return
        if sample[0] < self.row or (np.diff(sample) < 0).any() or sample[-1] >= self.samples * self.epochs:
            raise LedgerError(f"pieces of samples {sample[0]} to {sample[-1]} are out of order or outside the packed samples")
        if doc_index.min() < 0 or doc_index.max() >= self.count:
            raise LedgerError(f"a piece is of document {doc_index.max()}, but there are {self.count}")
        epochs = sample // self.samples
        for epoch in np.unique(epochs).tolist():
            of = slice(*np.searchsorted(epochs, [epoch, epoch + 1]).tolist())
            self._add(Batch(*(column[of] for column in batch)), epoch)

    def finish(self) -> None:
        """Close the line."""
        while len(self.turns) < self.epochs:
            self._begin(0)
        self._end()
        self.raw.add("rows", [self.epochs * self.tokens])
        self.raw.add("gaps", [self.epochs * self.tokens])  # of no length, so that a gap ends every stretch
        self.raw.add("missing", [self.lost, self.lost])
        self.raw.add("loose_bounds", [self.loose_pieces])

    def _add(self, batch: Batch, epoch: int) -> None:
        while len(self.turns) <= epoch:
            document = int(batch.doc_index[0])
            at = int(self.starts[document] + batch.doc_offset[0]) if document < self.train else 0
            self._begin(at if len(self.turns) == epoch else 0)
        before = epoch * self.samples
        follow = 0
        if self.followers[epoch] == self.samples:
            follow = self._add_followers(batch, epoch)
        if follow < len(batch.sample):
            self.followers[epoch] = min(self.followers[epoch], int(batch.sample[follow]) - before)
            self._rows_until(before + self.followers[epoch])
            self._add_loose(Batch(*(column[follow:] for column in batch)), before + self.followers[epoch])

    def _begin(self, turn: int) -> None:
        """The next masking epoch, after the end of the one before."""
        if self.turns:
            self._end()
        self.turns.append(turn % self.tokens)
        self.followers.append(self.samples)

    def _end(self) -> None:
        """All rows of the masking epoch that is open, and the gap that it leaves at its end."""
        end = len(self.turns) * self.samples
        loose = end - max(self.row, (len(self.turns) - 1) * self.samples + self.followers[-1])
        self._rows_until(end)
        if self.followers[-1] < self.samples:
            self.raw.add("loose_bounds", np.full(loose, self.loose_pieces))
            self.loose_rows += loose
        self._gaps(np.array([self.reached]), np.array([len(self.turns) * self.tokens - self.reached]))
        self.reached = len(self.turns) * self.tokens

    def _rows_until(self, end: int) -> None:
        """Rows without pieces on the line."""
        while self.row < end:
            part = min(end - self.row, _ROWS)
            self.raw.add("rows", np.full(part, self.reached))
            self.row += part

    def _gaps(self, start: Int64, length: Int64) -> None:
        (there,) = np.nonzero(length)
        if len(there):
            self.raw.add("gaps", start[there])
            after = self.lost + np.cumsum(length[there])
            self.raw.add("missing", after - length[there])
            self.lost = int(after[-1])

    def _add_followers(self, batch: Batch, epoch: int) -> int:
        """Take on the pieces of the first samples that follow the line; how many pieces these are."""
        document = np.minimum(batch.doc_index, self.train - 1)
        start, last = self.starts[document], self.starts[document + 1]
        place = start + batch.doc_offset
        inside = (batch.doc_index < self.train) & (place + batch.length <= last)
        place = (place - self.turns[epoch]) % self.tokens + epoch * self.tokens
        end = place + batch.length
        before = np.concatenate([[self.reached], end[:-1]])
        follows = inside & (place >= before) & (end <= (epoch + 1) * self.tokens)
        count = len(follows)
        if not follows.all():
            count = int(np.searchsorted(batch.sample, batch.sample[np.argmin(follows)]))
        if count:
            sample, place, end, before = batch.sample[:count], place[:count], end[:count], before[:count]
            rows = np.arange(self.row, int(sample[-1]) + 1)
            first = np.searchsorted(sample, rows)
            self.raw.add("rows", np.where(sample[first] == rows, place[first], before[first]))
            self._gaps(before, place - before)
            self.row, self.reached = int(sample[-1]) + 1, int(end[-1])
        return count

    def _add_loose(self, batch: Batch, first_loose: int) -> None:
        known = self.row - first_loose  # loose rows of this masking epoch that are done
        base = self.loose_rows - known
        rows = np.arange(self.row, int(batch.sample[-1]) + 1)
        self.raw.add("loose_bounds", self.loose_pieces + np.searchsorted(batch.sample, rows))
        self.raw.add("loose_row", batch.sample - first_loose + base)
        for name in ("doc_index", "doc_offset", "length"):
            self.raw.add(f"loose_{name}", getattr(batch, name))
        self.loose_pieces += len(batch.sample)
        self.loose_rows += len(rows)
        self._rows_until(int(batch.sample[-1]) + 1)


def _save(folder: Path, raw: _Raw, lines: _Lines) -> dict[str, Any]:
    """Write the columns as they will be mapped, and give what is to be known of them."""
    order = np.argsort(raw.column("loose_doc_index"), kind="stable")
    by_row = np.empty(len(order), np.int64)
    by_row[order] = np.arange(len(order))
    ascending = {name: raw.column(name) for name in ("documents", "rows", "gaps", "missing", "loose_bounds")}
    columns = {"groups": raw.column("groups"), "loose_by_row": by_row}
    columns |= {f"loose_{name}": raw.column(f"loose_{name}")[order] for name in ("row", "doc_offset", "length")}
    ascending["loose_doc_index"] = raw.column("loose_doc_index")[order]
    return {
        "version": VERSION,
        "samples": lines.samples,
        "turns": lines.turns,
        "followers": lines.followers,
        "ascending": {name: save_ascending(folder, name, values) for name, values in ascending.items()},
        "columns": {name: save_column(folder, name, values) for name, values in columns.items()},
    }

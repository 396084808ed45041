"""The document table: which documents stand in which packed samples, in some 8 bytes a document, both ways, without a scan.

The text samples of a masking epoch follow the training tokens: all training documents end to end, read from a place of the
epoch's own (its turn), past the end to the beginning. So neither documents nor samples need a list of each other. Both are
stretches of one line: place u of masking epoch e is e * T + u, with T training tokens, u counted from the turn; a document
is [start, start + length) there and a sample [start, next sample's start), and who shares tokens is a matter of two searches.
Tokens that no sample was fed (a block that was drawn short, a target that was cut, what an epoch leaves over) are gaps.

Samples that do not follow that line, instruction sequences before all, are loose: their pieces are listed, by document, with a
permutation into the order of samples. Nothing depends on how samples were packed but the size: pieces in any order would all be
loose, and every answer the same.

The table says what `data/pack/pieces-*.parquet` say, with pieces that touch inside one sample and document made one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ledger.arrays import Ascending, Column, load_ascending, load_column, spread
from ledger.order import Int64

VERSION = 1
_BLOCK = 1 << 16  # documents looked up together: what is computed on the way stays in a cache
FACTS = "table.json"


class Parts(NamedTuple):
    """Documents in samples, one entry for each pair: position in what was asked, row of the packed samples, tokens there."""

    which: Int64
    row: Int64
    tokens: Int64


class Pieces(NamedTuple):
    """Stretches of documents in samples: position in what was asked, document, first token inside it, tokens."""

    which: Int64
    doc_index: Int64
    doc_offset: Int64
    length: Int64


@dataclass(frozen=True)
class Loose:
    """Pieces that do not follow the line of training tokens, sorted by document.

    Attributes:
        doc_index, row, doc_offset, length: of each piece; `row` counts loose samples.
        by_row: the pieces in the order of the samples.
        bounds: of each loose sample's pieces in `by_row`, one more than loose samples.
    """

    doc_index: Ascending
    row: Column
    doc_offset: Column
    length: Column
    by_row: Column
    bounds: Ascending


@dataclass(frozen=True)
class DocumentTable:
    """See the module.

    Attributes:
        samples: packed samples of a masking epoch.
        documents: where each training document starts among the training tokens, and the end of the last.
        groups: for every document, labelled rows too, the number of its (source, lang, licence) in `names`.
        names: these.
        turns: by masking epoch, the training token that its samples begin with.
        followers: by masking epoch, how many of its samples follow the line; they are its first.
        rows: where each packed sample begins on the line, through all epochs, and the end of the line.
        gaps, missing: where each stretch that no sample was fed begins, and how many tokens lie in gaps before it (one more).
    """

    samples: int
    documents: Ascending
    groups: Column
    names: tuple[tuple[str, str, str], ...]
    turns: Int64
    followers: Int64
    rows: Ascending
    gaps: Ascending
    missing: Ascending
    loose: Loose

    @classmethod
    def load(cls, folder: Path) -> DocumentTable:
        """Map the table in a folder.

        Raises:
            LedgerError: a file is absent or cut short.
        """
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        ascending = {name: load_ascending(folder, name, known) for name, known in facts["ascending"].items()}
        columns = {name: load_column(folder, name, known) for name, known in facts["columns"].items()}
        loose = Loose(
            ascending["loose_doc_index"], columns["loose_row"], columns["loose_doc_offset"], columns["loose_length"],
            columns["loose_by_row"], ascending["loose_bounds"],
        )  # fmt: skip
        return cls(
            facts["samples"], ascending["documents"], columns["groups"], tuple((*name,) for name in facts["names"]),
            np.array(facts["turns"], np.int64), np.array(facts["followers"], np.int64),
            ascending["rows"], ascending["gaps"], ascending["missing"], loose,
        )  # fmt: skip

    @property
    def count(self) -> int:
        """Documents, labelled rows counted."""
        return len(self.groups)

    @cached_property
    def tokens(self) -> int:
        """T, training tokens."""
        return int(self.documents.take(len(self.documents) - 1))

    @property
    def train(self) -> int:
        """Training documents: those before the labelled rows."""
        return len(self.documents) - 1

    @property
    def epochs(self) -> int:
        """Masking epochs."""
        return len(self.turns)

    def length_of(self, doc_index: Int64) -> Int64:
        """Tokens of training documents; -1 of labelled rows, which are fed in samples of other lengths."""
        last = self.train - 1
        document = np.minimum(doc_index, last)
        return np.where(doc_index <= last, self.documents.take(document + 1) - self.documents.take(document), -1)

    def parts_of(self, doc_index: npt.ArrayLike, masking_epochs: int | None = None) -> Parts:
        """Where documents stand: sorted by position in `doc_index`, then by row. Quick where these ascend.

        With `masking_epochs`, in the samples of the first of them alone.

        Raises:
            IndexError: there is no such document.
        """
        wanted = np.asarray(doc_index, np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.count:
            raise IndexError(f"documents 0 to {self.count - 1}; asked for {wanted.min()} to {wanted.max()}")
        epochs = self.epochs if masking_epochs is None else masking_epochs
        order = np.argsort(wanted)
        found = [self._parts_of(order[start : start + _BLOCK], wanted, epochs) for start in range(0, len(order), _BLOCK)]
        return _joined([parts for several in found for parts in several], self.samples * self.epochs)

    def rest_of(self, pieces: Pieces, row: Int64) -> Int64:
        """The sample beside `row` that holds what the piece in `row` leaves of its document; -1 where others may hold some too.

        For documents without loose pieces, and samples of the first masking epoch that follow the line.
        """
        start = self.documents.take(pieces.doc_index)
        size = self.documents.take(pieces.doc_index + 1) - start
        low = (start - self.turns[0]) % self.tokens
        begins, ends = pieces.doc_offset == 0, pieces.doc_offset + pieces.length == size
        other = np.clip(np.where(begins, row + 1, row - 1), 0, self.followers[0] - 1)
        first = np.where(begins, low + pieces.length, low)
        last = np.where(begins, low + size, low + pieces.doc_offset)
        sure = (begins != ends) & (self.rows.take(other) <= first) & (last <= self.rows.take(other + 1))
        sure &= (low + size <= self.tokens) & ~self._touch_gaps(low, low + size)
        return np.where(sure & (other != row), other, -1)

    def pieces_of(self, row: npt.ArrayLike) -> Pieces:
        """What packed samples hold: sorted by position in `row`, then by document and place inside it."""
        wanted = np.asarray(row, np.int64)
        found = self.unsorted_pieces_of(wanted)
        order = np.lexsort(found[::-1])
        return Pieces(*(column[order] for column in found))

    def unsorted_pieces_of(self, row: Int64) -> Pieces:
        """`pieces_of` in whatever order."""
        epoch, number = np.divmod(row, self.samples)
        follows = number < self.followers[epoch]
        (line,), (loose,) = np.nonzero(follows), np.nonzero(~follows)
        low, high = self.rows.take(row[line]), self.rows.take(row[line] + 1)
        pieces = self._pieces_on_line(*self._fed(line, low, high)), self._loose_pieces(loose, row[loose])
        return Pieces(*(np.concatenate(pair) for pair in zip(*pieces, strict=True)))

    def _parts_of(self, which: Int64, wanted: Int64, epochs: int) -> list[Parts]:
        """Parts of the documents at places `which` of `wanted`, which ascend there."""
        document = wanted[which]
        return [*self._parts_on_line(which, document, epochs), self._loose_parts(which, document, epochs * self.samples)]

    def _parts_on_line(self, which: Int64, document: Int64, epochs: int) -> list[Parts]:
        (known,) = np.nonzero(document < self.train)
        which, start, end = which[known], self.documents.take(document[known]), self.documents.take(document[known] + 1)
        parts = []
        for epoch, turn in enumerate(self.turns[:epochs].tolist()):
            low = (start - turn) % self.tokens
            high = low + end - start
            base = epoch * self.tokens
            parts.append(self._parts_within(which, low + base, np.minimum(high, self.tokens) + base))
            (over,) = np.nonzero(high > self.tokens)  # the document in which the epoch begins
            if len(over):
                first = np.full(len(over), base)
                parts.append(self._parts_within(which[over], first, high[over] - self.tokens + base))
        return parts

    def _parts_within(self, which: Int64, low: Int64, high: Int64) -> Parts:
        """Samples that the stretches [low, high) of the line stand in."""
        row = self.rows.at(low)
        last = row.copy()
        (long,) = np.nonzero(high > self.rows.take(row + 1))
        last[long] = self.rows.at(high[long] - 1)
        pair, row = spread(row, last)
        first, end = np.maximum(low[pair], self.rows.take(row)), np.minimum(high[pair], self.rows.take(row + 1))
        tokens = end - first
        (cut,) = np.nonzero(self._touch_gaps(low, high)[pair])
        tokens[cut] -= self._gap_tokens(end[cut]) - self._gap_tokens(first[cut])
        (fed,) = np.nonzero(tokens > 0)
        return Parts(which[pair[fed]], row[fed], tokens[fed])

    def _touch_gaps(self, low: Int64, high: Int64) -> npt.NDArray[np.bool_]:
        """Which of the stretches [low, high) tokens are missing from."""
        gap = self.gaps.at(low)
        touched = self.gaps.take(gap + 1) < high
        (behind,) = np.nonzero(gap >= 0)
        touched[behind] |= self._gap_end(gap[behind]) > low[behind]
        return touched

    def _gap_tokens(self, place: Int64) -> Int64:
        """Tokens of the line before `place` that lie in gaps."""
        gap = self.gaps.at(place)
        known = gap >= 0
        gap = np.maximum(gap, 0)
        before, after = self.missing.take(gap), self.missing.take(gap + 1)
        return np.where(known, before + np.minimum(place - self.gaps.take(gap), after - before), 0)

    def _fed(self, which: Int64, low: Int64, high: Int64) -> tuple[Int64, Int64, Int64]:
        """[low, high) without the gaps: which, low, high of what is left, cut behind the last document too."""
        touched = self._touch_gaps(low, high)
        (whole,), (cut,) = np.nonzero(~touched), np.nonzero(touched)
        pair, gap = spread(self.gaps.at(low[cut]), self.gaps.at(high[cut] - 1))  # what lies behind a gap; -1: before all
        begin = np.where(gap >= 0, self._gap_end(np.maximum(gap, 0)), 0)
        begin, end = np.maximum(low[cut][pair], begin), np.minimum(high[cut][pair], self.gaps.take(gap + 1))
        (kept,) = np.nonzero(begin < end)
        which = np.concatenate([which[whole], which[cut[pair[kept]]]])
        begin, end = np.concatenate([low[whole], begin[kept]]), np.concatenate([high[whole], end[kept]])
        epoch = begin // self.tokens
        over = epoch * self.tokens + self.tokens - self.turns[epoch]
        cut = np.asarray((begin < over) & (over < end))
        return (
            np.concatenate([which, which[cut]]),
            np.concatenate([begin, over[cut]]),
            np.concatenate([np.where(cut, over, end), end[cut]]),
        )

    def _gap_end(self, gap: Int64) -> Int64:
        return self.gaps.take(gap) + self.missing.take(gap + 1) - self.missing.take(gap)

    def _pieces_on_line(self, which: Int64, low: Int64, high: Int64) -> Pieces:
        length = high - low
        epoch = low // self.tokens
        low = (low - epoch * self.tokens + self.turns[epoch]) % self.tokens
        high = low + length
        pair, document = spread(self.documents.at(low), self.documents.at(high - 1))
        start = self.documents.take(document)
        first, last = np.maximum(low[pair], start), np.minimum(high[pair], self.documents.take(document + 1))
        held = first < last
        return Pieces(which[pair[held]], document[held], (first - start)[held], (last - first)[held])

    def _loose_parts(self, which: Int64, document: Int64, rows: int) -> Parts:
        last = self.loose.doc_index.at(document)
        (there,) = np.nonzero(last >= 0)
        there = there[self.loose.doc_index.take(last[there]) == document[there]]
        pair, piece = spread(self.loose.doc_index.at(document[there] - 1) + 1, last[there])
        which = which[there[pair]]
        row = self._row_of_loose(self.loose.row[piece].astype(np.int64))
        (begun,) = np.nonzero(row < rows)
        return Parts(which[begun], row[begun], self.loose.length[piece[begun]].astype(np.int64))

    def _loose_pieces(self, which: Int64, row: Int64) -> Pieces:
        number = self._loose_of_row(row)
        pair, place = spread(self.loose.bounds.take(number), self.loose.bounds.take(number + 1) - 1)
        piece = self.loose.by_row[place].astype(np.int64)
        numbers = [self.loose.doc_index.take(piece), self.loose.doc_offset[piece], self.loose.length[piece]]
        return Pieces(which[pair], *(column.astype(np.int64) for column in numbers))

    @cached_property
    def _loose_before(self) -> Int64:
        """Loose samples before each masking epoch, and all."""
        return np.concatenate([[0], np.cumsum(self.samples - self.followers)])

    def _row_of_loose(self, number: Int64) -> Int64:
        epoch = np.searchsorted(self._loose_before, number, side="right") - 1
        return np.asarray(epoch * self.samples + self.followers[epoch] + number - self._loose_before[epoch])

    def _loose_of_row(self, row: Int64) -> Int64:
        epoch, number = np.divmod(row, self.samples)
        return np.asarray(self._loose_before[epoch] + number - self.followers[epoch])


def _joined(found: list[Parts], rows: int) -> Parts:
    """Sorted by (which, row), with what stands there twice added up."""
    if not found:
        return Parts(*(np.empty(0, np.int64) for _ in Parts._fields))
    which, row, tokens = (np.concatenate(column) for column in zip(*found, strict=True))
    key = which * rows + row
    if (np.diff(key) <= 0).any():
        order = np.argsort(key, kind="stable")
        key, tokens = key[order], tokens[order]
        first = np.flatnonzero(np.diff(key, prepend=-1))
        key, tokens = key[first], np.add.reduceat(tokens, first)
        which, row = np.divmod(key, rows)
    return Parts(which, row, tokens)

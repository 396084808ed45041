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

from ledger.order import Int64
from ledger.table.arrays import Ascending, Column, argsort, chosen, load_ascending, load_column, spread
from ledger.table.gaps import Gaps

VERSION = 1
UNKNOWN, NOTHING = -1, -2  # in place of a sample
_WALK = 16  # samples or pieces that are walked over before a search
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


class Held(NamedTuple):
    """As `Pieces`, with all tokens of the document, and where the piece begins on the line; both -1 of loose pieces."""

    which: Int64
    doc_index: Int64
    doc_offset: Int64
    length: Int64
    size: Int64
    place: Int64


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
        gaps: stretches that no sample was fed.
    """

    samples: int
    documents: Ascending
    groups: Column
    names: tuple[tuple[str, str, str], ...]
    turns: Int64
    followers: Int64
    rows: Ascending
    gaps: Gaps
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
            ascending["rows"], Gaps(ascending["gaps"], ascending["missing"]), loose,
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
        order = argsort(wanted)
        found = [self._parts_of(order[start : start + _BLOCK], wanted, epochs) for start in range(0, len(order), _BLOCK)]
        return _joined([parts for several in found for parts in several], self.samples * self.epochs)

    def parts_near(self, held: Held, row: Int64, other: Int64, listed: npt.NDArray[np.bool_]) -> Parts:
        """`parts_of` documents in the first masking epoch, where a piece of each is known, and so where to look.

        Args:
            held: pieces of ascending documents.
            row, other: the sample of each piece, and `rest_of` it.
            listed: whether the document may have loose pieces.
        """
        low = held.place - held.doc_offset
        high = low + held.size
        beside = (other == UNKNOWN) & (held.place >= 0) & (low >= 0) & (high <= self.tokens)
        (here,), (two,), (near,) = np.nonzero(other != UNKNOWN), np.nonzero(other >= 0), np.nonzero(beside)
        (far,), (some,) = np.nonzero((other == UNKNOWN) & ~beside), np.nonzero(listed)
        found = [
            Parts(here, row[here], held.length[here]),
            Parts(two, other[two], held.size[two] - held.length[two]),
            self._parts_within(near, low[near], high[near], row[near]),
            *self._parts_on_line(far, held.doc_index[far], 1),
            self._loose_parts(some, held.doc_index[some], self.samples),
        ]
        return _joined(found, self.samples)

    def rest_of(self, held: Held, row: Int64) -> Int64:
        """Where the line has what pieces leave of their documents: the sample beside `row`, NOTHING, or UNKNOWN.

        Of samples of the first masking epoch.
        """
        (cut,) = np.nonzero(held.length != held.size)
        rest, row, held = np.full(len(row), NOTHING), row[cut], chosen(held, cut)
        low, end = held.place - held.doc_offset, held.place + held.length
        high = low + held.size
        begins, ends = held.doc_offset == 0, end == high
        other = np.clip(np.where(begins, row + 1, row - 1), 0, self.followers[0] - 1)
        first, last = np.where(begins, end, low), np.where(begins, high, held.place)
        sure = (begins != ends) & (self.rows.take(other) <= first) & (last <= self.rows.take(other + 1))
        sure &= (held.place >= 0) & (low >= 0) & (high <= self.tokens) & (other != row)
        (likely,) = np.nonzero(sure)
        sure[likely] = ~self.gaps.touch(low[likely], high[likely])
        rest[cut] = np.where(sure, other, UNKNOWN)
        return rest

    def pieces_of(self, row: npt.ArrayLike) -> Pieces:
        """What packed samples hold: sorted by position in `row`, then by document and place inside it."""
        held = self.held_by(np.asarray(row, np.int64))
        return chosen(Pieces(*held[:4]), argsort(*held[:4]))

    def held_by(self, row: Int64) -> Held:
        """What packed samples hold, in whatever order."""
        epoch, number = np.divmod(row, self.samples)
        follows = number < self.followers[epoch]
        (line,), (loose,) = np.nonzero(follows), np.nonzero(~follows)
        low, high = self.rows.take(row[line]), self.rows.take(row[line] + 1)
        pieces = self._pieces_on_line(*self._fed(line, low, high)), self._loose_pieces(loose, row[loose])
        return Held(*(np.concatenate(pair) for pair in zip(*pieces, strict=True)))

    def _parts_of(self, which: Int64, wanted: Int64, epochs: int) -> list[Parts]:
        """Parts of the documents at places `which` of `wanted`, which ascend there."""
        document = wanted[which]
        return [*self._parts_on_line(which, document, epochs), self._loose_parts(which, document, epochs * self.samples)]

    def _parts_on_line(self, which: Int64, document: Int64, epochs: int) -> list[Parts]:
        """Parts of documents in the samples that follow the line; `near`: one of each in the first epoch, or -1."""
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

    def _parts_within(self, which: Int64, low: Int64, high: Int64, near: Int64 | None = None) -> Parts:
        """Samples that the stretches [low, high) of the line stand in, searched for, or beside one of them."""
        row = self.rows.at(low) if near is None else self._row_before(low, near)
        last = row.copy()
        (long,) = np.nonzero(high > self.rows.take(row + 1))
        for _ in range(_WALK if near is not None else 0):
            last[long] += 1
            long = long[high[long] > self.rows.take(last[long] + 1)]
        last[long] = self.rows.at(high[long] - 1)
        pair, row = spread(row, last)
        first, end = np.maximum(low[pair], self.rows.take(row)), np.minimum(high[pair], self.rows.take(row + 1))
        tokens = end - first
        (cut,) = np.nonzero(self.gaps.touch(low, high)[pair])
        tokens[cut] -= self.gaps.before(end[cut]) - self.gaps.before(first[cut])
        (fed,) = np.nonzero(tokens > 0)
        return Parts(which[pair[fed]], row[fed], tokens[fed])

    def _row_before(self, place: Int64, near: Int64) -> Int64:
        """The sample in which each place of the line lies, given one not before it."""
        row = near.copy()
        (behind,) = np.nonzero(self.rows.take(row) > place)
        for _ in range(_WALK):
            row[behind] -= 1
            behind = behind[self.rows.take(row[behind]) > place[behind]]
        row[behind] = self.rows.at(place[behind])
        return row

    def _fed(self, which: Int64, low: Int64, high: Int64) -> tuple[Int64, Int64, Int64]:
        """[low, high) without the gaps: which, low, high of what is left, cut behind the last document too."""
        which, low, high = self.gaps.leave(which, low, high)
        epoch = low // self.tokens
        over = epoch * self.tokens + self.tokens - self.turns[epoch]
        (cut,) = np.nonzero((low < over) & (over < high))
        if not len(cut):
            return which, low, high
        ends = high.copy()
        ends[cut] = over[cut]
        return np.append(which, which[cut]), np.append(low, over[cut]), np.append(ends, high[cut])

    def _pieces_on_line(self, which: Int64, low: Int64, high: Int64) -> Held:
        """The documents of stretches [low, high) of the line: of all the first one, then of those that go on the next one."""
        if (low == high).any():
            which, low, high = (column[low < high] for column in (which, low, high))
        epoch = low // self.tokens
        start = (low - epoch * self.tokens + self.turns[epoch]) % self.tokens
        document = self.documents.at(start)
        begin, rest, place = self.documents.take(document), high - low, low
        offset, found = start - begin, []
        while len(document):
            end = self.documents.take(document + 1)
            size = end - begin
            length = np.minimum(size - offset, rest)
            found.append(Held(which, document, offset, length, size, place))
            (more,) = np.nonzero(length < rest)
            which, document, rest = which[more], document[more] + 1, rest[more] - length[more]
            begin, place, offset = end[more], place[more] + length[more], np.zeros(len(more), np.int64)
        held = Held(*(np.concatenate(column) for column in zip(*found, strict=True))) if found else Held(*[low] * 6)
        return held if held.length.all() else chosen(held, held.length > 0)

    def _loose_parts(self, which: Int64, document: Int64, rows: int) -> Parts:
        listed = self.loose.doc_index
        first = listed.at(document - 1) + 1
        (there,) = np.nonzero(first < len(listed))
        there = there[listed.take(first[there]) == document[there]]
        first, wanted = first[there], document[there]
        last, more = first.copy(), np.arange(len(first))
        for _ in range(_WALK):  # most have one
            more = more[last[more] + 1 < len(listed)]
            more = more[listed.take(last[more] + 1) == wanted[more]]
            last[more] += 1
        last[more] = listed.at(wanted[more])
        pair, piece = spread(first, last)
        which = which[there[pair]]
        row = self._row_of_loose(self.loose.row[piece].astype(np.int64))
        (begun,) = np.nonzero(row < rows)
        return Parts(which[begun], row[begun], self.loose.length[piece[begun]].astype(np.int64))

    def _loose_pieces(self, which: Int64, row: Int64) -> Held:
        number = self._loose_of_row(row)
        pair, place = spread(self.loose.bounds.take(number), self.loose.bounds.take(number + 1) - 1)
        piece = self.loose.by_row[place].astype(np.int64)
        offset, length = (column[piece].astype(np.int64) for column in (self.loose.doc_offset, self.loose.length))
        none = np.full(len(piece), -1)
        return Held(which[pair], self.loose.doc_index.take(piece), offset, length, none, none)

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

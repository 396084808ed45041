"""Documents in the order in which training first showed them, a batch at a time: nothing is sorted or held as a whole.

The samples of a stretch of training name the documents that they hold; the table names all other samples of these, the order
formula when they were consumed. A document is given out with the stretch of its first exposure. What is kept are two bits a
document: whether it stands in a loose sample, and whether it was given out, which saves looking at it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ledger.order import Int64
from ledger.plan import DataPlan
from ledger.table import DocumentTable, Pieces

_CHUNK = 1 << 15  # samples looked at together
T = TypeVar("T")
Bits = npt.NDArray[np.uint8]


class Shown(NamedTuple):
    """Documents by number: consumed samples that hold a part of each, tokens in them, first and last consumption index."""

    doc_index: Int64
    exposures: Int64
    tokens: Int64
    first: Int64
    last: Int64

    def ordered(self) -> Shown:
        """In the order of first exposure, then of number."""
        if not len(self.first):
            return self
        order = np.argsort((self.first - self.first.min()) * (int(self.doc_index.max()) + 1) + self.doc_index, kind="stable")
        return Shown(*(column[order] for column in self))


@dataclass(frozen=True)
class Training:
    """A stretch of training over packed samples.

    Attributes:
        table, plan: the documents behind the samples, and when samples are consumed.
        trained: consumption indices that count, as ascending half-open ranges, shape [n, 2].
    """

    table: DocumentTable
    plan: DataPlan
    trained: Int64

    @property
    def until(self) -> int:
        """End of the last range."""
        return int(self.trained[-1, 1]) if len(self.trained) else 0

    @property
    def masking_epochs(self) -> int:
        """How many masking epochs were begun."""
        return min(self.table.epochs, -(-self.until // self.plan.order.samples))

    def shown(self, doc_index: Int64) -> Shown:
        """Ascending documents, those of them that were shown."""
        parts = self.table.parts_of(doc_index, self.masking_epochs)
        which, consumption = self.plan.order.consumptions(parts.row, self.until)
        return self._summed(doc_index, parts.which[which], consumption, parts.tokens[which])

    def in_order(self, workers: int = 2) -> Iterator[Shown]:
        """Every document that was shown, in batches, in the order of first exposure."""
        given, loose = (np.zeros(-(-self.table.count // 8), np.uint8) for _ in range(2))
        listed = self.table.loose.doc_index
        for start in range(0, len(listed), _CHUNK):
            _mark(loose, listed.take(np.arange(start, min(start + _CHUNK, len(listed)))))
        chunks = _chunks(self.trained, self.plan.order.samples)
        for found, again in _ahead(lambda chunk: self._begun(*chunk, given, loose), chunks, workers):
            _mark(given, again)
            yield found

    def _begun(self, start: int, end: int, given: Bits, loose: Bits) -> tuple[Shown, Int64]:
        """Documents whose first exposure lies in [start, end), a stretch of one epoch, and those that will come again."""
        consumption = np.arange(start, end)
        rows = self.plan.order.rows(consumption)
        order = np.argsort(rows)
        rows, consumption = rows[order], consumption[order]
        pieces = self.table.unsorted_pieces_of(rows)
        (new,) = np.nonzero(~_marked(given, pieces.doc_index))
        which, document, length = pieces.which[new], pieces.doc_index[new], pieces.length[new]
        if self.until > self.plan.order.samples:  # samples may come again, documents do: ask for all of them
            found = _within(self.shown(np.unique(document)), start, end)
            return found.ordered(), found.doc_index
        size, listed = self.table.length_of(document), _marked(loose, document)
        whole = (length == size) & ~listed  # all of it in this sample and in no other
        when = consumption[which[whole]]
        alone = Shown(document[whole], np.ones(len(when), np.int64), length[whole], when, when)
        (cut,) = np.nonzero(~whole & ~listed)
        other = self.table.rest_of(Pieces(*(column[new[cut]] for column in pieces)), rows[which[cut]])
        halves, both = cut[other >= 0], other[other >= 0]
        halved = self._halved(document[halves], length[halves], size[halves], consumption[which[halves]], both)
        (others,) = np.nonzero(~whole)
        others = np.setdiff1d(others, halves, assume_unique=True)
        found = self._shown_of(document[others], rows[which[others]], consumption[which[others]])
        parts = [alone, *(_within(some, start, end) for some in (halved, found))]
        again = np.sort(np.concatenate([part.doc_index for part in parts[1:]]))
        return Shown(*(np.concatenate(columns) for columns in zip(*parts, strict=True))).ordered(), again

    def _halved(self, document: Int64, length: Int64, size: Int64, consumption: Int64, other: Int64) -> Shown:
        """Documents of two samples, given what was consumed of one and the row of the other, each once."""
        when = np.full(len(other), self.until)
        which, found = self.plan.order.consumptions(other, self.until)
        when[which] = found
        twice = self._trained_at(when)
        shown = Shown(document, 1 + twice, np.where(twice, size, length), consumption, np.where(twice, when, consumption))
        first = ~twice | (when > consumption)  # else the other sample tells of it
        return Shown(*(column[first] for column in shown))

    def _trained_at(self, consumption: Int64) -> npt.NDArray[np.bool_]:
        return np.asarray(np.searchsorted(self.trained.ravel(), consumption, side="right") % 2 == 1)

    def _shown_of(self, document: Int64, row: Int64, consumption: Int64) -> Shown:
        """`shown` of documents, given one sample of each and when it was consumed; every sample is consumed once at most."""
        order = np.argsort(document, kind="stable")
        document, row, consumption = document[order], row[order], consumption[order]
        first = np.flatnonzero(np.diff(document, prepend=-1))
        document, row, consumption = document[first], row[first], consumption[first]
        parts = self.table.parts_of(document, self.masking_epochs)
        when = consumption[parts.which]
        (other,) = np.nonzero(parts.row != row[parts.which])
        when[other] = self.until
        which, found = self.plan.order.consumptions(parts.row[other], self.until)
        when[other[which]] = found
        seen = when < self.until
        return self._summed(document, parts.which[seen], when[seen], parts.tokens[seen])

    def _summed(self, doc_index: Int64, which: Int64, consumption: Int64, tokens: Int64) -> Shown:
        """Sums by document over what was trained on; `which` ascends."""
        inside = self._trained_at(consumption)
        which, consumption, tokens = which[inside], consumption[inside], tokens[inside]
        start = np.flatnonzero(np.diff(which, prepend=-1))
        if not len(start):
            return Shown(*(np.empty(0, np.int64) for _ in Shown._fields))
        exposures = np.diff(start, append=len(which))
        first, last = np.minimum.reduceat(consumption, start), np.maximum.reduceat(consumption, start)
        return Shown(doc_index[which[start]], exposures, np.add.reduceat(tokens, start), first, last)


def _within(shown: Shown, start: int, end: int) -> Shown:
    inside = (start <= shown.first) & (shown.first < end)
    return Shown(*(column[inside] for column in shown))


def _mark(bits: Bits, ascending: Int64) -> None:
    """Set the bits of some documents."""
    if len(ascending):
        byte = ascending >> 3
        first = np.flatnonzero(np.diff(byte, prepend=-1))
        bits[byte[first]] |= np.bitwise_or.reduceat(np.left_shift(1, ascending & 7).astype(np.uint8), first)


def _marked(bits: Bits, doc_index: Int64) -> npt.NDArray[np.bool_]:
    return np.asarray(bits.take(doc_index >> 3) >> (doc_index & 7).astype(np.uint8) & 1 == 1)


def _chunks(ranges: Int64, samples: int) -> Iterator[tuple[int, int]]:
    """The ranges cut at the ends of epochs, and into pieces of bounded length."""
    for first, end in ranges.tolist():
        start = first
        while start < end:
            stop = min(end, start + _CHUNK, (start // samples + 1) * samples)
            yield start, stop
            start = stop


def _ahead(function: Callable[[tuple[int, int]], T], chunks: Iterable[tuple[int, int]], workers: int) -> Iterator[T]:
    """`function` of every chunk, in order, a few ahead of who takes them."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[T]] = deque()
        for chunk in chunks:
            waiting.append(pool.submit(function, chunk))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

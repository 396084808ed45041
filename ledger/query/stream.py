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
from ledger.table.arrays import argsort, chosen
from ledger.table.bits import Bits, mark, marked, unmarked
from ledger.table.documents import NOTHING, UNKNOWN, DocumentTable, Held

_CHUNK = 1 << 15  # samples looked at together
_MARKED = 1 << 20  # documents marked together
T = TypeVar("T")


class Shown(NamedTuple):
    """Documents by number: consumed samples that hold a part of each, tokens in them, first and last consumption index."""

    doc_index: Int64
    exposures: Int64
    tokens: Int64
    first: Int64
    last: Int64

    def ordered(self) -> Shown:
        """In the order of first exposure, then of number."""
        return chosen(self, argsort(self.first, self.doc_index))


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
        given, loose = unmarked(self.table.count), unmarked(self.table.count)
        listed = self.table.loose.doc_index
        for start in range(0, len(listed), _MARKED):
            mark(loose, listed.take(np.arange(start, min(start + _MARKED, len(listed)))))
        chunks = _chunks(self.trained, self.plan.order.samples)
        begun = self._begun_again if self.until > self.plan.order.samples else self._begun
        for found, again in _ahead(lambda chunk: begun(*chunk, given, loose), chunks, workers):
            mark(given, again)
            yield found

    def _begun_again(self, start: int, end: int, given: Bits, loose: Bits) -> tuple[Shown, Int64]:
        """As `_begun`, where samples may come again, and documents do: all of theirs are asked for."""
        document = self.table.held_by(np.sort(self.plan.order.rows(np.arange(start, end)))).doc_index
        found = _within(self.shown(np.unique(document[~marked(given, document)])), start, end)
        return found.ordered(), found.doc_index

    def _begun(self, start: int, end: int, given: Bits, loose: Bits) -> tuple[Shown, Int64]:
        """Documents whose first exposure lies in [start, end), a stretch of one epoch, and those that will come again."""
        rows = self.plan.order.rows(np.arange(start, end))
        order = argsort(rows)
        rows, consumption = rows.take(order), start + order
        held = self.table.held_by(rows)
        held = chosen(held, ~marked(given, held.doc_index))
        row, when = rows.take(held.which), consumption.take(held.which)
        other, listed = self.table.rest_of(held, row), marked(loose, held.doc_index)
        (whole,) = np.nonzero((other == NOTHING) & ~listed)
        times = when.take(whole)
        alone = Shown(held.doc_index.take(whole), np.ones_like(whole), held.length.take(whole), times, times)
        halves = (other >= 0) & ~listed
        halved = self._halved(chosen(held, halves), when[halves], other[halves])
        (others,) = np.nonzero(listed | (other == UNKNOWN))
        found = self._shown_of(chosen(held, others), row[others], other[others], when[others], listed[others])
        parts = [alone, *(_within(some, start, end) for some in (halved, found))]
        later = np.concatenate([part.doc_index for part in parts[1:]])
        return Shown(*(np.concatenate(columns) for columns in zip(*parts, strict=True))).ordered(), later[argsort(later)]

    def _halved(self, held: Held, consumption: Int64, other: Int64) -> Shown:
        """Documents of two samples, given what was consumed of one and the row of the other, each once."""
        when = np.full(len(other), self.until)
        which, found = self.plan.order.consumptions(other, self.until)
        when[which] = found
        twice = self._trained_at(when)
        tokens, last = np.where(twice, held.size, held.length), np.where(twice, when, consumption)
        first = ~twice | (when > consumption)  # else the other sample tells of it
        return chosen(Shown(held.doc_index, 1 + twice, tokens, consumption, last), first)

    def _shown_of(self, held: Held, row: Int64, other: Int64, when: Int64, listed: npt.NDArray[np.bool_]) -> Shown:
        """`shown` of the documents of pieces, given when these were consumed; every sample is consumed once at most."""
        order = argsort(held.doc_index)
        order = order[np.flatnonzero(np.diff(held.doc_index[order], prepend=-1))]
        held, row, other, when, listed = chosen(held, order), row[order], other[order], when[order], listed[order]
        parts = self.table.parts_near(held, row, other, listed)
        consumption = when[parts.which]
        (elsewhere,) = np.nonzero(parts.row != row[parts.which])
        consumption[elsewhere] = self.until
        which, found = self.plan.order.consumptions(parts.row[elsewhere], self.until)
        consumption[elsewhere[which]] = found
        return self._summed(held.doc_index, parts.which, consumption, parts.tokens)

    def _trained_at(self, consumption: Int64) -> npt.NDArray[np.bool_]:
        return np.asarray(np.searchsorted(self.trained.ravel(), consumption, side="right") % 2 == 1)

    def _summed(self, doc_index: Int64, which: Int64, consumption: Int64, tokens: Int64) -> Shown:
        """Sums by document over what was trained on; `which` ascends."""
        (inside,) = np.nonzero(self._trained_at(consumption))
        which, consumption, tokens = which[inside], consumption[inside], tokens[inside]
        start = np.flatnonzero(np.diff(which, prepend=-1))
        if not len(start):
            return Shown(*(np.empty(0, np.int64) for _ in Shown._fields))
        exposures = np.diff(start, append=len(which))
        first, last = np.minimum.reduceat(consumption, start), np.maximum.reduceat(consumption, start)
        return Shown(doc_index[which[start]], exposures, np.add.reduceat(tokens, start), first, last)


def _within(shown: Shown, start: int, end: int) -> Shown:
    return chosen(shown, (start <= shown.first) & (shown.first < end))


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

"""A ledger of a training that never was, at any size: documents, packed samples and a journal by the published proportions.

GLM-130B consumed 195,591,480 sequences of 2,048 tokens; the corpus here has two documents a sequence, of log-normal length.
70 % of the text samples take 2,046 tokens, the others 1,792, of which 2 % of four blocks lack a part; 5 % of all samples hold
four instructions, each of a document drawn at random. All follows from a seed, chunk by chunk; nothing is kept but the table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ledger.journal import Journal, Segment
from ledger.order import Int64, Order
from ledger.plan import DataPlan
from ledger.query import Ledger
from ledger.schedule import BatchRamp
from ledger.table.documents import DocumentTable
from ledger.table.sources import Names
from ledger.table.tabulate import Batch, Described, Groups, tabulate

PUBLISHED = 416_000_000
_BLOCK = 1 << 20  # documents that are drawn together
_ROWS = 1 << 18  # samples that are laid out together
_GMASK, _MASK = 2_046, 1_792
_BLOCKS, _GROUPS = 4, 40


@dataclass(frozen=True)
class Size:
    """How much there is: documents, and two documents to a sample, of which 5 % are instructions."""

    documents: int

    @property
    def samples(self) -> int:
        """Packed samples of the one masking epoch."""
        return self.documents // 2

    @property
    def text(self) -> int:
        """Those of running text."""
        return self.samples - self.samples // 20

    def lengths(self, block: int) -> Int64:
        """Tokens of the documents of one block."""
        count = min(_BLOCK, self.documents - block * _BLOCK)
        spare = 1.002 + 5 / self.documents**0.5  # so that the documents suffice, whatever is drawn
        mean = spare * self.text * (0.7 * _GMASK + 0.3 * _MASK) / self.documents
        drawn = np.random.default_rng([7, block]).standard_normal(count, np.float32)
        return np.clip(np.exp(drawn) * (mean / np.exp(0.5)), 8, 400_000).astype(np.int64) + 1

    @property
    def blocks(self) -> int:
        """Blocks of documents."""
        return -(-self.documents // _BLOCK)


def make(folder: Path, size: Size) -> DocumentTable:
    """The document table of such a corpus, made by the code that makes every other."""
    groups = Groups({(f"source-{number // 2}", ("en", "zh")[number % 2], "MIT"): number for number in range(_GROUPS)})
    return tabulate(folder, size.samples, 1, _documents(size), groups, _pieces(size))


def open_ledger(folder: Path, size: Size) -> Ledger:
    """A ledger over the table in a folder: a training by GLM-130B's schedule, with its two skipped ranges."""
    table = DocumentTable.load(folder)
    ramp = BatchRamp(start=192, end=4_224, increment=24, ramp_samples=5_493_164)
    steps = int(ramp.step_of(min(size.samples, 195_591_480) - 1)) or 1
    plan = DataPlan(Order(1234, size.samples, 1), ramp, steps, "0" * 64)
    journal = Journal.open(folder.parent / f"{folder.name}.jsonl")
    if not journal.segments:
        skipped = tuple((a, b) for a, b in ((40_700, 40_899), (42_400, 42_599)) if b < steps)
        weights = hashlib.sha256(b"weights").hexdigest()
        last = int(ramp.consumed(steps)) - 1
        journal.append(Segment(None, 0, steps - 1, 0, last, plan.digest, "kept", "newest", weights, skipped))
    ledger = Ledger.__new__(Ledger)
    ledger.root, ledger.plan, ledger.journal, ledger.sources = folder, plan, journal, _Names(size.documents)  # type: ignore[assignment]
    ledger.__dict__["table"] = table
    return ledger


class _Names:
    """In place of a project's tables of names: a document's number is its name."""

    def __init__(self, documents: int) -> None:
        self.documents = documents

    def all_names(self) -> Names:
        numbers = range(0, self.documents, _BLOCK)
        return Names([self.names(np.arange(first, min(first + _BLOCK, self.documents))) for first in numbers])

    def names(self, doc_index: Int64) -> pa.Array:
        return pa.array(doc_index).cast(pa.string())


def _documents(size: Size) -> Iterator[Described]:
    for block in range(size.blocks):
        lengths = size.lengths(block)
        first = block * _BLOCK
        group = np.arange(first, first + len(lengths)) * _GROUPS // size.documents
        yield Described(lengths, group, True)


def _pieces(size: Size) -> Iterator[Batch]:
    starts, numbers, block, place = np.zeros(0, np.int64), 0, 0, 0
    reached = 0  # end of the last document drawn
    for first in range(0, size.text, _ROWS):
        rows, holes = _rows(first, min(_ROWS, size.text - first), place)
        while reached < rows[-1]:
            lengths = size.lengths(block)
            starts = np.concatenate([starts, reached + np.cumsum(lengths) - lengths])
            reached, block = reached + int(lengths.sum()), block + 1
        kept = int(np.searchsorted(starts, place, side="right")) - 1
        starts, numbers = starts[kept:], numbers + kept
        until = int(np.searchsorted(starts, rows[-1]))
        cuts = np.sort(np.concatenate([rows[:-1], starts[1:until], holes.ravel()]), kind="stable")
        low, high = cuts, np.append(cuts[1:], rows[-1])
        inside = np.searchsorted(holes.ravel(), low, side="right") % 2 == 0
        low, high = low[inside & (low < high)], high[inside & (low < high)]
        document = np.searchsorted(starts[:until], low, side="right") - 1
        sample = np.searchsorted(rows, low, side="right") - 1 + first
        yield Batch(sample, document + numbers, low - starts[document], high - low)
        place = int(rows[-1])
    for first in range(size.text, size.samples, _ROWS):
        rng, count = np.random.default_rng([8, first]), min(_ROWS, size.samples - first)
        sample = np.repeat(np.arange(first, first + count), _BLOCKS)
        lengths = rng.integers(48, 512, len(sample))
        yield Batch(sample, rng.integers(0, size.documents, len(sample)), np.zeros(len(sample), np.int64), lengths)


def _rows(first: int, count: int, place: int) -> tuple[Int64, Int64]:
    """Bounds of samples on the line [count + 1], and stretches that they lack [n, 2]."""
    rng = np.random.default_rng([9, first])
    sizes = np.where(rng.random(count) < 0.7, _GMASK, _MASK)
    bounds = place + np.concatenate([[0], np.cumsum(sizes)])
    short = np.flatnonzero((sizes == _MASK) & (rng.random(count) < 0.02 * _BLOCKS))
    begin = bounds[short] + rng.integers(32, _MASK // 2, len(short))
    return bounds, np.stack([begin, begin + rng.integers(1, 400, len(short))], axis=1)

"""All statistics that the quality rules look at, counted in one pass over the UTF-8 bytes of a batch of documents.

Everything counted is an integer, so that another implementation can agree exactly (tests/support/clean_oracle.py does, in
plain Python); the shares and means are taken in `rules`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages._jit import kernels
from stages.clean import characters, columns, counting, phrases, repetition, runs
from stages.clean.characters import SCRIPTS
from stages.clean.columns import AT, COLUMNS
from stages.clean.counting import scan
from stages.clean.phrases import find_phrases, hints
from stages.clean.repetition import MAX_N, WORK_ROWS, repeated_lines, repeated_ngrams
from stages.clean.runs import Runs, slots


@dataclass(frozen=True)
class Statistics:
    """Counts of a batch.

    Attributes:
        counts: int64 [documents, len(COLUMNS)].
    """

    counts: npt.NDArray[np.int64]

    def __getitem__(self, column: str) -> npt.NDArray[np.int64]:
        """One statistic of every document, int64 [documents]."""
        return self.counts[:, AT[column]]

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def characters(self) -> npt.NDArray[np.int64]:
        """Code points of every document."""
        total: npt.NDArray[np.int64] = self.counts[:, : len(SCRIPTS)].sum(axis=1)
        return total

    @property
    def letters(self) -> npt.NDArray[np.int64]:
        """Letters of every script."""
        return self["han"] + self["latin"] + self["other_letter"]


def measure(texts: list[str] | pa.LargeStringArray) -> Statistics:
    """The statistics of a batch of documents."""
    array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
    buffer, offsets = utf8(array)
    counts = np.zeros((len(array), len(COLUMNS)), np.int64)
    _measure_all(buffer, offsets, characters.table(), _rooms(int(np.diff(offsets).max(initial=0))), counts)
    return Statistics(counts)


def utf8(array: pa.LargeStringArray) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes of a column of texts and the place in them where each text starts, and the last ends; nothing is copied."""
    _, offsets, data = array.buffers()
    if not len(array) or data is None:
        return np.zeros(0, np.uint8), np.zeros(len(array) + 1, np.int64)
    places = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, np.uint8), places


class _Rooms(threading.local):
    """Arrays that the kernels work in, kept from batch to batch: fresh memory is dear, and one long document needs much."""

    capacity = -1

    def __call__(self, longest: int) -> tuple[Any, ...]:
        """Rooms for documents of up to `longest` bytes."""
        if longest > self.capacity:
            self.capacity = max(longest, 1 << 16)
            entries = self.capacity + MAX_N + 2
            self.rooms = (
                *(Runs(*(np.empty(entries, np.int64) for _ in Runs._fields)) for _ in range(2)),  # units and lines
                np.empty(entries, np.int64),  # the paragraph of each line
                np.empty(slots(4 * entries), np.int32),
                np.empty((WORK_ROWS, entries), np.int32),
                np.empty(entries + 1, np.int64),
            )
        return self.rooms


_rooms = _Rooms()


@kernels(
    __file__, characters.__file__, columns.__file__, counting.__file__, phrases.__file__, repetition.__file__, runs.__file__
)
def _measure_all(buffer, offsets, table, rooms, counts):  # type: ignore[no-untyped-def]
    units, lines, paragraph, slot_table, work, prefix = rooms
    for document in range(len(offsets) - 1):
        row = counts[document]
        start, end = offsets[document], offsets[document + 1]
        n_units, n_lines = scan(buffer, start, end, table, units, lines, paragraph, row)
        if hints(buffer, start, end):
            find_phrases(buffer, lines, n_lines, row)
        repeated_lines(buffer, lines, n_lines, paragraph, slot_table, work, row)
        repeated_ngrams(buffer, units, n_units, slot_table, work, prefix, row)

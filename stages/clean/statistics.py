"""All statistics that the quality rules look at, counted in one pass over the UTF-8 bytes of a batch of documents.

Everything counted is an integer, so that another implementation can agree exactly (tests/support/clean_oracle.py does, in
plain Python); the shares and means are taken in `rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages._jit import kernels
from stages.clean import characters, columns, counting, repetition
from stages.clean.characters import SCRIPTS
from stages.clean.columns import AT, COLUMNS, PHRASES, STOP_WORDS
from stages.clean.counting import scan
from stages.clean.repetition import MAX_N, WORK_ROWS, repeated_lines, repeated_ngrams


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
    longest = int(np.diff(offsets).max(initial=0))
    _measure_all(buffer, offsets, longest, characters.table(_anchors()), *_phrase_table(), _stop_word_keys(), counts)
    return Statistics(counts)


def utf8(array: pa.LargeStringArray) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes of a column of texts and the place in them where each text starts, and the last ends; nothing is copied."""
    _, offsets, data = array.buffers()
    if not len(array) or data is None:
        return np.zeros(0, np.uint8), np.zeros(len(array) + 1, np.int64)
    places = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, np.uint8), places


@cache
def _phrase_table() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Bytes of the phrases, their lengths, and the place of each one's anchor: its rarest letter in English."""
    table = np.zeros((len(PHRASES), max(map(len, PHRASES))), np.uint8)
    for row, phrase in zip(table, PHRASES, strict=True):
        row[: len(phrase)] = list(phrase.encode())
    places = [next(phrase.index(letter) for letter in "vkfp" if letter in phrase) for phrase in PHRASES]
    return table, np.array([len(phrase) for phrase in PHRASES]), np.array(places)


@cache
def _anchors() -> str:
    letters = {phrase[place] for phrase, place in zip(PHRASES, _phrase_table()[2], strict=True)}
    return "".join(sorted(letters | {letter.upper() for letter in letters}))


@cache
def _stop_word_keys() -> npt.NDArray[np.int64]:
    return np.array([int.from_bytes(word.encode(), "big") for word in STOP_WORDS], np.int64)


@kernels(__file__, columns.__file__, counting.__file__, repetition.__file__)
def _measure_all(buffer, offsets, longest, table, phrases, lengths, anchors, stop_words, counts):  # type: ignore[no-untyped-def]
    capacity = longest + MAX_N + 2
    units = np.empty((capacity, 4), np.int64)
    lines = np.empty((capacity, 4), np.int64)
    paragraph = np.empty(capacity, np.int64)  # of each line
    slots = 16
    while slots < 2 * capacity:
        slots *= 2
    slot_table = np.empty(slots, np.int32)
    work = np.empty((WORK_ROWS, capacity), np.int32)
    prefix = np.empty(capacity + 1, np.int64)
    for document in range(len(offsets) - 1):
        row = counts[document]
        start, end = offsets[document], offsets[document + 1]
        n_units, n_lines = scan(buffer, start, end, table, phrases, lengths, anchors, stop_words, units, lines, paragraph, row)
        repeated_lines(buffer, lines, n_lines, paragraph, slot_table, work, row)
        repeated_ngrams(buffer, units, n_units, slot_table, work, prefix, row)

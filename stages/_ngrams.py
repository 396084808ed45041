"""Words and n-grams of bilingual text: the one definition by which documents count as overlapping.

A unit is a Han character, kana or hangul syllable by itself, or else a run of letters and digits (a word). Case,
punctuation, blanks and apostrophes do not count, so editions that differ only in these have equal n-grams.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SINGLE = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_UNIT = re.compile(rf"[{SINGLE}]|[^\W_{SINGLE}]+")
_UNSPACED = re.compile(rf"[{SINGLE}]")
APOSTROPHES = {ord("'"): None, ord("’"): None}


def units(text: str) -> list[str]:
    """The units of `text` in order, casefolded."""
    return _UNIT.findall(text.casefold().translate(APOSTROPHES))


def is_unspaced(unit: str) -> bool:
    """Whether a unit belongs to a script that is written without blanks between words."""
    return _UNSPACED.match(unit) is not None


def ngrams(sequence: list[str], n: int) -> Iterator[str]:
    """The n-grams of a sequence of units in order, each as its units joined by blanks; none where it is shorter than n."""
    return map(" ".join, zip(*(sequence[start:] for start in range(n)), strict=False))


def shingles(text: str, n: int) -> set[str]:
    """The set of n-grams of `text`, never empty: a text shorter than n is one shingle, a text without units is its own."""
    sequence = units(text)
    return set(ngrams(sequence, n)) or {" ".join(sequence) or text}

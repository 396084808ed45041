"""One quick pass over the bytes of a batch that tells which documents the slow steps have nothing to do with.

Most documents hold no mojibake, no invisible characters and no digits in a row. The steps themselves decide; the screen only
says where they need not look, and must never be wrong about that: what it passes, they would leave as it is.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import numpy.typing as npt

from stages._jit import kernels
from stages.clean import counting
from stages.clean.counting import decode
from stages.clean.normalise import HIGH, LEAD, LINE_BLANKS, UNUSUAL
from stages.clean.privacy import SHORTEST_NUMBER

# What the screen found in a document.
UNTIDY, MOJIBAKE, NUMBERS, ADDRESSES = 1, 2, 4, 8
# Classes of characters.
_UNUSUAL, _LEAD, _HIGH, _DIGIT, _RUN, _BLANK, _AT, _COLON = (1 << bit for bit in range(8))
_CLASSES = {
    _UNUSUAL: UNUSUAL,
    _LEAD: LEAD,
    _HIGH: HIGH,
    _DIGIT: "0-9",
    _RUN: r"0-9\- .()（）:",
    _BLANK: LINE_BLANKS,
    _AT: "@",
    _COLON: ":",
}
_CODES = 0x10000  # all of the classes lie in the first plane, but the joiner's neighbours, which need no class


def screen(buffer: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], max_blank_lines: int) -> npt.NDArray[np.uint8]:
    """What may be in each document, as a sum of UNTIDY, MOJIBAKE, NUMBERS and ADDRESSES, uint8 [documents]."""
    found = np.zeros(len(offsets) - 1, np.uint8)
    _screen(buffer, offsets, _table(), max_blank_lines, found)
    return found


@cache
def _table() -> npt.NDArray[np.uint8]:
    table = np.zeros(_CODES, np.uint8)
    every = "".join(chr(code) for code in range(_CODES) if not 0xD800 <= code < 0xE000)
    for bit, characters in _CLASSES.items():
        table[[ord(char) for char in re.findall(f"[{characters}]", every)]] |= bit
    return table


@kernels(__file__, counting.__file__)
def _screen(buffer, offsets, table, max_blank_lines, found):  # type: ignore[no-untyped-def]
    for document in range(len(found)):
        place, end = offsets[document], offsets[document + 1]
        before, run, colons, bits = np.int64(0), 0, 0, 0
        newlines = np.int64(max_blank_lines + 1)  # a line end at the start is one too many
        while place < end:
            code, size = decode(buffer, place)
            cls = np.int64(table[code]) if code < _CODES else np.int64(0)
            place += size
            if code == 10:
                newlines += 1
                if newlines > max_blank_lines + 1 or before & _BLANK:
                    bits |= UNTIDY
            else:
                newlines = np.int64(0)
            if cls & _UNUSUAL:
                bits |= UNTIDY
            if (before & _LEAD and cls & _HIGH) or 0x80 <= code < 0xA0:
                bits |= MOJIBAKE
            run = run + 1 if cls & _RUN and (run or cls & _DIGIT) else 0
            if run >= SHORTEST_NUMBER:
                bits |= NUMBERS
            if cls & _AT:
                bits |= ADDRESSES
            if cls & _COLON:
                colons += 1
                if colons > 1:
                    bits |= ADDRESSES
            before = cls
        if end > offsets[document] and (newlines or before & _BLANK):
            bits |= UNTIDY
        found[document] = bits

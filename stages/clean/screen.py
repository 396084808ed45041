"""One quick pass over the bytes of a batch that tells which documents the slow steps have nothing to do with.

Most documents hold no mojibake, no invisible characters and no long numbers. The steps themselves decide; the screen only
says where they need not look, and must never be wrong about that: what it passes, they would leave as it is.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, partial

import numpy as np
import numpy.typing as npt

from stages._jit import kept, kernels
from stages.clean import characters, columns, counting, normalise, privacy, runs
from stages.clean.counting import decode
from stages.clean.normalise import HIGH, LEAD, UNUSUAL, is_normalised
from stages.clean.privacy import FEWEST_DIGITS, FEWEST_DOTS, SHORTEST_NUMBER
from stages.clean.runs import eight_bytes, inlined

# What the screen found in a document. FORM: it may not be in the normal form.
UNTIDY, MOJIBAKE, NUMBERS, ADDRESSES, FORM = 1, 2, 4, 8, 16
# Classes of characters.
_UNUSUAL, _LEAD, _HIGH, _RUN, _UNSTABLE = (1 << bit for bit in range(5))
_CLASSES = {_UNUSUAL: UNUSUAL, _LEAD: LEAD, _HIGH: HIGH, _RUN: r"0-9\- .()（）:"}
_CODES = 0x10000  # the first plane, in which all of these lie; the others may not be in normal form
_JAMO = "\u1161-\u1175\u11a8-\u11c2"  # vowels and ends of Korean syllables, which join what stands before them
_TAB, _NEWLINE, _BLANK, _COLON, _AT = 9, 10, 32, 58, 64
# Bytes of which eight at a time are passed over: from the blank on, without digits, the colon behind them, @ and DEL.
_LOWEST, _HIGHEST = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_FROM_BLANK, _FROM_0, _BEHIND_COLON, _BEHIND_TILDE = (_LOWEST * np.uint64(0x80 - byte) for byte in (0x20, 0x30, 0x3B, 0x7F))
_ATS = _LOWEST * np.uint64(_AT)


def screen(
    buffer: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], max_blank_lines: int, form: str = "NFC"
) -> npt.NDArray[np.uint8]:
    """What may be in each document, as a sum of UNTIDY, MOJIBAKE, NUMBERS, ADDRESSES and FORM, uint8 [documents]."""
    found = np.zeros(len(offsets) - 1, np.uint8)
    _screen(buffer, offsets, _table(form), max_blank_lines, found)
    return found


@cache
def _table(form: str) -> npt.NDArray[np.uint8]:
    """The classes of each code point of the first plane, uint8 [_CODES]."""
    return kept(f"screen-{form}", partial(_made, form), __file__, normalise.__file__)["table"]


def _made(form: str) -> dict[str, npt.NDArray[np.uint8]]:
    table = np.zeros(_CODES, np.uint8)
    every = "".join(chr(code) for code in range(_CODES) if not 0xD800 <= code < 0xE000)
    for bit, members in _CLASSES.items():
        table[[ord(char) for char in re.findall(f"[{members}]", every)]] |= bit
    others = re.sub("[\u4e00-\u9fff\uac00-\ud7a3\ue000-\uf8ff]", "", every)  # these are stable: Han, hangul, private use
    pairs = (unicodedata.decomposition(char).split() for char in others)
    joining = {chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2 and pair[0][0] != "<"}
    joining |= set(re.findall(f"[{_JAMO}]", every))
    unstable = [char for char in others if char in joining or unicodedata.combining(char) or not is_normalised(char, form)]
    table[[ord(char) for char in unstable]] |= _UNSTABLE
    return {"table": table}


@kernels(__file__, characters.__file__, columns.__file__, counting.__file__, privacy.__file__, runs.__file__)
def _screen(buffer, offsets, table, max_blank_lines, found):  # type: ignore[no-untyped-def]  # noqa: PLR0912 (one loop)
    for document in range(len(found)):
        start, end = offsets[document], offsets[document + 1]
        place, lead_end, bits = start, np.int64(-1), 0
        while place < end:
            if place + 8 <= end and _dull(eight_bytes(buffer, place)):
                place += 8
                continue
            code, size = decode(buffer, place)
            cls = table[code] if code < _CODES else _UNSTABLE
            if cls & _UNUSUAL or (code == _NEWLINE and _untidy_end(buffer, start, place, max_blank_lines)):
                bits |= UNTIDY
            if code >= 0x80:
                if (place == lead_end and cls & _HIGH) or code < 0xA0:
                    bits |= MOJIBAKE
                if cls & _LEAD:
                    lead_end = place + size
                if cls & _UNSTABLE:
                    bits |= FORM
            elif code == _AT or (code == _COLON and _hextet(buffer, place, end)):
                bits |= ADDRESSES
            elif 48 <= code < _COLON:
                behind, digits, dots, hextets = _number(buffer, place, end, table)
                size = behind - place
                if size >= SHORTEST_NUMBER and (digits >= FEWEST_DIGITS or dots >= FEWEST_DOTS):
                    bits |= NUMBERS
                if hextets:
                    bits |= ADDRESSES
            place += size
        if end > start and (buffer[end - 1] == _NEWLINE or _blank_before(buffer, start, end)):
            bits |= UNTIDY
        found[document] = bits


@inlined
def _dull(eight):  # type: ignore[no-untyped-def]
    """Whether none of eight bytes is of any interest; the highest bit of each tells."""
    bits = eight & ~_HIGHEST
    ats = bits ^ _ATS
    number = (bits + _FROM_0) & ~(bits + _BEHIND_COLON)
    plain = (bits + _FROM_BLANK) & ~(bits + _BEHIND_TILDE) & ~number & (ats + ~_HIGHEST)
    return (plain & ~eight & _HIGHEST) == _HIGHEST


@inlined
def _number(buffer, place, end, table):  # type: ignore[no-untyped-def]
    """Read what may be a number: the place behind it, its digits and dots, and whether it holds a part of an IPv6 address."""
    digits = dots = 0
    hextets = False
    while place < end:
        code, size = decode(buffer, place)
        if code >= _CODES or not table[code] & _RUN:
            break
        place += size
        digits += 48 <= code < _COLON
        dots += code == 46
        hextets |= code == _COLON and _hextet(buffer, place - 1, end)
    return place, digits, dots, hextets


@inlined
def _hextet(buffer, place, end):  # type: ignore[no-untyped-def]
    """Whether the colon at `place` may be the first of a public IPv6 address: behind a group from 2000 on, before another."""
    if place < 4 or buffer[place - 4] & 0xFE != 0x32:
        return False
    place, digits = place + 1, 0
    while place < end and digits < 4 and (48 <= buffer[place] < _COLON or 97 <= buffer[place] | 32 <= 102):
        place, digits = place + 1, digits + 1
    return place < end and buffer[place] == _COLON


@inlined
def _untidy_end(buffer, start, place, max_blank_lines):  # type: ignore[no-untyped-def]
    """Whether there are blanks before the line end at `place`, too many line ends, or nothing at all."""
    first = place
    while first > start and buffer[first - 1] == _NEWLINE and place - first <= max_blank_lines:
        first -= 1
    return first == start or place - first > max_blank_lines or _blank_before(buffer, start, place)


@inlined
def _blank_before(buffer, start, place):  # type: ignore[no-untyped-def]
    """Whether one of LINE_BLANKS ends at `place`."""
    if place > start and (buffer[place - 1] == _BLANK or buffer[place - 1] == _TAB):
        return True
    wide = place - 3
    return wide >= start and buffer[wide] == 0xE3 and buffer[wide + 1] == 0x80 and buffer[wide + 2] == 0x80

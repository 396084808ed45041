"""Reads the characters of a document once: counts them, and lists its units and lines."""

from __future__ import annotations

import numpy as np

from stages._jit import kernels
from stages.clean import characters, columns, runs
from stages.clean.characters import ALPHABETIC, BULLET, SCRIPT_MASK, SIMPLIFIED, SINGLE, SPACE, TERMINAL, TRADITIONAL, WORD
from stages.clean.columns import AT, FEW_WORDS, SHORT_LINE, STOP_WORDS
from stages.clean.runs import EXACT, PRIME, ascii_word, byte_key, enter, inlined, run_key

_HAN, _LATIN, _DIGIT, _BLANK = (AT[name] for name in ("han", "latin", "digit", "blank"))
_NEWLINES, _SIMPLIFIED, _TRADITIONAL = (AT[name] for name in ("newlines", "simplified", "traditional"))
_WORDS, _WORD_CHARACTERS, _ALPHABETIC_WORDS = (AT[name] for name in ("words", "word_characters", "alphabetic_words"))
_UNITS, _STOP_WORDS, _PARAGRAPHS = (AT[name] for name in ("units", "stop_words", "paragraphs"))
_ELLIPSES, _CURLY_BRACES = AT["ellipses"], AT["curly_braces"]
_LINES, _LINE_CHARACTERS, _BULLET_LINES = (AT[name] for name in ("lines", "line_characters", "bullet_lines"))
_ELLIPSIS_LINES, _TERMINAL_LINES, _SHORT_LINES = (AT[f"{name}_lines"] for name in ("ellipsis", "terminal", "short"))
_FEW_WORD_LINES = AT["few_word_lines"]
_LOWER = 0x20202020  # makes small letters of capitals, and blanks of the empty bytes behind a short word
_SLOT_BITS = 6
_STOP_KEYS = [byte_key(word.encode()) | _LOWER for word in STOP_WORDS]
_STOP_SLOTS = [((key * PRIME) & (1 << 64) - 1) >> 64 - _SLOT_BITS for key in _STOP_KEYS]  # all different, says a test
_STOP_TABLE = np.zeros(1 << _SLOT_BITS, np.int64)
_STOP_TABLE[_STOP_SLOTS] = _STOP_KEYS
_NEWLINE, _FULL_STOP, _BRACE, _ELLIPSIS = 10, 46, 123, 0x2026
_BULLET_MARK, _TERMINAL_MARK, _ELLIPSIS_MARK = 1, 2, 4

_jit = kernels(__file__, characters.__file__, columns.__file__, runs.__file__)


@inlined
def decode(buffer, place):  # type: ignore[no-untyped-def]
    """The code point at `place` of valid UTF-8 and its number of bytes."""
    first = np.int64(buffer[place])
    if first < 0x80:
        return first, 1
    second = np.int64(buffer[place + 1]) & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | second, 2
    third = np.int64(buffer[place + 2]) & 0x3F
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, 3
    return (first & 0x07) << 18 | second << 12 | third << 6 | np.int64(buffer[place + 3]) & 0x3F, 4


@_jit
def scan(buffer, start, end, table, units, lines, paragraph, row):  # type: ignore[no-untyped-def]  # noqa: PLR0915 (one loop with its state in registers)
    """Count what can be counted character by character, and list the units and lines of one document.

    Args:
        buffer: uint8, of many documents, this one from `start` to `end`.
        start: its first byte.
        end: behind its last byte.
        table: `characters.table`.
        units: `runs.Runs`, filled.
        lines: likewise; without the blanks at their ends, and only those that hold more.
        paragraph: int64, filled: the number of each line's paragraph.
        row: int64[columns], added to.

    Returns:
        The number of units and of lines.
    """
    n_units = n_lines = n_paragraphs = characters = han = blanks = 0
    line_start, line_end, marks = -1, start, 0
    line_characters, line_han, line_units = 0, 0, 0  # as many as there were before the line
    kept_characters, kept_han = 0, 0  # as many as there were behind the last character that is not blank
    in_word, word_classes, blank_before = 0, np.int64(0), 0
    dots, ellipsis_before, stops = 0, False, 0
    place = start
    while place <= end:
        code, size = _NEWLINE, 1  # a line end behind the last line closes whatever is open
        if place < end:
            code, size = decode(buffer, place)
        cls = np.int64(table[code])
        if cls & SPACE:
            row[_WORDS] += in_word
            row[_ALPHABETIC_WORDS] += (word_classes & ALPHABETIC) != 0
            in_word, word_classes, dots, ellipsis_before = 0, np.int64(0), 0, False
            if code == _NEWLINE:
                row[_NEWLINES] += place < end
                if line_start >= 0:
                    n_paragraphs += n_lines == 0 or blank_before
                    paragraph[n_lines] = n_paragraphs
                    length = kept_characters - line_characters
                    enter(lines, n_lines, run_key(buffer, line_start, line_end), line_start, line_end - line_start, length)
                    _count_line(row, marks, length, length + kept_han - line_han, n_units - line_units)
                    n_lines += 1
                blank_before = line_start < 0
                line_start, line_units = -1, n_units
            characters += 1
            blanks += 1
            place += size
            continue
        if line_start < 0:
            line_start, line_characters, line_han = place, characters, han
            marks = _BULLET_MARK if cls & BULLET else 0
        marks &= ~(_TERMINAL_MARK | _ELLIPSIS_MARK)
        in_word = 1
        word_classes |= cls
        if cls & WORD:
            first, dots, ellipsis_before = place, 0, False
            place, length, key, word_classes = _word(buffer, place, end, table, word_classes, row)
            enter(units, n_units, key, first, place - first, length)
            n_units += 1
            characters += length
            stops |= _stop_word(key)
        else:
            characters += 1
            row[cls & SCRIPT_MASK] += 1
            if cls & SINGLE:
                enter(units, n_units, code, place, size, 1)
                n_units += 1
                han += cls & SCRIPT_MASK == _HAN
                row[_SIMPLIFIED] += (cls & SIMPLIFIED) != 0
                row[_TRADITIONAL] += (cls & TRADITIONAL) != 0
            row[_CURLY_BRACES] += code == _BRACE
            dots = dots + 1 if code == _FULL_STOP else 0
            row[_ELLIPSES] += dots == 3 or (code == _ELLIPSIS and not ellipsis_before)
            ellipsis_before = code == _ELLIPSIS
            if cls & TERMINAL:
                marks |= _TERMINAL_MARK | (_ELLIPSIS_MARK if ellipsis_before or dots >= 3 else 0)
            place += size
        kept_characters, kept_han, line_end = characters, han, place
    while stops:
        row[_STOP_WORDS] += 1
        stops &= stops - 1
    row[_BLANK] += blanks - 1
    row[_WORD_CHARACTERS] = characters - blanks
    row[_UNITS], row[_LINES], row[_PARAGRAPHS] = n_units, n_lines, n_paragraphs
    return n_units, n_lines


@inlined
def _word(buffer, place, end, table, classes, row):  # type: ignore[no-untyped-def]
    """Read letters and digits: the place behind them, their number, their key, and `classes` with theirs."""
    first, wide, key = place, 0, np.int64(0)
    while place < end:
        size, letters, key = ascii_word(buffer, place, end)
        row[_LATIN] += letters
        row[_DIGIT] += size - letters
        classes |= ALPHABETIC if letters else 0
        place += size
        if size == 8:
            continue
        if place == end or buffer[place] < 0x80:
            break
        code, size = decode(buffer, place)
        cls = np.int64(table[code])
        if not cls & WORD:
            break
        row[cls & SCRIPT_MASK] += 1
        classes |= cls
        wide += size - 1
        place += size
    size = place - first
    if wide or size > EXACT:
        key = run_key(buffer, first, place)
    return place, size - wide, key, classes


@inlined
def _count_line(row, marks, length, width, units):  # type: ignore[no-untyped-def]
    row[_LINE_CHARACTERS] += length
    row[_BULLET_LINES] += (marks & _BULLET_MARK) != 0
    row[_TERMINAL_LINES] += (marks & _TERMINAL_MARK) != 0
    row[_ELLIPSIS_LINES] += (marks & _ELLIPSIS_MARK) != 0
    row[_SHORT_LINES] += width <= SHORT_LINE
    row[_FEW_WORD_LINES] += units < FEW_WORDS


@inlined
def _stop_word(key):  # type: ignore[no-untyped-def]
    """A bit mask with the bit of the stop word that a unit is, or 0."""
    lower = key | _LOWER
    slot = (lower * PRIME) >> (64 - _SLOT_BITS) & ((1 << _SLOT_BITS) - 1)
    return np.int64(_STOP_TABLE[slot] == lower) << slot

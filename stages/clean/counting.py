"""Reads the characters of a document once: counts them, and lists its units and lines."""

from __future__ import annotations

import numpy as np

from stages._jit import kernels
from stages.clean.characters import (
    ALPHABETIC,
    ANCHOR,
    BULLET,
    SCRIPT_MASK,
    SIMPLIFIED,
    SINGLE,
    SPACE,
    TERMINAL,
    TRADITIONAL,
    WORD,
)
from stages.clean.columns import AT, FEW_WORDS, SHORT_LINE, STOP_WORDS
from stages.clean.repetition import BYTES, HASH, LENGTH, START

_HAN, _LATIN = AT["han"], AT["latin"]
_NEWLINES, _SIMPLIFIED, _TRADITIONAL = (AT[name] for name in ("newlines", "simplified", "traditional"))
_WORDS, _WORD_CHARACTERS, _ALPHABETIC_WORDS = (AT[name] for name in ("words", "word_characters", "alphabetic_words"))
_UNITS, _STOP_WORDS, _PARAGRAPHS = (AT[name] for name in ("units", "stop_words", "paragraphs"))
_ELLIPSES, _CURLY_BRACES, _LOREM_IPSUM = (AT[name] for name in ("ellipses", "curly_braces", "lorem_ipsum"))
_LINES, _LINE_CHARACTERS, _BULLET_LINES = (AT[name] for name in ("lines", "line_characters", "bullet_lines"))
_ELLIPSIS_LINES, _TERMINAL_LINES, _SHORT_LINES = (AT[f"{name}_lines"] for name in ("ellipsis", "terminal", "short"))
_FEW_WORD_LINES, _JAVASCRIPT_LINES, _POLICY_LINES = (AT[f"{name}_lines"] for name in ("few_word", "javascript", "policy"))
_LONGEST_STOP_WORD = max(map(len, STOP_WORDS))
_PRIME = 1099511628211  # FNV-1a, over code points
# What is known of a line while it is read.
_BULLET_MARK, _TERMINAL_MARK, _ELLIPSIS_MARK, _JAVASCRIPT_MARK, _POLICY_MARK = (1 << bit for bit in range(5))

_jit = kernels(__file__)


@_jit
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
def scan(buffer, start, end, table, phrases, lengths, anchors, stop_words, units, lines, paragraph, row):  # type: ignore[no-untyped-def]  # noqa: PLR0912, PLR0915 (one loop with its state in registers)
    """Count what can be counted character by character, and list the units and lines of one document."""
    n_units = n_lines = n_paragraphs = 0
    unit_start, unit_hash, unit_length = np.int64(-1), np.int64(0), np.int64(0)
    line_start, line_end, line_hash, kept_hash = np.int64(-1), np.int64(0), np.int64(0), np.int64(0)
    line_length, kept_length, line_width, kept_width, line_units, marks = 0, 0, 0, 0, 0, 0
    in_word, blank_before, word_classes = np.int64(0), np.int64(0), np.int64(0)
    last, second, dots, stops = np.int64(0), np.int64(0), 0, np.int64(0)
    latin, word_characters = 0, 0
    place = start
    while place <= end:
        code, size = np.int64(10), 1  # a line end behind the last line closes whatever is open
        if place < end:
            code, size = decode(buffer, place)
        cls = np.int64(table[code])
        kind = cls & SCRIPT_MASK
        if kind == _LATIN:  # counted in a register: most characters are like the one before, and would wait for each other
            latin += 1
        elif place < end:
            row[kind] += 1
        if unit_start >= 0 and not cls & WORD:
            n_units = _list(units, n_units, unit_hash, unit_start, place - unit_start, unit_length)
            if place - unit_start <= _LONGEST_STOP_WORD:
                stops |= _stop_word(buffer, unit_start, place, stop_words)
            unit_start = np.int64(-1)
        if cls & SPACE:
            row[_WORDS] += in_word
            row[_ALPHABETIC_WORDS] += (word_classes & ALPHABETIC) != 0
            in_word, word_classes = np.int64(0), np.int64(0)
            if code == 10:
                row[_NEWLINES] += place < end
                if line_start >= 0:
                    n_paragraphs += 1 if n_lines == 0 or blank_before else 0
                    paragraph[n_lines] = n_paragraphs
                    n_lines = _list(lines, n_lines, kept_hash, line_start, line_end - line_start, kept_length)
                    _count_line(row, marks, kept_length, kept_width, n_units - line_units)
                blank_before = np.int64(line_start < 0)
                line_start, line_units, marks = np.int64(-1), n_units, 0
        else:
            in_word = np.int64(1)
            word_classes |= cls
            word_characters += 1
            if cls & SINGLE:
                n_units = _list(units, n_units, code * _PRIME, place, size, 1)
                if cls & (SIMPLIFIED | TRADITIONAL):
                    row[_SIMPLIFIED if cls & SIMPLIFIED else _TRADITIONAL] += 1
            elif cls & WORD:
                if unit_start < 0:
                    unit_start, unit_hash, unit_length = place, np.int64(0), np.int64(0)
                unit_hash = (unit_hash ^ code) * _PRIME
                unit_length += 1
            elif code == 123:
                row[_CURLY_BRACES] += 1
            if line_start < 0:
                line_start, line_hash, line_length, line_width = place, np.int64(0), 0, 0
                marks = _BULLET_MARK if cls & BULLET else 0
            marks &= ~(_TERMINAL_MARK | _ELLIPSIS_MARK)
            if cls & TERMINAL:
                dotted = code == 0x2026 or (code == 46 and last == 46 and second == 46)
                marks |= _TERMINAL_MARK | (_ELLIPSIS_MARK if dotted else 0)
            if cls & ANCHOR:
                marks |= _phrase(buffer, place, start, end, phrases, lengths, anchors, row)
        if line_start >= 0:
            line_hash = (line_hash ^ code) * _PRIME
            line_length += 1
            line_width += 2 if kind == _HAN else 1
            if not cls & SPACE:
                kept_hash, kept_length, kept_width, line_end = line_hash, line_length, line_width, place + size
        dots = dots + 1 if code == 46 else 0
        if dots == 3 or (code == 0x2026 and last != 0x2026):
            row[_ELLIPSES] += 1
        last, second = code, last
        place += size
    while stops:
        row[_STOP_WORDS] += 1
        stops &= stops - 1
    row[_LATIN], row[_WORD_CHARACTERS] = latin, word_characters
    row[_UNITS], row[_LINES], row[_PARAGRAPHS] = n_units, n_lines, n_paragraphs
    return n_units, n_lines


@_jit
def _list(runs, index, key, start, size, length):  # type: ignore[no-untyped-def]
    """Enter a unit or a line, and return the place of the next."""
    runs[index, HASH], runs[index, START], runs[index, BYTES], runs[index, LENGTH] = key, start, size, length
    return index + 1


@_jit
def _count_line(row, marks, length, width, units):  # type: ignore[no-untyped-def]
    row[_LINE_CHARACTERS] += length
    row[_BULLET_LINES] += (marks & _BULLET_MARK) != 0
    row[_TERMINAL_LINES] += (marks & _TERMINAL_MARK) != 0
    row[_ELLIPSIS_LINES] += (marks & _ELLIPSIS_MARK) != 0
    row[_JAVASCRIPT_LINES] += (marks & _JAVASCRIPT_MARK) != 0
    row[_POLICY_LINES] += (marks & _POLICY_MARK) != 0
    row[_SHORT_LINES] += width <= SHORT_LINE
    row[_FEW_WORD_LINES] += units < FEW_WORDS


@_jit
def _lower(byte):  # type: ignore[no-untyped-def]
    return byte + 32 if 65 <= byte <= 90 else byte


@_jit
def _stop_word(buffer, start, end, stop_words):  # type: ignore[no-untyped-def]
    """A bit mask with the bit of the stop word that the unit is, or 0."""
    key = np.int64(0)
    for place in range(start, end):
        key = key << 8 | _lower(np.int64(buffer[place]))
    for index in range(len(stop_words)):
        if stop_words[index] == key:
            return np.int64(1) << index
    return np.int64(0)


@_jit
def _phrase(buffer, place, start, end, phrases, lengths, anchors, row):  # type: ignore[no-untyped-def]
    """The mark of the phrase, in letters of either case, whose anchor stands at `place`; 0 where there is none."""
    for index in range(len(phrases)):
        first = place - anchors[index]
        if first < start or first + lengths[index] > end:
            continue
        offset = 0
        while offset < lengths[index] and _lower(np.int64(buffer[first + offset])) == phrases[index, offset]:
            offset += 1
        if offset == lengths[index]:
            row[_LOREM_IPSUM] += index == len(phrases) - 1
            return _JAVASCRIPT_MARK if index == 0 else _POLICY_MARK if index < len(phrases) - 1 else 0
    return 0

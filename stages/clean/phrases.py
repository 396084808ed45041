"""Finds the phrases of web pages that C4 looks for, in letters of either case."""

from __future__ import annotations

import numpy as np

from stages._jit import kernels
from stages.clean import columns, runs
from stages.clean.columns import AT, JAVASCRIPT, LOREM_IPSUM, PHRASES
from stages.clean.runs import inlined

_LOREM_IPSUM, _JAVASCRIPT_LINES, _POLICY_LINES = AT["lorem_ipsum"], AT["javascript_lines"], AT["policy_lines"]
_TABLE = np.array([list(phrase.encode().ljust(max(map(len, PHRASES)), b"\0")) for phrase in PHRASES], np.uint8)
_LENGTHS = np.array([len(phrase) for phrase in PHRASES])
HINTS = ("vas", "vac", "kie", "rms", "psu")  # each phrase holds one of them, and few other words do
_HINT = 3  # letters
_HINT_PLACES = np.array([next(phrase.index(hint) for hint in HINTS if hint in phrase) for phrase in PHRASES])
_A, _C, _E, _I, _K, _M, _P, _R, _S, _U, _V = (ord(letter) for letter in "aceikmprsuv")
_SMALL = np.uint8(0x20)  # makes small letters of capitals

_jit = kernels(__file__, columns.__file__, runs.__file__)


@inlined
def _hint(one, two, three):  # type: ignore[no-untyped-def]
    """Whether three small letters are one of the hints."""
    found = (one == _V) & (two == _A) & ((three == _S) | (three == _C))
    found |= (one == _K) & (two == _I) & (three == _E)
    found |= (one == _R) & (two == _M) & (three == _S)
    return found | (one == _P) & (two == _S) & (three == _U)


@_jit
def hints(buffer, start, end):  # type: ignore[no-untyped-def]
    """Whether there may be a phrase: most documents hold none, and this loop is done many bytes at a time."""
    if end - start < _HINT:
        return False
    found = False
    first, second, third = buffer[start : end - 2], buffer[start + 1 : end - 1], buffer[start + 2 : end]
    for place in range(len(first)):
        found |= _hint(first[place] | _SMALL, second[place] | _SMALL, third[place] | _SMALL)
    return found


@_jit
def find_phrases(buffer, lines, number, row):  # type: ignore[no-untyped-def]
    """Count the lines that hold a phrase, and how often the placeholder text stands; a phrase never goes over a line's end."""
    for line in range(number):
        start, end = lines.starts[line], lines.starts[line] + lines.sizes[line]
        javascript = policy = False
        for place in range(start, end - _HINT + 1):
            if not _hint(buffer[place] | _SMALL, buffer[place + 1] | _SMALL, buffer[place + 2] | _SMALL):
                continue
            for index in range(len(_LENGTHS)):
                first = place - _HINT_PLACES[index]
                if first < start or first + _LENGTHS[index] > end or not _stands(buffer, first, index):
                    continue
                if index < len(JAVASCRIPT):
                    javascript = True
                elif index < len(PHRASES) - len(LOREM_IPSUM):
                    policy = True
                else:
                    row[_LOREM_IPSUM] += 1
        row[_JAVASCRIPT_LINES] += javascript
        row[_POLICY_LINES] += policy


@inlined
def _stands(buffer, place, index):  # type: ignore[no-untyped-def]
    for offset in range(_LENGTHS[index]):
        byte = buffer[place + offset]
        if (byte | _SMALL if 65 <= byte <= 90 else byte) != _TABLE[index, offset]:
            return False
    return True

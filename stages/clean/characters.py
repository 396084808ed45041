"""What the statistics know of single characters: one 16-bit word of classes for each code point, from `unicodedata`."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from stages import _ngrams
from stages._ngrams import is_unspaced

# The classes of which every character has exactly one: bits 0 to 3, the index here.
SCRIPTS = (
    "han",
    "latin",
    "other_letter",
    "mark",
    "digit",
    "punctuation",
    "operator",
    "symbol",
    "replacement",
    "blank",
    "unassigned",
)
SCRIPT_MASK = 0xF
SPACE = 1 << 4  # str.isspace: ends a word, does not count at the ends of a line
ALPHABETIC = 1 << 5  # str.isalpha
WORD = 1 << 6  # letter or digit of a script that puts blanks between words
SINGLE = 1 << 7  # a unit by itself: Han characters, kana, hangul syllables
TERMINAL = 1 << 8  # ends a sentence at the end of a line
BULLET = 1 << 9  # starts a list item at the start of a line
SIMPLIFIED = 1 << 10  # Han character of GB 2312 that Big5 does not have
TRADITIONAL = 1 << 11  # Han character of Big5 that GB 2312 does not have

TERMINALS = ".!?\"'”’…。．！？；」』"  # C4's four, their Chinese counterparts, and what closes a quotation behind them
BULLETS = "•‣-*"
CODE_POINTS = sys.maxunicode + 1


def script(char: str) -> str:
    """The class of one character: a name of `SCRIPTS`."""
    category = unicodedata.category(char)
    if char == "\ufffd":
        return "replacement"
    if char == "〇" or 0x20000 <= ord(char) < 0x40000:  # the ideographic planes
        return "han"
    if category[0] == "L":
        name = unicodedata.name(char, "")
        return "han" if "CJK" in name and category == "Lo" else "latin" if "LATIN" in name else "other_letter"
    if char == "#" or category == "So":  # signs, dingbats, emoji; Gopher counts the hash among them
        return "symbol"
    if category[0] == "S":  # mathematics, currency, accents by themselves: formulas and code, not noise
        return "operator"
    if char.isspace():
        return "blank"
    return {"M": "mark", "N": "digit", "P": "punctuation"}.get(category[0], "unassigned")


@cache
def _one_sided() -> tuple[frozenset[str], frozenset[str]]:
    """Unified Han characters that stand in GB 2312 (simplified) and not in Big5 (traditional), and the other way round."""
    every = "".join(map(chr, range(0x4E00, 0xA000)))
    gb2312, big5 = (frozenset(every.encode(name, "ignore").decode(name)) for name in ("gb2312", "big5"))
    return gb2312 - big5, big5 - gb2312


def _is_word(char: str) -> bool:
    return char.isalnum() and not is_unspaced(char)


_FLAGS: dict[int, Callable[[str], bool]] = {
    SPACE: str.isspace,
    ALPHABETIC: str.isalpha,
    WORD: _is_word,
    SINGLE: is_unspaced,
    TERMINAL: TERMINALS.__contains__,
    BULLET: BULLETS.__contains__,
    SIMPLIFIED: lambda char: char in _one_sided()[0],
    TRADITIONAL: lambda char: char in _one_sided()[1],
}


def classes(char: str) -> int:
    """All classes of one character."""
    return SCRIPTS.index(script(char)) | sum(flag for flag, holds in _FLAGS.items() if holds(char))


@cache
def table() -> npt.NDArray[np.uint16]:
    """`classes` of every code point, uint16 [1114112]."""
    from stages._jit import kept  # which loads numba; the names of the classes are wanted without it

    return kept("classes", _made, __file__, _ngrams.__file__)["words"]


def _made() -> dict[str, npt.NDArray[np.uint16]]:
    """The table; the large uniform blocks are filled without asking for each code point."""
    words = np.full(CODE_POINTS, SCRIPTS.index("unassigned"), np.uint16)
    for block in (range(0x4E00, 0xA000), range(0x20000, 0x40000)):
        words[block.start : block.stop] = SCRIPTS.index("han") | SINGLE
        words[[code for code in block if chr(code).isalpha()]] |= ALPHABETIC
    for flag, characters in zip((SIMPLIFIED, TRADITIONAL), _one_sided(), strict=True):
        words[[ord(char) for char in characters]] |= flag
    words[0xAC00:0xD7A4] = classes("\uac00")  # hangul syllables
    blocks = (range(0x4E00), range(0xA000, 0xAC00), range(0xD7A4, 0xD800), range(0xF900, 0x20000), range(0xE0000, 0xE0200))
    others = [chr(code) for block in blocks for code in block]
    others = [char for char in others if unicodedata.category(char) != "Cn" or is_unspaced(char)]
    scripts = {name: index for index, name in enumerate(SCRIPTS)}
    codes = np.array([ord(char) for char in others])
    words[codes] = [scripts[script(char)] for char in others]
    for flag, holds in _FLAGS.items():
        words[codes[[holds(char) for char in others]]] |= flag
    return {"words": words}

"""Repairs text that was decoded in a wrong encoding, and brings text into one Unicode form.

Mojibake is repaired by ftfy, line by line, and by ftfy's encoding step alone: quotation marks, full-width Chinese
punctuation and ligatures stay what they are. What ftfy does not know is Chinese in GBK read as Latin-1 or Windows-1252;
`gbk_as_latin` does. All of it looks at nothing but lines that hold what only mojibake holds, so that clean text does not pay.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal, cast

# --- mojibake --------------------------------------------------------------------------------------------------------------

# UTF-8 read in a single-byte encoding leaves its lead byte (C2 to F4) and its continuation bytes side by side, both as what
# stands at 80 to FF in that encoding: no ASCII, no Han. Greek and Cyrillic lead letters are looked for before marks only.
LEAD = "\u00c2-\u00f4\u0102-\u0161\u0393\u0442\u0432\u0420\u0421\u221a"
HIGH = "\u0080-\u00bf\u0152-\u0178\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122\u0401-\u0490\u00c0-\u00ff"
_SUSPECT = re.compile(f"[{LEAD}\x80-\x9f](?:(?<=[\x80-\x9f])|(?=[{HIGH}]))")  # starts with a class: a quick search
_LATIN_PAIRS = re.compile("[\u00a1-\u00f7][\u00a1-\u00fe]")  # GB 2312: both bytes at A1 or above, level-1 Han from B0 to D7
_MIN_GB_PAIRS = 4


def repair(text: str) -> tuple[str, int]:
    """`text` with its mojibake repaired, and the number of lines that changed."""
    if text.isascii() or _SUSPECT.search(text) is None:
        return text, 0
    lines = text.split("\n")
    fixed = [_repair_line(line) for line in lines]
    changed = sum(before != after for before, after in zip(lines, fixed, strict=True))
    return ("\n".join(fixed), changed) if changed else (text, 0)


def _repair_line(line: str) -> str:
    if line.isascii() or _SUSPECT.search(line) is None:
        return line
    return gbk_as_latin(line) or _fix_encoding(line)


def _fix_encoding(line: str) -> str:
    import ftfy

    config = ftfy.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_encoding=True,
        restore_byte_a0=True,
        replace_lossy_sequences=True,
        decode_inconsistent_utf8=True,
        fix_c1_controls=True,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )
    return ftfy.fix_encoding(line, config)


def gbk_as_latin(line: str) -> str | None:
    """A line of Chinese whose GBK bytes were read as Latin-1 or Windows-1252, decoded rightly; None where it is not one.

    Every byte above ASCII has to be half of a character of GB 2312, at least four of them common Han characters (level 1),
    and these the greater part: French or Vietnamese puts ASCII letters between its accented ones, and fails at the first.
    """
    if len(_LATIN_PAIRS.findall(line)) < _MIN_GB_PAIRS:
        return None
    for encoding in ("latin-1", "cp1252"):
        try:
            raw = line.encode(encoding)
            decoded = raw.decode("gb2312")
        except UnicodeError:
            continue
        high = [char for char in decoded if not char.isascii()]
        common = sum(0xB0 <= char.encode("gb2312")[0] <= 0xD7 for char in high)
        if common >= _MIN_GB_PAIRS and 2 * common > len(high):
            return decoded
    return None


# --- one form --------------------------------------------------------------------------------------------------------------

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_BLANKS = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")  # not U+3000: the ideographic space indents Chinese paragraphs
# Control characters, zero-width and direction marks, soft hyphens. A joiner (U+200D) between emoji is part of the emoji.
_CONTROLS = (
    "\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
)
_INVISIBLE = re.compile(f"[{_CONTROLS}]|(?<![\u2600-\u27bf\ufe0f\U0001f000-\U0001faff])\u200d")
# One class, for one quick search, of every character that any of these three would change.
_UNUSUAL_ASCII = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
UNUSUAL = f"{_CONTROLS}\x0b-\x0d\x1c-\x1e\u2028\u2029\u00a0\u1680\u2000-\u200a\u202f\u205f\u200d"
_UNUSUAL = re.compile(f"[{UNUSUAL}]")
LINE_BLANKS = " \t\u3000"


def normalise(text: str, form: str = "NFC", max_blank_lines: int = 1) -> str:
    """`text` in Unicode normal form `form`, without invisible characters, with `\\n` line ends and no blanks at line ends.

    NFC leaves full-width Chinese punctuation alone; NFKC would turn it into ASCII. More than `max_blank_lines` blank lines in
    a row become that many. The result is a fixed point: normalising it again changes nothing.
    """
    if (_UNUSUAL_ASCII if text.isascii() else _UNUSUAL).search(text):
        text = _BLANKS.sub(" ", _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text)))
    text = unicodedata.normalize(cast("Literal['NFC', 'NFKC']", form), text)
    if text.endswith(tuple(LINE_BLANKS)) or any(f"{blank}\n" in text for blank in LINE_BLANKS):
        text = "\n".join(line.rstrip(LINE_BLANKS) for line in text.split("\n"))
    if "\n" * (max_blank_lines + 2) in text:
        text = re.sub(rf"\n{{{max_blank_lines + 2},}}", "\n" * (max_blank_lines + 1), text)
    return text.strip("\n")


def is_normalised(text: str, form: str = "NFC") -> bool:
    """Whether `text` is in Unicode normal form `form` already."""
    return text.isascii() or unicodedata.is_normalized(cast("Literal['NFC', 'NFKC']", form), text)

"""Plays and numbered poems in plain text: one document per scene, act or poem where the headings tell them apart.

Modern editions head scenes with "ACT I." and "Scene II. A hall", the First Folio with "Actus Primus. Scoena Prima.",
sonnets with a roman numeral that counts up. A file with fewer than two such headings stays one document.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import IO

from stages.corpus.records import PLAIN, Reading, Record, decode, tidy, undecodable, whole

_ACT = re.compile(r"\s*act\s+(?P<act>[ivx]+|\d+|first|second|third|fourth|fifth)\b[.:]?\s*(?P<rest>.*)", re.IGNORECASE)
_SCENE = re.compile(r"\s*scene\s+(?P<scene>[ivx]+|\d+)(?:[.,:\s-].*)?", re.IGNORECASE)
_FOLIO_ACT = re.compile(r"\s*act(?:us|a)\s+(?P<act>\w+)[.,:]?\s*(?P<rest>.*)", re.IGNORECASE)
_FOLIO_SCENE = re.compile(r"\s*sc(?:e|ae|oe)na\s+(?P<scene>\w+)\.?\s*", re.IGNORECASE)
_BYLINE = re.compile(r"\s*by\s+(?P<author>\S.*)", re.IGNORECASE)
_ORDINALS = (
    ("first", "prim"),
    ("second", "secund"),
    ("third", "terti"),
    ("fourth", "quart"),
    ("fifth", "quint"),
    ("sixth", "sext"),
    ("seventh", "septim"),
    ("eighth", "octa"),
)
_ROMAN = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}


def read_play(stream: IO[bytes], how: Reading = PLAIN) -> Iterator[Record]:
    """The scenes of a play, or the poems of a numbered collection; title and author from the file's first lines.

    `raw` is the piece's own bytes; what stands before the first heading becomes the piece `front`.
    """
    raw = whole(stream, how.max_record_bytes)
    if isinstance(raw, Record):
        yield raw
        return
    raw_lines = raw.splitlines(keepends=True)
    try:
        lines = [decode(line).rstrip("\n") for line in raw_lines]
    except UnicodeDecodeError as error:
        yield undecodable("", raw, error)
        return
    header, title, author = _header(lines)
    headings = _scenes(lines) or _numbered(lines)
    if len(headings) < 2:
        headings = []
    starts = [header, *(start for start, _ in headings), len(lines)]
    names = ["front" if headings else "", *(name for _, name in headings)]
    seen: Counter[str] = Counter()
    for (start, end), name in zip(pairwise(starts), names, strict=True):
        seen[name] += 1
        text = tidy("\n".join(lines[start:end]))
        if text or not headings:
            fragment = name if seen[name] == 1 else f"{name}-{seen[name]}"
            yield Record(fragment, b"".join(raw_lines[start:end]), text, title, author)


def _header(lines: list[str]) -> tuple[int, str | None, str | None]:
    """Number of lines that only name the work, and the title and author that they name."""
    filled = [index for index, line in enumerate(lines) if line.strip()][:2]
    if len(filled) < 2:
        return 0, None, None
    byline = _BYLINE.fullmatch(lines[filled[1]])
    end = filled[1] + 1 if byline else filled[0] + 1
    return end, lines[filled[0]].strip(), byline["author"].strip() if byline else None


def _scenes(lines: list[str]) -> list[tuple[int, str]]:
    """(line, fragment) of each piece: a scene, or what stands in an act before its first scene."""
    found: list[tuple[int, str]] = []
    act: int | None = None
    pending: int | None = None  # line of an act heading below which nothing has stood yet
    for index, line in enumerate(lines):
        new_act, scene = _heading(line)
        if new_act:
            act, pending = new_act, index
        if scene:
            prefix = f"act-{act}-" if act else ""
            found.append((index if pending is None else pending, f"{prefix}scene-{scene}"))
            pending = None
        elif pending is not None and not new_act and line.strip():
            found.append((pending, f"act-{act}"))
            pending = None
    return found


def _heading(line: str) -> tuple[int | None, int | None]:
    """The act and the scene that a line announces; both None for a line of the play itself."""
    match = _ACT.fullmatch(line) or _FOLIO_ACT.fullmatch(line)
    act = _ordinal(match["act"]) if match else None
    rest = match["rest"] if match and act else line
    match = _SCENE.fullmatch(rest) or _FOLIO_SCENE.fullmatch(rest)
    scene = _ordinal(match["scene"]) if match else None
    return (None, None) if act and rest.strip() and not scene else (act, scene)


def _numbered(lines: list[str]) -> list[tuple[int, str]]:
    """(line, number) of lines that hold nothing but the next roman numeral, counting from I."""
    found: list[tuple[int, str]] = []
    for index, line in enumerate(lines):
        word = line.strip().rstrip(".")
        if word.isupper() and _roman(word) == len(found) + 1:
            found.append((index, str(len(found) + 1)))
    return found


def _ordinal(word: str) -> int | None:
    word = word.lower()
    if word.isdigit():
        return int(word)
    for number, (english, latin) in enumerate(_ORDINALS, 1):
        if word == english or word.startswith(latin):
            return number
    return _roman(word)


def _roman(word: str) -> int | None:
    """Value of a roman numeral below 200, None for any other word."""
    values = [_ROMAN.get(letter, 0) for letter in word.lower()]
    if not values or 0 in values:
        return None
    following = [*values[1:], 0]
    return sum(-value if value < after else value for value, after in zip(values, following, strict=True))

"""JSON collections of poems, chapters and classics: a list of records, or one record that nests them.

A record is text lines under `paragraphs`, `para`, `content` or `contents`, with `title` (for ci poems `rhythmic`, for
classics `chapter`) and `author`; a bare string is a chapter whose first line is its title. Editors' additions (`notes`,
`abstract`, `comment`, `prologue`, `biography`) are left out: they are not the work, and their rights differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from stages.corpus.records import PLAIN, Reading, Record, undecodable, whole

_BODY = ("paragraphs", "para", "content", "contents")
_TITLE = ("title", "rhythmic", "chapter")


def read_poems(stream: IO[bytes], how: Reading = PLAIN) -> Iterator[Record]:
    """The documents of a JSON file; `raw` is the top-level item's own bytes, which documents nested in one item share."""
    raw = whole(stream, how.max_record_bytes)
    if isinstance(raw, Record):
        yield raw
        return
    try:
        source = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield undecodable("", raw, error)
        return
    try:
        for index, (item, value) in enumerate(_items(source)):
            for path, title, author, text in _documents(value, str(index), None):
                yield Record(path, item.encode(), text, title, author)
    except ValueError as error:
        yield Record("", raw, "", problem=f"not valid JSON ({error})")


def _items(source: str) -> Iterator[tuple[str, Any]]:
    """Each item of a top-level list, or the one top-level value, with the text that it was parsed from."""
    decoder = json.JSONDecoder()
    position = _skip(source, 0)
    if not source.startswith("[", position):
        value, end = decoder.raw_decode(source, position)
        yield source[position:end], value
        return
    position = _skip(source, position + 1)
    while not source.startswith("]", position):
        value, end = decoder.raw_decode(source, position)
        yield source[position:end], value
        position = _skip(source, end)
        if source.startswith(",", position):
            position = _skip(source, position + 1)
        elif not source.startswith("]", position):
            raise ValueError(f"expected ',' or ']' at character {position}")


def _skip(source: str, position: int) -> int:
    while position < len(source) and source[position].isspace():
        position += 1
    return position


def _documents(value: Any, path: str, author: str | None) -> Iterator[tuple[str, str | None, str | None, str]]:
    """(path, title, author, text) of every document in a record; an inner record inherits the outer one's author."""
    if isinstance(value, str):
        lines = [line.strip() for line in value.split("\n") if line.strip()]
        title = lines.pop(0) if len(lines) > 1 else None
        yield path, title, author, "\n".join(lines)
        return
    record = value if isinstance(value, dict) else {}
    author = _stated(record, ("author",)) or author
    body = next((record[key] for key in _BODY if key in record), "")
    lines = [body] if isinstance(body, str) else body if isinstance(body, list) else []
    if lines and all(isinstance(line, dict) for line in lines):
        for index, inner in enumerate(lines):
            yield from _documents(inner, f"{path}.{index}", author)
        return
    text = "\n".join(line.strip() for line in lines if isinstance(line, str) and line.strip())
    yield path, _stated(record, _TITLE), author, text


def _stated(record: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    for key in keys:
        value = record.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None

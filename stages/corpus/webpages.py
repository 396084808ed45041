"""Pages of the web: their character set, and the text that a reader of the page would see."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import IO

from stages.corpus.records import PLAIN, Reading, Record, newlines, tidy, whole

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_META_BYTES = 4096  # the standard asks for the first 1,024; pages put scripts before it
_WIDER = {"gbk": "gb18030", "big5": "big5hkscs"}
_MAX_BAD_SHARE = 0.001  # of characters; browsers replace what they cannot read, so pages live with a few


class UndecodableError(ValueError):
    """The bytes are not what they are said to be; the message is a record's `reason (detail)`."""


def decode_page(raw: bytes, declared: str | None = None, meta: bool = True) -> str:
    """The text of a page by its byte-order mark, `declared` (HTTP) or its own meta tag; without any UTF-8, else as detected.

    A character set stands for the wider one that browsers read in its place (GB2312: GB18030, Latin-1: Windows-1252). At
    most one character in a thousand may be unreadable; it becomes U+FFFD.

    Raises:
        UndecodableError: what is declared is wrong, or the bytes are in no known set, or they are no text.
    """
    for mark, name in _BOMS:
        if raw.startswith(mark):
            return _decode(raw[len(mark) :], name, "byte-order mark")
    found = _META.search(raw[:_META_BYTES]) if meta else None
    labels = ((declared, "HTTP header"), (found[1].decode("ascii") if found else None, "meta tag"))
    stated = [(known, where) for label, where in labels if (known := _codec(label or ""))]
    for place, (known, where) in enumerate(stated, 1):
        try:
            return _decode(raw, known, where)
        except UndecodableError:
            if place == len(stated):
                raise
    try:
        return _checked(raw.decode())
    except UnicodeDecodeError as error:
        from resiliparse.parse.encoding import detect_encoding

        known = _codec(detect_encoding(raw, from_html_meta=False) or "")
        if not known or known == "utf-8":
            raise UndecodableError(f"not UTF-8 (byte {error.start}: {error.reason})") from error
        return _decode(raw, known, "detected")


def page_text(page: str, main_content: bool) -> tuple[str | None, str]:
    """(title, text) of an HTML page; `main_content` leaves out navigation, comments, adverts and footers."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(page)
    text = extract_plain_text(
        tree, preserve_formatting=True, main_content=main_content, alt_texts=False, comments=not main_content
    )
    return " ".join((tree.title or "").split()) or None, text


def read_html(stream: IO[bytes], how: Reading = PLAIN) -> Iterator[Record]:
    """A saved page as one document."""
    raw = whole(stream, how.max_record_bytes)
    if isinstance(raw, Record):
        yield raw
        return
    try:
        title, text = page_text(decode_page(raw), how.main_content)
    except UndecodableError as error:
        yield Record("", raw, "", problem=str(error))
    else:
        yield Record("", raw, tidy(newlines(text)), title)


def _codec(name: str) -> str | None:
    """Python's name of a character set as browsers understand it, None where they know none of that name."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    known = map_encoding_to_html5(name.strip(), fallback_utf8=False)
    return _WIDER.get(known, known) if known else None


def _decode(raw: bytes, name: str, where: str) -> str:
    try:
        return _checked(raw.decode(name))
    except UnicodeDecodeError as error:
        text = raw.decode(name, "replace")
        if text.count("\ufffd") > _MAX_BAD_SHARE * len(text):
            place = f"{name} by {where}; byte {error.start}: {error.reason}"
            raise UndecodableError(f"wrong declared encoding ({place})") from error
        return _checked(text)


def _checked(text: str) -> str:
    if "\x00" in text:
        raise UndecodableError("binary (it holds the character U+0000)")
    return text

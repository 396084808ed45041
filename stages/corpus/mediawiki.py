"""MediaWiki XML dumps (`pages-articles.xml`, plain or multistream), read as a stream: one document per article.

A multistream dump is a bzip2 stream for the header, one for every hundred pages, and one for the closing tag. Its index names
the byte at which each begins, so that parts of the file can be read by themselves.
"""

from __future__ import annotations

import bz2
import io
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import IO, cast
from urllib.parse import quote

from stages.corpus.records import PLAIN, Reading, Record, oversized
from stages.corpus.streams import decompressed
from stages.corpus.wikitext import DROPPED_PREFIXES, clean_wikitext

_ARTICLE = "0"
_DROPPED_NAMESPACES = ("-2", "6", "14")  # Media, File, Category
_REDIRECTS = ("#redirect", "#重定向")  # in dumps older than export format 0.4
_BLOCK = 1 << 16
_MAX_HEADER = 1 << 20
_KEPT = frozenset({"title", "ns", "id", "timestamp", "text"})
_UNESCAPED = ";@$!*(),/~:"  # in titles, by wfUrlencode of MediaWiki, besides letters, digits, hyphens, stops and underscores


def read_mediawiki(stream: IO[bytes], how: Reading = PLAIN) -> Iterator[Record]:
    """The articles of a dump; redirects and pages outside the article namespace are passed over.

    `raw` is the revision's wikitext, `date` the day of the revision, `url` that of the page on the wiki that the dump names
    (`base` of its siteinfo), the fragment the page id. With `how.part`, `stream` is the compressed file itself.

    Raises:
        xml.etree.ElementTree.ParseError: the dump is not well-formed, for example cut off.
    """
    pages = _Pages(how.max_record_bytes)
    parser = ET.XMLParser(target=pages)
    closing = b""
    if how.part is not None:
        end = stream.seek(0, io.SEEK_END)
        parser.feed(_header(stream))
        closing = b"</mediawiki>" if how.part[1] < end else b""
        stream = decompressed(".bz2", cast(IO[bytes], _Slice(stream, *how.part)), how.limits)
    blocks = cast(io.BufferedIOBase, stream)
    while block := blocks.read1(_BLOCK):  # read() would lose what stands before a cut
        parser.feed(block)
        yield from pages.taken(how.max_record_bytes)
    parser.feed(closing)
    parser.close()
    yield from pages.taken(how.max_record_bytes)


def page_url(base: str, title: str) -> str | None:
    """Where a wiki shows the page of a title, by the address of its main page; None where that is no web address."""
    if not base.startswith(("http://", "https://")):
        return None
    path = base[: max(base.rfind("/"), base.rfind("=")) + 1]  # the main page's name ends it: wiki/NAME, or index.php?title=NAME
    return path + quote(title.replace(" ", "_"), safe=_UNESCAPED)


def stream_offsets(index: IO[bytes]) -> list[int]:
    """The bytes at which the page streams of a multistream dump begin, from its decompressed index (`offset:id:title`).

    Raises:
        ValueError: it is no such index.
    """
    offsets: list[int] = []
    for line in index:
        offset = int(line.partition(b":")[0])
        if not offsets or offset > offsets[-1]:
            offsets.append(offset)
    return offsets


class _Pages:
    """Target of the XML parser: the finished pages, and of each no more than the fields that are read and `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._dropped = set(DROPPED_PREFIXES)
        self._field = ""
        self._value: list[str] = []
        self._length = 0
        self._page: dict[str, str] = {}
        self._in_page = False
        self._namespace = self._base = ""
        self._done: list[tuple[dict[str, str], int]] = []
        self._size = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition("}")[2]
        self._field, self._value, self._length = "", [], 0
        if name == "page":
            self._page, self._in_page, self._size = {}, True, 0
        elif name == "redirect" and self._in_page:
            self._page["redirect"] = "yes"
        elif name == "base" and not self._in_page:
            self._field = name
        elif name == "namespace":
            self._field, self._namespace = name, attributes.get("key", "")
        elif self._in_page and name in _KEPT and name not in self._page:  # the page's id comes before the revision's
            self._field = name

    def data(self, text: str) -> None:
        if self._field:
            self._length += len(text.encode())
            if self._length <= self._limit:
                self._value.append(text)

    def end(self, tag: str) -> None:
        if tag.endswith("page") and tag.rpartition("}")[2] == "page":
            self._done.append((self._page, self._size))
            self._in_page = False
        elif self._field == "base":
            self._base = "".join(self._value)
        elif self._field == "namespace":
            if self._namespace in _DROPPED_NAMESPACES and self._value:
                self._dropped.add("".join(self._value).lower())
        elif self._field:
            self._page[self._field] = "".join(self._value)
            if self._length > self._limit:
                self._size = self._length
        self._field = ""

    def close(self) -> None:
        """Nothing is built."""

    def taken(self, limit: int) -> Iterator[Record]:
        """The articles among the pages finished since the last call."""
        done, self._done = self._done, []
        for page, size in done:
            if "redirect" in page or page.get("ns", _ARTICLE) not in ("", _ARTICLE):
                continue
            wikitext, title = page.get("text", ""), page.get("title")
            if size:
                yield oversized(page.get("id", ""), size, limit)
            elif not wikitext.lstrip()[:12].lower().startswith(_REDIRECTS):
                yield Record(
                    fragment=page.get("id", ""),
                    raw=wikitext.encode(),
                    text=clean_wikitext(wikitext, frozenset(self._dropped)),
                    title=title or None,
                    url=page_url(self._base, title) if title else None,
                    date=page.get("timestamp", "")[:10] or None,
                )


def _header(stream: IO[bytes]) -> bytes:
    """The first stream of a multistream dump: the opening tag and the names of the namespaces."""
    stream.seek(0)
    decompressor, header = bz2.BZ2Decompressor(), b""
    while not decompressor.eof and len(header) < _MAX_HEADER:
        header += decompressor.decompress(stream.read(_BLOCK), _MAX_HEADER)
    return header


class _Slice(io.RawIOBase):
    """The bytes [start, end) of a file."""

    def __init__(self, stream: IO[bytes], start: int, end: int) -> None:
        self._stream, self._start, self._end = stream, start, end
        stream.seek(start)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._stream.tell() - self._start

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        block = self._stream.read(min(len(view), self._end - self._stream.tell()))
        view[: len(block)] = block
        return len(block)

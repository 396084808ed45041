"""Crawl archives in Common Crawl's forms, made of real text by warcio's own writer, read by us and by warcio."""

from __future__ import annotations

import hashlib
import html
import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import _ours, _peers, _planted
from benchmarks._bench import Bench
from benchmarks._measure import Row, Work, faster, interleaved

SECTION = "Crawl archives (MB of payload for each CPU second)"
_TARGET, _BYTES = 2.5, 20_000_000
_LIMIT = "URL and block alone, decompressed by itself: no date, no language claim, no check of the end"
_DATE = "2026-01-01T00:00:00Z"
_PAGE = (
    '<!DOCTYPE html><html lang="{lang}"><head><meta charset="utf-8"><title>{title}</title>'
    '<style>p {{ margin: 1em }}</style></head><body><nav><ul><li><a href="/">Home</a></li><li><a href="/x">X</a></li></ul>'
    "</nav><main><h1>{title}</h1>{body}</main>"
    "<footer>All rights reserved</footer></body></html>"
)
Record = tuple[str, bytes]  # URL, payload


def rows(bench: Bench) -> list[Row]:
    """Parsing beside warcio, with equal records, of WARC and WET."""
    if not _peers.installed("warcio"):
        return [Row(SECTION, "WARC and WET", "MB/s", None, "warcio", of="ratio", target=_TARGET, note="not installed")]
    texts = [(text, lang) for lang in _planted.LANGUAGES for text in bench.documents(lang, _BYTES)[0]]
    return [*_form(bench, "WARC", texts), *_form(bench, "WET", texts)]


def _form(bench: Bench, form: str, texts: list[tuple[str, str]]) -> list[Row]:
    path = bench.work / f"crawl.{form.lower()}.gz"
    kind = "response" if form == "WARC" else "conversion"
    (write_warc if form == "WARC" else write_wet)(path, texts)
    readers: dict[str, Callable[[], Iterator[Record]]] = {
        "ours": partial(_ours.crawl_records, path, kind),
        "warcio": partial(by_warcio, path, kind),
        "fastwarc": partial(by_fastwarc, path, kind),
    }
    found = {name: digests(readers[name]()) for name in ("ours", "warcio")}
    size = sum(len(payload) for _, payload in by_warcio(path, kind))
    works = {name: Work(lambda reader=reader: drain(reader()), size, len(texts)) for name, reader in readers.items()}
    speeds = interleaved(works, bench.rounds)
    equal = sum(a == b for a, b in zip(found["ours"], found["warcio"], strict=False))
    note = f"{path.stat().st_size / 1e6:.1f} MB compressed, {speeds['ours'].rate:,.0f} records/s"
    equal = equal if len(found["ours"]) == len(found["warcio"]) else 0
    what = f"{form}: records equal to warcio's"
    return [
        faster(SECTION, form, speeds["ours"], "warcio", speeds["warcio"], _TARGET, note),
        faster(SECTION, f"{form}: fastwarc alone", speeds["fastwarc"], "warcio", speeds["warcio"], note=_LIMIT),
        Row(SECTION, what, f"of {len(texts):,}", equal, target=len(texts), note="URL and SHA-256 of payload"),
    ]


def write_warc(path: Path, texts: Iterable[tuple[str, str]]) -> int:
    """A WARC.gz of (text, language) pairs as web pages: warcinfo, then request, response and metadata for each page.

    Returns:
        The number of response records.
    """
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    count = 0
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        writer.write_record(writer.create_warcinfo_record(path.name, {"format": "WARC File Format 1.1"}))
        for count, (text, lang) in enumerate(texts, 1):
            url, page = f"https://example.org/{lang}/{count}", _page(text, lang).encode()
            request = StatusAndHeaders(f"GET /{lang}/{count} HTTP/1.1", [("Host", "example.org")], is_http_request=True)
            length = ("Content-Length", str(len(page)))
            answer = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8"), length], protocol="HTTP/1.1")
            for kind, payload, headers in (
                ("request", b"", request),
                ("response", page, answer),
                ("metadata", b"fetchTimeMs: 100\r\n", None),
            ):
                dated = {"WARC-Date": _DATE}
                writer.write_record(
                    writer.create_warc_record(url, kind, io.BytesIO(payload), http_headers=headers, warc_headers_dict=dated)
                )
    return count


def write_wet(path: Path, texts: Iterable[tuple[str, str]]) -> int:
    """A WET.gz of (text, language) pairs: warcinfo, then a conversion record for each; returns their number."""
    from warcio.warcwriter import WARCWriter

    count = 0
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        writer.write_record(writer.create_warcinfo_record(path.name, {"format": "WARC File Format 1.1"}))
        for count, (text, lang) in enumerate(texts, 1):
            url, headers = f"https://example.org/{lang}/{count}", {"WARC-Date": _DATE, "Content-Type": "text/plain"}
            payload = io.BytesIO(text.encode())
            writer.write_record(writer.create_warc_record(url, "conversion", payload, warc_headers_dict=headers))
    return count


def by_warcio(path: Path, kind: str) -> Iterator[Record]:
    """(URL, payload) of every record of one kind, read by warcio."""
    from warcio.archiveiterator import ArchiveIterator

    with path.open("rb") as file:
        for record in ArchiveIterator(file):
            if record.rec_type == kind:
                yield record.rec_headers.get_header("WARC-Target-URI"), record.raw_stream.read()  # neither takes encodings off


def by_fastwarc(path: Path, kind: str) -> Iterator[Record]:
    """(URL, block) of every record of one kind, by the parser on which our reader stands."""
    from fastwarc.warc import ArchiveIterator, WarcHeader, WarcRecordType

    with path.open("rb") as file:
        for record in ArchiveIterator(file, record_types=getattr(WarcRecordType, kind), parse_http=False, inplace=True):
            yield str(record.headers.get(WarcHeader.WARC_TARGET_URI)), record.reader.read()


def digests(records: Iterable[Record]) -> list[tuple[str, str]]:
    """What two readers must agree on."""
    return [(url, hashlib.sha256(payload).hexdigest()) for url, payload in records]


def drain(records: Iterable[Any]) -> int:
    """Read everything and keep nothing."""
    return sum(1 for _ in records)


def _page(text: str, lang: str) -> str:
    paragraphs = [html.escape(line) for line in text.split("\n") if line]
    return _PAGE.format(lang=lang, title=paragraphs[0][:60], body="".join(f"<p>{line}</p>\n" for line in paragraphs))

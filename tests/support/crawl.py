"""Web archives as Common Crawl writes them, made by warcio: responses with any headers and body, and WET conversions."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

DATE = "2026-03-01T12:00:00Z"
Headers = dict[str, str]


def warc(responses: Iterable[tuple[str, bytes, Headers]], compressed: bool = True, status: str = "200 OK") -> bytes:
    """A WARC file: warcinfo, then a request and a response for each (address, body, HTTP headers)."""
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=compressed)
    writer.write_record(writer.create_warcinfo_record("crawl.warc.gz", {"format": "WARC File Format 1.1"}))
    for url, body, headers in responses:
        asked = StatusAndHeaders("GET / HTTP/1.1", [("Host", "example.org")], is_http_request=True)
        answer = StatusAndHeaders(status, list(headers.items()), protocol="HTTP/1.1")
        dated = {"WARC-Date": DATE}
        for kind, payload, http in (("request", b"", asked), ("response", body, answer)):
            writer.write_record(
                writer.create_warc_record(url, kind, payload=io.BytesIO(payload), http_headers=http, warc_headers_dict=dated)
            )
    return out.getvalue()


def wet(texts: Iterable[tuple[str, bytes, str]]) -> bytes:
    """A WET file: warcinfo, then a conversion record for each (address, text, languages as Common Crawl names them)."""
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=True)
    writer.write_record(writer.create_warcinfo_record("crawl.warc.wet.gz", {"format": "WARC File Format 1.1"}))
    for url, text, languages in texts:
        stated = {"WARC-Date": DATE, "Content-Type": "text/plain"}
        stated |= {"WARC-Identified-Content-Language": languages} if languages else {}
        writer.write_record(writer.create_warc_record(url, "conversion", payload=io.BytesIO(text), warc_headers_dict=stated))
    return out.getvalue()


def page(text: str, title: str = "A title", head: str = "") -> str:
    """An HTML page with navigation and footer around paragraphs of `text`, one for each line."""
    body = "".join(f"<p>{line}</p>" for line in text.split("\n"))
    return (
        f"<!DOCTYPE html><html><head>{head}<title>{title}</title><script>var x = 1;</script></head><body>"
        f"<nav><ul><li><a href='/'>Home</a></li></ul></nav><main><article>{body}</article></main>"
        "<footer>All rights reserved</footer></body></html>"
    )


def chunked(body: bytes, block: int = 50) -> bytes:
    """`body` in HTTP's chunked transfer encoding."""
    blocks = [body[start : start + block] for start in range(0, len(body), block)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in blocks) + b"0\r\n\r\n"


def zipped(body: bytes) -> bytes:
    """`body` in HTTP's gzip content encoding."""
    return gzip.compress(body, mtime=0)

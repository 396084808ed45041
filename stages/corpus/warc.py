"""Web archives (ISO 28500): pages of WARC files as Common Crawl writes them, and the texts of its WET files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import IO, Any, NamedTuple

from stages.corpus.members import members
from stages.corpus.records import PLAIN, Reading, Record, TruncatedError, newlines, oversized, tidy, undecodable
from stages.corpus.streams import ExpansionError, decompressed
from stages.corpus.webpages import UndecodableError, decode_page, page_text

_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_PLAIN_TEXT = "text/plain"
_OK = 200
_LANGUAGE = b"WARC-Identified-Content-Language"
_RECORD_END = b"\r\n\r\n"
_HEADERS = 1 << 16  # bytes that those of a record may come to
_CHECKED_EVERY = 1 << 20  # bytes of records between two looks at how far the file expands
_COMPRESSED = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_SIGNS = {  # how the bytes of each encoding begin
    "gzip": re.compile(rb"\x1f\x8b"),
    "x-gzip": re.compile(rb"\x1f\x8b"),
    "deflate": re.compile(rb"\x78[\x01\x5e\x9c\xda]"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
    "br": re.compile(rb"[^<]", re.DOTALL),  # it has no mark of its own; a page begins otherwise
    "chunked": re.compile(rb"[0-9a-fA-F]{1,8}[ \t]*(?:;[^\r\n]*)?\r?\n"),
}
_CODES = {"en": "en", "eng": "en", "zh": "zh", "zho": "zh", "chi": "zh", "cmn": "zh"}


class WarcItem(NamedTuple):
    """A record of a WARC file.

    Attributes:
        offset: where it begins in the file (for a `.gz` file, in the compressed bytes): with the file's name, its address.
        url, date: of the request; the date as the record states it.
        languages: Common Crawl's own identification, of conversion records.
        block: the record's content: HTTP headers and payload of a response, the text of a conversion; None where it is
            larger than the limit.
        length: of the block in bytes.
        before: records at the same offset before this one, where the file was compressed as a whole.
    """

    offset: int
    url: str | None
    date: str | None
    languages: str | None
    block: bytes | None
    length: int
    before: int = 0

    @property
    def fragment(self) -> str:
        """The record's name in its file."""
        return f"{self.offset}-{self.before}" if self.before else str(self.offset)

    @property
    def payload(self) -> bytes:
        """What follows the HTTP headers, still in its transfer and content encodings."""
        block = self.block or b""
        return block[_header_end(block) :]

    def http(self) -> dict[str, str]:
        """HTTP headers of a response by lower-case name, and the status under `:status`."""
        block = self.block or b""
        first, *lines = block[: _header_end(block)].decode("latin-1").splitlines() or [""]
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, colon, value in pairs if colon}
        return headers | {":status": first.split(" ")[1] if first.count(" ") else ""}


def iter_warc(stream: IO[bytes], kind: str = "response", how: Reading = PLAIN) -> Iterator[WarcItem]:
    """The records of one kind, `response` or `conversion`, in the file's order; gzip, zstd and plain files alike.

    Raises:
        TruncatedError: the file ends inside a record.
        ExpansionError: its compression is a bomb.
        OSError: it is damaged, or no WARC file.
    """
    inflated = members(stream, how.max_record_bytes + _HEADERS)
    last: WarcItem | None = None
    if inflated is not None:
        with closing(inflated):
            try:
                for last in _parsed(inflated, kind, how, inflated.offset, lambda: inflated.consumed):
                    yield last
            except (ValueError, OSError):
                if not inflated.failed:
                    raise
            if not inflated.failed:
                _check_ending(inflated.last, max(last.offset if last else 0, 0))
                return
    yield from _streamed(stream, kind, how, last)


def _streamed(stream: IO[bytes], kind: str, how: Reading, last: WarcItem | None) -> Iterator[WarcItem]:
    """The records behind `last`, decompressed by the parser itself: of any file, also of one of which a member is damaged."""
    known = 0
    if last is not None:
        stream.seek(last.offset)
        known = last.before + 1
    for number, item in enumerate(_parsed(stream, kind, how, int, stream.tell)):
        last = item
        if number >= known:
            yield item
    _check_end(stream, last.offset if last else 0, how)


def _parsed(
    stream: Any, kind: str, how: Reading, offset_of: Callable[[int], int], consumed: Callable[[], int]
) -> Iterator[WarcItem]:
    """The records of a stream; `offset_of` takes a place in it to one in the file, of which `consumed` bytes have been read."""
    from fastwarc.warc import ArchiveIterator, WarcHeader, WarcRecordType

    produced = checked = before = 0
    offset = -1
    claimed = kind == "conversion"
    url, date = WarcHeader.WARC_TARGET_URI, WarcHeader.WARC_DATE  # names that the parser knows: ten times faster than text
    records = ArchiveIterator(stream, record_types=getattr(WarcRecordType, kind), parse_http=False, inplace=True)
    for record in records:
        start, length, headers = offset_of(record.stream_pos), record.content_length, record.headers
        before = before + 1 if start == offset else 0
        offset = start
        produced += length
        if produced - checked >= _CHECKED_EVERY:
            how.limits.check(produced, consumed())
            checked = produced
        block = record.reader.read() if length <= how.max_record_bytes else None
        if (not length and WarcHeader.CONTENT_LENGTH not in headers) or (block is not None and len(block) < length):
            raise TruncatedError(f"the record at byte {offset} ends before its {length} bytes")
        language = headers.get_bytes(_LANGUAGE) if claimed else None
        languages = language.decode("utf-8", "replace") if language else None
        yield WarcItem(offset, headers.get(url), headers.get(date), languages, block, length, before)


def read_warc(stream: IO[bytes], how: Reading = PLAIN) -> Iterator[Record]:
    """The pages among a file's responses: HTML through the extractor, plain text as it is; the fragment is the offset.

    `raw` is the HTTP payload as it was recorded. Other answers (redirects, errors, pictures) are passed over.
    """
    for item in iter_warc(stream, "response", how):
        stated: dict[str, Any] = {"url": item.url, "date": (item.date or "")[:10] or None}
        fragment = item.fragment
        if item.block is None:
            yield oversized(fragment, item.length, how.max_record_bytes)
            continue
        http, payload = item.http(), item.payload
        media, _, parameters = http.get("content-type", "").partition(";")
        media = media.strip().lower()
        if http[":status"] != str(_OK):
            yield Record(fragment, payload, "", passed="HTTP status other than 200")
        elif media not in _PAGES and media != _PLAIN_TEXT:
            yield Record(fragment, payload, "", passed="neither HTML nor plain text")
        else:
            charset = _CHARSET.search(parameters)
            title, text, problem = _page(payload, http, media in _PAGES, charset[1] if charset else None, how)
            yield Record(fragment, payload, tidy(newlines(text)), title, problem=problem, **stated)


def read_wet(stream: IO[bytes], how: Reading = PLAIN) -> Iterator[Record]:
    """The texts of a WET file (conversion records, UTF-8)."""
    for item in iter_warc(stream, "conversion", how):
        fragment = item.fragment
        if item.block is None:
            yield oversized(fragment, item.length, how.max_record_bytes)
            continue
        try:
            text = tidy(newlines(item.block.decode("utf-8-sig")))
        except UnicodeDecodeError as error:
            yield undecodable(fragment, item.block, error)
            continue
        claimed = (item.languages or "").split(",")[0].strip()
        date = (item.date or "")[:10] or None
        yield Record(fragment, item.block, text, url=item.url, date=date, lang=language(claimed))


def _check_end(stream: IO[bytes], offset: int, how: Reading) -> None:
    """Whether the file ends as a WARC file does; the parser takes a cut inside a record of another kind for the end.

    Args:
        stream: the file; one that cannot be read again is an archive's member, whose end the archive itself tells.
        offset: of the last record that was read.
        how: for the limits.

    Raises:
        TruncatedError: it does not.
    """
    if not stream.seekable():
        return
    stream.seek(0)
    start = stream.read(4)
    ending, sign = next(((end, sign) for end, sign in _COMPRESSED.items() if start.startswith(sign)), ("", b""))
    stream.seek(offset)
    if not stream.read(4).startswith(sign):  # compressed as a whole: the offset lies inside
        offset = 0
    stream.seek(offset)
    tail = decompressed(ending, stream, how.limits)
    last = b""
    while block := tail.read(1 << 20):
        last = (last + block)[-len(_RECORD_END) :]
    _check_ending(last, offset)


def _check_ending(last: bytes, offset: int) -> None:
    """Raises TruncatedError where the last bytes that came out of a file are not those behind a record."""
    if last != _RECORD_END:
        raise TruncatedError(f"the file ends inside the record at byte {offset} or behind it")


def _header_end(block: bytes) -> int:
    """Where the payload of a response begins."""
    end = block.find(b"\r\n\r\n")
    if end >= 0:
        return end + 4
    end = block.find(b"\n\n")
    return end + 2 if end >= 0 else len(block)


def language(claim: str | None) -> str | None:
    """`en` or `zh` for the names of these languages, `und` for another's, None where nothing is claimed."""
    if not claim:
        return None
    return _CODES.get(re.split(r"[-_]", claim.strip().lower())[0], "und")


def _page(
    payload: bytes, http: dict[str, str], is_html: bool, charset: str | None, how: Reading
) -> tuple[str | None, str, str | None]:
    """(title, text, problem) of a page."""
    try:
        page = decode_page(_decoded(payload, http, how.max_record_bytes), charset, meta=is_html)
        return (*(page_text(page, how.main_content) if is_html else (None, page)), None)
    except ExpansionError as error:
        return None, "", f"expands too far ({error})"
    except UndecodableError as error:
        return None, "", str(error)
    except (OSError, EOFError, ValueError) as error:
        return None, "", f"damaged content encoding ({error})"


def _decoded(payload: bytes, http: dict[str, str], limit: int) -> bytes:
    """The payload without its transfer and content encodings; a layer that a crawler has taken off already is passed over."""
    layers = f"{http.get('content-encoding', '')},{http.get('transfer-encoding', '')}".lower().split(",")
    body = payload
    for name in reversed([layer.strip() for layer in layers]):
        if name in ("", "identity", "none"):
            continue
        if name not in _SIGNS:
            raise UndecodableError(f"unknown content encoding ({name})")
        if _SIGNS[name].match(body):
            body = _opened(name, io.BytesIO(body)).read(limit + 1)
        if len(body) > limit:
            raise ExpansionError(f"more than max_record_bytes, {limit}, come out of {len(payload)} bytes")
    return body


def _opened(name: str, stream: IO[bytes]) -> Any:
    from fastwarc import stream_io

    if name == "deflate":
        return stream_io.GzipReader(stream, zlib=True)
    readers = {"br": stream_io.BrotliReader, "zstd": stream_io.ZstdReader, "chunked": stream_io.ChunkedReader}
    return readers.get(name, stream_io.GzipReader)(stream)

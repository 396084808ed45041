"""Web archives and pages, in files that warcio wrote."""

from __future__ import annotations

import gzip
import io
import zlib

import pytest
import zstandard
from warcio.archiveiterator import ArchiveIterator

from stages.corpus.records import Reading, Record, TruncatedError
from stages.corpus.streams import ExpansionError, Limits
from stages.corpus.warc import iter_warc, language, read_warc, read_wet
from stages.corpus.webpages import UndecodableError, decode_page, read_html
from tests.support.crawl import Headers, chunked, page, warc, wet, zipped
from tests.support.text import text

ENGLISH = text("en", "crawl", 1500)
CHINESE = text("zh", "crawl", 900)
HTML = {"Content-Type": "text/html; charset=utf-8"}


def pages(data: bytes, how: Reading | None = None) -> list[Record]:
    return list(read_warc(io.BytesIO(data), how or Reading()))


def one(body: bytes, headers: Headers, **settings: int) -> Record:
    [record] = pages(warc([("http://example.org/a", body, headers)]), Reading(**settings))  # type: ignore[arg-type]
    return record


def words(text: str) -> list[str]:
    return text.split()


def test_responses_become_pages_with_address_date_title_and_main_text() -> None:
    responses = [
        ("http://example.org/en?x=1", page(ENGLISH, "Some &amp; title").encode(), HTML),
        ("http://example.org/zh", page(CHINESE, "题目").encode(), HTML),
        ("http://example.org/plain", ENGLISH.encode(), {"Content-Type": "text/plain"}),
    ]
    data = warc(responses)
    english, chinese, plain = pages(data)
    assert (english.url, english.date, english.title) == ("http://example.org/en?x=1", "2026-03-01", "Some & title")
    assert words(english.text) == words(ENGLISH)
    assert words(chinese.text) == words(CHINESE)
    assert (plain.text, plain.title) == (ENGLISH.strip("\n"), None)
    assert [record.raw for record in (english, chinese, plain)] == [body for _, body, _ in responses]
    assert [record.problem for record in (english, chinese, plain)] == [None] * 3
    offset = int(chinese.fragment)
    again = next(iter_warc(io.BytesIO(data[offset:])))  # the fragment is the record's address in the file
    assert again.url == "http://example.org/zh"


def test_everything_on_the_page_where_main_content_is_not_wanted() -> None:
    [record] = pages(warc([("http://e.org", page(ENGLISH).encode(), HTML)]), Reading(main_content=False))
    assert "Home" in record.text and "All rights reserved" in record.text
    assert "var x" not in record.text


@pytest.mark.parametrize("compressed", [True, False])
def test_records_are_those_of_warcio(compressed: bool) -> None:
    bodies = [(f"http://example.org/{n}", text("en", str(n), 50 * n).encode(), HTML) for n in range(60)]
    data = warc(bodies, compressed)
    expected = [
        (record.rec_headers.get_header("WARC-Target-URI"), record.rec_headers.get_header("WARC-Date"), record.raw_stream.read())
        for record in ArchiveIterator(io.BytesIO(data))
        if record.rec_type == "response"
    ]
    assert [(item.url, item.date, item.payload) for item in iter_warc(io.BytesIO(data))] == expected
    assert len(expected) == 60


def test_warc_in_zstd() -> None:
    data = zstandard.compress(warc([("http://example.org/a", page(ENGLISH).encode(), HTML)], compressed=False))
    assert words(pages(data)[0].text) == words(ENGLISH)


def brotli(body: bytes) -> bytes:
    from fastwarc.stream_io import BrotliWriter

    out = io.BytesIO()
    with BrotliWriter(out) as writer:
        writer.write(body)
    return out.getvalue()


@pytest.mark.parametrize(
    ("headers", "encode"),
    [
        ({"Content-Encoding": "gzip"}, zipped),
        ({"Content-Encoding": "deflate"}, zlib.compress),
        ({"Content-Encoding": "zstd"}, zstandard.compress),
        ({"Content-Encoding": "br"}, brotli),
        ({"Transfer-Encoding": "chunked"}, chunked),
        ({"Content-Encoding": "gzip", "Transfer-Encoding": "chunked"}, lambda body: chunked(zipped(body))),
        ({"Content-Encoding": "gzip", "Transfer-Encoding": "chunked"}, lambda body: body),  # the crawler took them off
        ({"Content-Encoding": "identity"}, lambda body: body),
    ],
)
def test_content_and_transfer_encodings_come_off(headers: Headers, encode) -> None:  # type: ignore[no-untyped-def]
    body = encode(page(CHINESE).encode())
    record = one(body, {**HTML, **headers})
    assert words(record.text) == words(CHINESE)
    assert record.raw == body


def test_content_encoding_that_is_unknown_or_damaged_is_named() -> None:
    assert one(b"xx", {**HTML, "Content-Encoding": "rot13"}).problem == "unknown content encoding (rot13)"
    damaged = zipped(page(ENGLISH).encode())[:30] + b"\xff" * 40
    assert str(one(damaged, {**HTML, "Content-Encoding": "gzip"}).problem).startswith("damaged content encoding (")


def test_page_that_expands_beyond_the_record_limit_is_named_and_not_kept() -> None:
    record = one(zipped(bytes(3_000_000)), {**HTML, "Content-Encoding": "gzip"}, max_record_bytes=100_000)
    assert str(record.problem).startswith("expands too far (more than max_record_bytes, 100000")


CHARSETS = ["gb18030", "gbk", "gb2312", "big5", "utf-8"]


@pytest.mark.parametrize(
    ("charset", "where"),
    [
        *((charset, where) for charset in CHARSETS for where in ("http", "meta")),
        ("utf-16-le", "http"),
        ("utf-16-le", "mark"),  # the standard knows marks of UTF-8 and UTF-16 only, and no meta tag in UTF-16
        ("utf-8", "mark"),
    ],
)
def test_character_sets(charset: str, where: str) -> None:
    wanted = "我們今天在這裡讀書，天氣很好。" * 20 if charset == "big5" else CHINESE.replace("\n", "")
    head = f'<meta http-equiv="Content-Type" content="text/html; charset={charset}">' if where == "meta" else ""
    mark = "\ufeff" if where == "mark" else ""
    body = (mark + page(wanted, "一", head)).encode(charset)
    record = one(body, {"Content-Type": f"text/html; charset={charset}" if where == "http" else "text/html"})
    assert record.problem is None
    assert record.text.replace("\n", "") == wanted


def test_undeclared_character_set_is_utf8_or_detected() -> None:
    assert decode_page(CHINESE.encode()) == CHINESE
    assert decode_page(CHINESE.encode("gb18030")) == CHINESE


def test_wrong_declaration_is_named_unless_the_page_declares_another_that_is_right() -> None:
    body = page(CHINESE).encode()
    problem = str(one(body, {"Content-Type": "text/html; charset=gb18030"}).problem)
    assert problem.startswith("wrong declared encoding (gb18030 by HTTP header; byte ")
    right = page(CHINESE, head='<meta charset="gbk">').encode("gbk")
    assert words(one(right, HTML).text) == words(CHINESE)


def test_a_few_unreadable_characters_are_replaced_and_many_are_not() -> None:
    data = ("a" * 5000).encode() + b"\xff" + ("b" * 5000).encode()
    assert decode_page(data, "utf-8").count("\ufffd") == 1
    with pytest.raises(UndecodableError, match="wrong declared encoding"):
        decode_page(data + b"\xff" * 20, "utf-8")


def test_binary_junk_called_html_is_named() -> None:
    junk = bytes(range(256)) * 20
    assert str(one(junk, {"Content-Type": "text/html"}).problem).split(" (")[0] in (
        "not UTF-8",
        "binary",
        "wrong declared encoding",
    )
    assert str(one(b"GIF89a\x00\x01", HTML).problem).startswith("binary (")


def test_other_answers_are_passed_over_and_counted() -> None:
    [picture] = pages(warc([("http://e.org/p", b"\x89PNG", {"Content-Type": "image/png"})]))
    [moved] = pages(warc([("http://e.org/m", b"gone", HTML)], status="301 Moved Permanently"))
    assert (picture.passed, moved.passed) == ("neither HTML nor plain text", "HTTP status other than 200")


def test_record_over_the_limit_is_passed_over_and_the_next_one_read() -> None:
    data = warc([("http://e.org/1", b"x" * 300_000, HTML), ("http://e.org/2", page(ENGLISH).encode(), HTML)])
    large, small = pages(data, Reading(max_record_bytes=100_000))
    assert str(large.problem).startswith("record too large (300") and large.raw == b""
    assert words(small.text) == words(ENGLISH)


@pytest.mark.parametrize("compressed", [True, False])
def test_records_before_a_cut_are_kept_and_the_cut_is_noticed_wherever_it_is(compressed: bool) -> None:
    data = warc([(f"http://e.org/{n}", text("en", str(n), 300).encode(), HTML) for n in range(3)], compressed)
    offsets = [item.offset for item in iter_warc(io.BytesIO(data))]
    for cut in range(offsets[1] + 1, len(data), 7):
        found: list[str | None] = []
        try:
            found.extend(item.url for item in iter_warc(io.BytesIO(data[:cut])))
        except (TruncatedError, EOFError, OSError):
            assert [f"http://e.org/{n}" for n in range(len(found))] == found
            assert len(found) >= 1
        else:
            assert data[:cut].endswith(b"\r\n\r\n") or gzip.decompress(data[:cut]).endswith(b"\r\n\r\n"), cut


def test_cut_inside_the_http_headers_is_noticed() -> None:
    data = warc([("http://e.org/1", page(ENGLISH).encode(), HTML)], compressed=False)
    with pytest.raises(TruncatedError):
        pages(data[: data.rindex(b"200 OK") + 10])


def test_file_that_is_no_warc_is_refused() -> None:
    with pytest.raises(OSError, match="WARC"):
        pages(b"\x00\x01 something else" * 100)


def test_compressed_warc_that_expands_too_far_stops() -> None:
    data = warc([("http://e.org/1", bytes(40 * 2**20), HTML), ("http://e.org/2", b"", HTML)])
    with pytest.raises(ExpansionError, match="max_expansion is 200"):
        pages(data, Reading(max_record_bytes=2**20, limits=Limits()))


def test_wet_texts_keep_address_and_language_claim() -> None:
    data = wet(
        [
            ("http://e.org/1", CHINESE.encode(), "zho,eng"),
            ("http://e.org/2", ENGLISH.replace("\n", "\r\n").encode(), "eng"),
            ("http://e.org/3", "été".encode("latin-1"), "fra"),
            ("http://e.org/4", "Straße".encode(), "deu"),
            ("http://e.org/5", b"none", ""),
        ]
    )
    found = list(read_wet(io.BytesIO(data)))
    assert [record.lang for record in found] == ["zh", "en", None, "und", None]
    assert [words(found[0].text), words(found[1].text)] == [words(CHINESE), words(ENGLISH)]
    assert found[0].url == "http://e.org/1" and found[0].date == "2026-03-01"
    assert str(found[2].problem).startswith("not UTF-8")


@pytest.mark.parametrize(
    ("claim", "expected"),
    [("en", "en"), ("EN-us", "en"), ("zh_Hans_CN", "zh"), ("cmn", "zh"), ("fr", "und"), ("", None), (None, None)],
)
def test_language_claims(claim: str | None, expected: str | None) -> None:
    assert language(claim) == expected


def test_saved_page_is_one_document() -> None:
    [record] = read_html(io.BytesIO(page(CHINESE, "题", '<meta charset="gb18030">').encode("gb18030")))
    assert (record.fragment, record.title, words(record.text)) == ("", "题", words(CHINESE))
    [record] = read_html(io.BytesIO(b"\xff\xfe\x00"))
    assert record.problem is not None
    [record] = read_html(io.BytesIO(b"x" * 2000), Reading(max_record_bytes=1000))
    assert record.size == 2000


def test_file_compressed_as_a_whole_still_has_names_of_its_own_for_its_records() -> None:
    data = warc([(f"http://e.org/{n}", page(ENGLISH).encode(), HTML) for n in range(4)], compressed=False)
    for packed in (gzip.compress(data), zstandard.compress(data)):
        found = pages(packed)
        assert [record.url for record in found] == [f"http://e.org/{n}" for n in range(4)]
        assert len({record.fragment for record in found}) == 4
        with pytest.raises((TruncatedError, EOFError, OSError)):
            pages(packed[:-100])


def test_equal_files_give_equal_records() -> None:
    data = warc([("http://e.org/1", page(ENGLISH).encode(), HTML)])
    assert pages(data) == pages(data)
    assert gzip.decompress(data).count(b"WARC/1") == 3

"""Rows in JSON lines, Parquet and Arrow IPC, and Wikipedia's multistream dumps, in files that those formats' writers made."""

from __future__ import annotations

import bz2
import io
import json
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from stages.corpus.mediawiki import read_mediawiki, stream_offsets
from stages.corpus.params import Columns
from stages.corpus.records import Reading, Record
from stages.corpus.streams import Limits, decompressed
from stages.corpus.tables import read_arrow, read_jsonl, read_parquet

ROWS: list[dict[str, Any]] = [
    {"doc": f"n{n}", "content": f"text {n}", "meta": {"url": f"http://e.org/{n}", "lang": "zh" if n % 2 else "eng"}}
    for n in range(10)
]
COLUMNS = Columns(text="content", id="doc", url="meta.url", lang="meta.lang", part=None)
TABLE = pa.Table.from_pylist(ROWS)


def parquet(table: pa.Table = TABLE, group: int = 3) -> io.BytesIO:
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=group)
    out.seek(0)
    return out


def arrow(stream: bool) -> io.BytesIO:
    out = io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, TABLE.schema) as writer:
        for batch in TABLE.to_batches(max_chunksize=4):
            writer.write_batch(batch)
    out.seek(0)
    return out


def seen(records: list[Record]) -> list[tuple[Any, ...]]:
    return [(record.fragment, record.text, record.url, record.lang, record.problem) for record in records]


EXPECTED = [(f"n{n}", f"text {n}", f"http://e.org/{n}", "zh" if n % 2 else "en", None) for n in range(10)]


def test_columns_by_name_nested_ones_too_are_equal_in_every_format() -> None:
    how = Reading(COLUMNS)
    lines = io.BytesIO(b"".join(json.dumps(row).encode() + b"\n" for row in ROWS))
    assert seen(list(read_jsonl(lines, how))) == EXPECTED
    assert seen(list(read_parquet(parquet(), how))) == EXPECTED
    assert seen(list(read_arrow(arrow(False), how))) == EXPECTED
    assert seen(list(read_arrow(arrow(True), how))) == EXPECTED


def test_row_groups_read_apart_are_the_file() -> None:
    how = Columns(text="content", part=None)
    whole = seen(list(read_parquet(parquet(), Reading(how))))
    parts = [list(read_parquet(parquet(), Reading(how, part=part))) for part in ((0, 1), (1, 3), (3, 4))]
    assert [row for part in parts for row in seen(part)] == whole
    assert [row[0] for row in whole] == [str(n) for n in range(1, 11)]


@pytest.mark.parametrize("reader", [lambda how: read_parquet(parquet(), how), lambda how: read_arrow(arrow(True), how)])
def test_column_that_is_absent_is_named_with_those_there_are(reader) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="no column 'text'; there are: doc, content, meta"):
        list(reader(Reading()))
    with pytest.raises(ValueError, match="no column 'uri'"):
        list(reader(Reading(Columns(text="content", url="uri"))))


def test_row_without_an_id_or_with_a_huge_text_is_named() -> None:
    table = pa.table({"id": ["a", None, "c"], "text": ["x", "y", "z" * 5000]})
    first, second, third = read_parquet(parquet(table), Reading(Columns(id="id"), max_record_bytes=1000))
    assert (first.fragment, second.problem, third.size) == ("a", "no field 'id'", 5000)


@pytest.mark.parametrize("data", [b"PAR1 but no more", b""])
def test_file_that_is_no_table_raises(data: bytes) -> None:
    for reader in (read_parquet, read_arrow):
        with pytest.raises((ValueError, OSError)):
            list(reader(io.BytesIO(data)))


def test_parquet_that_cannot_seek_is_read_from_a_copy_on_disk() -> None:
    packed = zstandard.compress(parquet().getvalue())
    stream = decompressed("a.parquet.zst", io.BytesIO(packed), Limits())
    assert seen(list(read_parquet(stream, Reading(COLUMNS)))) == EXPECTED


def test_pile_lines_keep_the_set_that_they_come_from() -> None:
    rows = [{"text": f"t{n}", "meta": {"pile_set_name": name}} for n, name in enumerate(["Pile-CC", "ArXiv", "Pile-CC"])]
    packed = zstandard.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    found = list(read_jsonl(decompressed("00.jsonl.zst", io.BytesIO(packed), Limits())))
    assert [(record.fragment, record.part) for record in found] == [
        ("Pile-CC/1", "Pile-CC"),
        ("ArXiv/2", "ArXiv"),
        ("Pile-CC/3", "Pile-CC"),
    ]


def test_deeply_nested_json_is_named() -> None:
    [record] = read_jsonl(io.BytesIO(b'{"text": ' + b"[" * 200_000))
    assert str(record.problem).startswith("not valid JSON")


PAGE = """  <page>
    <title>Page {n}</title><ns>0</ns><id>{n}</id>
    <revision><id>9{n}</id><timestamp>2026-02-03T00:00:00Z</timestamp>
    <text xml:space="preserve">[[Datei:x.jpg]]'''Text''' {n}.</text></revision>
  </page>
"""
HEAD = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">\n  <siteinfo><namespaces>'
    '<namespace key="6">Datei</namespace></namespaces></siteinfo>\n'
)


def multistream(pages: int = 10, each: int = 3, again: tuple[int, ...] = (), head: str = HEAD) -> tuple[bytes, bytes]:
    """(dump, index) as Wikimedia writes them: header, blocks of pages and the closing tag are bzip2 streams of their own.

    Pages `again` stand a second time, behind all others.
    """
    out, index = io.BytesIO(), []
    out.write(bz2.compress(head.encode()))
    every = [*range(1, pages + 1), *again]
    for first in range(0, len(every), each):
        numbers = every[first : first + each]
        index += [f"{out.tell()}:{n}:Page {n}: a title\n" for n in numbers]
        out.write(bz2.compress("".join(PAGE.format(n=n) for n in numbers).encode()))
    out.write(bz2.compress(b"</mediawiki>"))
    return out.getvalue(), "".join(index).encode()


def test_multistream_dump_read_in_parts_is_the_dump() -> None:
    dump, index = multistream()
    offsets = stream_offsets(io.BytesIO(index))
    assert len(offsets) == 4
    whole = list(read_mediawiki(bz2.BZ2File(io.BytesIO(dump))))
    ends = [*offsets[1:], len(dump)]
    parts = [list(read_mediawiki(io.BytesIO(dump), Reading(part=part))) for part in zip(offsets, ends, strict=True)]
    assert [record for part in parts for record in part] == whole
    assert [(record.fragment, record.text) for record in whole] == [(str(n), f"Text {n}.") for n in range(1, 11)]
    assert list(read_mediawiki(io.BytesIO(dump), Reading(part=(offsets[0], len(dump))))) == whole


def test_part_of_a_dump_knows_the_addresses_of_its_pages() -> None:
    dump, index = multistream(head=HEAD.replace("<siteinfo>", "<siteinfo><base>https://w.org/wiki/Main</base>"))
    last = stream_offsets(io.BytesIO(index))[-1]
    [record] = read_mediawiki(io.BytesIO(dump), Reading(part=(last, len(dump))))
    assert record.url == "https://w.org/wiki/Page_10"


def test_cut_multistream_part_raises_behind_its_whole_pages() -> None:
    dump, index = multistream()
    last = stream_offsets(io.BytesIO(index))[-1]
    for cut in (len(dump) - 5, len(dump) - len(bz2.compress(b"</mediawiki>"))):
        found: list[str] = []
        with pytest.raises((EOFError, ParseError)):
            found.extend(record.fragment for record in read_mediawiki(io.BytesIO(dump[:cut]), Reading(part=(last, cut))))
        assert found == ["10"]


def test_page_over_the_record_limit_is_passed_over_and_the_next_one_read() -> None:
    large = PAGE.format(n=1).replace("Text", "x" * 5000)
    data = (HEAD + large + PAGE.format(n=2) + "</mediawiki>").encode()
    first, second = read_mediawiki(io.BytesIO(data), Reading(max_record_bytes=1000))
    assert str(first.problem).startswith("record too large (50") and first.raw == b""
    assert second.text == "Text 2."


def test_index_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        stream_offsets(io.BytesIO(b"Page 1\n"))

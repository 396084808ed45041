from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from stages.corpus import archive
from stages.corpus.plays import read_play
from stages.corpus.poems import read_poems
from stages.corpus.records import Reader, Reading, TruncatedError, tidy
from stages.corpus.streams import ExpansionError, Limits, decompressed
from stages.corpus.tables import read_jsonl, read_parquet
from stages.corpus.text import read_text
from tests.support.registry import targz, wheel

LIMITS = Limits()

PLAY = """A SHORT PLAY

by Some Body

PERSONS
A king.

ACT I.

Scene I. A hall.

KING.
In this scene I speak of act three.

Scene II.--A field.

[Exit.]

ACT SECOND. SCENE 1. The same.

KING.
Again.
"""


def plays(text: str) -> dict[str, str]:
    return {record.fragment: record.text for record in read_play(io.BytesIO(text.encode()))}


def test_play_is_split_by_scenes() -> None:
    assert plays(PLAY) == {
        "front": "PERSONS\nA king.",
        "act-1-scene-1": "ACT I.\n\nScene I. A hall.\n\nKING.\nIn this scene I speak of act three.",
        "act-1-scene-2": "Scene II.--A field.\n\n[Exit.]",
        "act-2-scene-1": "ACT SECOND. SCENE 1. The same.\n\nKING.\nAgain.",
    }


def test_play_states_title_author_and_raw_bytes() -> None:
    data = PLAY.replace("\n", "\r\n").encode()
    records = list(read_play(io.BytesIO(data)))
    assert {(record.title, record.author) for record in records} == {("A SHORT PLAY", "Some Body")}
    assert data.endswith(b"".join(record.raw for record in records))
    assert [record.text for record in records] == list(plays(PLAY).values())


def test_words_before_an_acts_first_scene_are_a_piece_of_their_own() -> None:
    pieces = plays("T\n\nACT I.\n\nPROLOGUE.\nHear!\n\nSCENE I.\nA.\n\nACT II.\n\nSCENE I.\nB.\n")
    assert list(pieces) == ["act-1", "act-1-scene-1", "act-2-scene-1"]
    assert pieces["act-1"] == "ACT I.\n\nPROLOGUE.\nHear!"


def test_folio_headings() -> None:
    text = "The Tragedie\n\nActus Primus. Scoena Prima.\n\nWho's there?\n\nScena Secunda.\n\nB\n\nActus Tertia.\n\nC\n"
    assert list(plays(text)) == ["act-1-scene-1", "act-1-scene-2", "act-3"]


def test_repeated_headings_get_a_number() -> None:
    assert list(plays("T\nACT I.\nScene I.\na\nACT I.\nScene I.\nb\n")) == ["act-1-scene-1", "act-1-scene-1-2"]


def test_numbered_poems_count_up_from_one() -> None:
    text = "SONNETS\nby Some Body\n\nI\n\nI say\nCV\n\nII\n\nline\n\nIII.\n\nlast\n"
    assert plays(text) == {"1": "I\n\nI say\nCV", "2": "II\n\nline", "3": "III.\n\nlast"}


@pytest.mark.parametrize("text", ["A POEM\n\nOne line.\n", "T\n\nACT I.\nall of it\n"])
def test_text_with_fewer_than_two_headings_stays_whole(text: str) -> None:
    assert list(plays(text)) == [""]


def test_play_that_is_empty_or_not_utf8_yields_a_record_to_judge() -> None:
    assert [record.text for record in read_play(io.BytesIO(b""))] == [""]
    [record] = read_play(io.BytesIO("ACT I.\né".encode("latin-1")))
    assert record.problem is not None


def poems(value: object) -> list[tuple[str, str | None, str | None, str]]:
    data = json.dumps(value, ensure_ascii=False).encode()
    return [(record.fragment, record.title, record.author, record.text) for record in read_poems(io.BytesIO(data))]


def test_poem_shapes() -> None:
    assert poems(
        [
            {"title": "静夜", "author": "甲", "paragraphs": ["一。", "二。"], "notes": ["注"], "id": "x"},
            {"rhythmic": "清平乐", "author": "乙", "paragraphs": ["三。"]},
            {"title": "长相思", "para": ["四"], "author": "丙"},
            {"content": "五。", "comment": ["评"]},
            {"chapter": "学而篇", "paragraphs": ["六。"]},
            {"title": "空", "paragraphs": []},
            "第七回 题\n\n\t七。\n  八。",
        ]
    ) == [
        ("0", "静夜", "甲", "一。\n二。"),
        ("1", "清平乐", "乙", "三。"),
        ("2", "长相思", "丙", "四"),
        ("3", None, None, "五。"),
        ("4", "学而篇", None, "六。"),
        ("5", "空", None, ""),
        ("6", "第七回 题", None, "七。\n八。"),
    ]


def test_nested_collection_inherits_its_author() -> None:
    inner = [
        {
            "type": "绝句",
            "content": [{"chapter": "春", "author": "唐人", "paragraphs": ["一。"]}, {"chapter": "夏", "paragraphs": ["二。"]}],
        }
    ]
    assert poems({"title": "集", "author": "编者", "abstract": "说明", "content": inner}) == [
        ("0.0.0", "春", "唐人", "一。"),
        ("0.0.1", "夏", "编者", "二。"),
    ]


def test_raw_bytes_of_an_item_are_those_of_the_file() -> None:
    data = '[ {"title" : "a", "paragraphs": ["\\u4e00"]} ,\n {"title":"b","paragraphs":["二"]}]'.encode()
    raws = [record.raw for record in read_poems(io.BytesIO(data))]
    assert raws == [b'{"title" : "a", "paragraphs": ["\\u4e00"]}', '{"title":"b","paragraphs":["二"]}'.encode()]


@pytest.mark.parametrize("data", [b"", b"[{]", b'[{"paragraphs": ["a"]} {"x": 1}]', b'[{"paragraphs": ["a"]}', b"\xff\xfe"])
def test_broken_json_is_reported_not_raised(data: bytes) -> None:
    assert list(read_poems(io.BytesIO(data)))[-1].problem is not None


def test_empty_list_has_no_documents() -> None:
    assert list(read_poems(io.BytesIO(b"[]"))) == []


def test_jsonl_rows_keep_what_they_state() -> None:
    data = b'{"text": "a\\r\\nb ", "title": "T", "date": 1999, "meta": {"set": "x"}}\n\n["list"]\n'
    first, second = read_jsonl(io.BytesIO(data))
    assert (first.fragment, first.text, first.title, first.author, first.date) == ("1", "a\nb", "T", None, "1999")
    assert first.raw == data.split(b"\n")[0]
    assert (second.fragment, second.problem) == ("3", "no string field 'text'")


@pytest.mark.parametrize("seekable", [True, False])
def test_parquet_rows(seekable: bool) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", None, "丙"], "author": ["x", "y", None], "other": [1, 2, 3]}), buffer)
    buffer.seek(0)
    buffer.seekable = lambda: seekable  # type: ignore[method-assign]
    records = list(read_parquet(buffer))
    assert [(record.fragment, record.text, record.author) for record in records if not record.problem] == [
        ("1", "a", "x"),
        ("3", "丙", None),
    ]
    assert records[1].problem == "no string field 'text'"
    assert records[2].raw == "丙".encode()


def test_tidy() -> None:
    assert tidy("\n\n a  \n\n\n\nb\t\n") == " a\n\nb"


def read_all(path: Path, name: str) -> dict[str, bytes]:
    found = archive.members(path, name, lambda member: True, LIMITS)
    return {member.name: decompressed(member.name, member.raw, LIMITS).read() for member in found if member.raw}


def problems(path: Path, name: str) -> dict[str, str | None]:
    return {member.name: member.problem for member in archive.members(path, name, lambda member: True, LIMITS)}


@pytest.mark.parametrize(("name", "pack"), [("a.tar.gz", targz), ("a.tgz", targz), ("a.whl", wheel), ("a.zip", wheel)])
def test_archives_are_read_in_their_own_order_without_touching_the_disk(tmp_path: Path, name: str, pack: object) -> None:
    assert callable(pack)
    files = {"./b.txt": b"b", "a/x.bz2": bz2.compress(b"x"), "c.gz": gzip.compress(b"c")}
    (tmp_path / "kept").write_bytes(pack(files))
    assert list(read_all(tmp_path / "kept", name).items()) == [("b.txt", b"b"), ("a/x.bz2", b"x"), ("c.gz", b"c")]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(("name", "pack"), [(".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstandard.compress)])
def test_tar_archives_in_any_compression(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "kept").write_bytes(pack(gzip.decompress(targz({"a.txt": b"a", "b.txt": b"b" * 10_000}))))
    assert read_all(tmp_path / "kept", f"x.tar{name}") == {"a.txt": b"a", "b.txt": b"b" * 10_000}


def test_single_compressed_files(tmp_path: Path) -> None:
    cases = {
        "a.jsonl.zst": zstandard.compress(b"one\n") + zstandard.compress(b"two\n"),  # two frames
        "a.txt.xz": lzma.compress(b"one\ntwo\n"),
        "a.txt.bz2": bz2.compress(b"one\n") + bz2.compress(b"two\n"),
        "a.txt.gz": gzip.compress(b"one\n") + gzip.compress(b"two\n"),
        "a.txt": b"one\ntwo\n",
    }
    for name, data in cases.items():
        (tmp_path / "kept").write_bytes(data)
        assert read_all(tmp_path / "kept", name) == {name: b"one\ntwo\n"}


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/passwd", "a/../../b.txt"])
@pytest.mark.parametrize(("file", "pack"), [("a.tar.gz", targz), ("a.zip", wheel)])
def test_member_names_that_climb_out_are_not_opened(tmp_path: Path, name: str, file: str, pack: object) -> None:
    assert callable(pack)
    (tmp_path / file).write_bytes(pack({name: b"x", "good.txt": b"y"}))
    assert problems(tmp_path / file, file) == {name: "unsafe member name (it leads out of the archive)", "good.txt": None}
    assert read_all(tmp_path / file, file) == {"good.txt": b"y"}


def test_links_are_named_and_devices_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("link.txt", tarfile.SYMTYPE), ("hard.txt", tarfile.LNKTYPE), ("pipe.txt", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else "file.txt"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("file.txt"), io.BytesIO())
    assert problems(tmp_path / "a.tar", "a.tar") == {
        "link.txt": "link (to /etc/passwd)",
        "hard.txt": "link (to file.txt)",
        "file.txt": None,
    }
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archived:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archived.writestr(link, "/etc/passwd")
    assert problems(tmp_path / "a.zip", "a.zip") == {"link.txt": "link (to elsewhere)"}


@pytest.mark.parametrize("cut", [512, 700, 1024, 1500])
def test_tar_that_ends_early_is_not_taken_for_whole(tmp_path: Path, cut: int) -> None:
    whole = gzip.decompress(targz({"a.txt": b"a" * 100, "b.txt": b"b" * 100}))
    (tmp_path / "a.tar").write_bytes(whole[:cut])
    with pytest.raises((TruncatedError, tarfile.ReadError), match="end"):
        read_all(tmp_path / "a.tar", "a.tar")


def test_tar_with_a_damaged_header_is_not_taken_for_whole(tmp_path: Path) -> None:
    data = bytearray(gzip.decompress(targz({"a.txt": b"a" * 100, "b.txt": b"b" * 100})))
    data[1024 + 10] ^= 255
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(tarfile.ReadError, match="damaged member header"):
        read_all(tmp_path / "a.tar", "a.tar")


ZEROS = bytes(48 * 2**20)


@pytest.mark.parametrize(
    ("name", "pack"), [("a.gz", gzip.compress), ("a.bz2", bz2.compress), ("a.xz", lzma.compress), ("a.zst", zstandard.compress)]
)
def test_files_that_expand_too_far_stop_early(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / name).write_bytes(pack(ZEROS))
    with (tmp_path / name).open("rb") as raw, pytest.raises(ExpansionError, match=r"bytes came out of .*max_expansion is 200"):
        decompressed(name, raw, LIMITS).read()
    with (tmp_path / name).open("rb") as raw, pytest.raises(ExpansionError, match="max_member_bytes"):
        decompressed(name, raw, Limits(1e9, 1_000_000)).read(2_000_000)


def test_archives_that_expand_too_far_stop_early(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(targz({"zeros.txt": ZEROS}))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archived:
        archived.writestr("zeros.txt", ZEROS)
    for file in ("a.tar.gz", "a.zip"):
        with pytest.raises(ExpansionError):
            read_all(tmp_path / file, file)


def test_small_files_may_expand_as_far_as_they_like(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(ZEROS[: 2**20]))
    assert len(read_all(tmp_path / "a.gz", "a.gz")["a.gz"]) == 2**20


@pytest.mark.parametrize("reader", [read_text, read_play, read_poems])
def test_file_over_the_record_limit_is_reported_not_loaded(reader: Reader) -> None:
    [record] = reader(io.BytesIO(b"x" * 5000), Reading(max_record_bytes=1000))
    assert (record.raw, record.size) == (b"", 5000)
    assert str(record.problem).startswith("record too large (5000 bytes")


def test_line_over_the_record_limit_is_passed_over_and_the_next_ones_read() -> None:
    lines = [b'{"text": "a"}\n', b'{"text": "' + b"x" * 5_000_000 + b'"}\n', b'{"text": "b"}\n', b"y" * 3000]
    stream = _Watched(b"".join(lines))
    first, second, third, fourth = read_jsonl(stream, Reading(max_record_bytes=1000))
    assert (first.fragment, first.text, third.fragment, third.text) == ("1", "a", "3", "b")
    assert (second.fragment, second.size, second.raw) == ("2", len(lines[1]), b"")
    assert (fourth.fragment, fourth.size) == ("4", 3000)
    assert stream.largest <= 1 << 20


class _Watched(io.BytesIO):
    """Remembers the largest line that was handed out."""

    largest = 0

    def readline(self, limit: int | None = -1, /) -> bytes:
        line = super().readline(limit)
        self.largest = max(self.largest, len(line))
        return line

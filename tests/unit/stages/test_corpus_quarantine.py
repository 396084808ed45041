"""Bad input: named, counted and quarantined, with everything before the damage kept."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from stages._documents import read_documents
from stages._params import parse
from stages._runner import StageError, StageIO
from stages._sandbox import UndeclaredInputError
from stages.corpus import Params, run
from stages.corpus.reading import READERS
from stages.corpus.shelf import QUARANTINE
from tests.support.crawl import page, warc
from tests.support.registry import targz, wheel
from tests.support.text import text

SOURCE = {"id": "tales", "reader": "jsonl", "members": ["*"], "lang": "en", "licence": "CC0-1.0", "rights": "ours"}
LINES = b"".join(json.dumps({"text": text("en", str(n), 300)}).encode() + b"\n" for n in range(400))


Rows = list[dict[str, Any]]


def build(root: Path, settings: dict[str, Any] | None = None, **source: Any) -> tuple[Rows, Rows]:
    """(documents, quarantine) of the files in `root`/texts."""
    section = {
        "accepted_licences": ["CC0-1.0"],
        "on_bad_document": "quarantine",
        "max_quarantine_share": 1.0,
        "origins": [{"kind": "local", "path": "texts", "sources": [{**SOURCE, **source}]}],
        **(settings or {}),
    }
    stage = StageIO("corpus", root, [], "data/corpus")
    stage.forget()
    shutil.rmtree(stage.output, ignore_errors=True)
    stage.output.mkdir(parents=True)
    counts = run(parse(Params, section, "corpus"), stage)
    table = pq.read_table(stage.output / "quarantine.parquet")
    assert table.schema.equals(QUARANTINE)
    assert counts["quarantined"] == len(table)
    [entry] = json.loads((stage.output / "sources.json").read_text(encoding="utf-8"))
    assert sum(entry["quarantined"].values()) == len(table)
    return list(read_documents(stage.output)), table.to_pylist()


def put(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "texts" / name).write_bytes(data)


@pytest.mark.parametrize(
    ("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstandard.compress)]
)
def test_truncated_file_keeps_what_stands_before_the_cut(tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]) -> None:
    packed = b"".join(pack(LINES[start : start + 20_000]) for start in range(0, len(LINES), 20_000))  # streams in a row
    cut = packed[: len(packed) * 2 // 3]
    put(tmp_path, {f"a.jsonl{ending}": cut, f"b.jsonl{ending}": pack(b'{"text": "after"}\n')})
    documents, [row] = build(tmp_path)
    assert 50 < len(documents) < 400
    assert [d["text"] for d in documents[:-1]] == [text("en", str(n), 300).strip("\n") for n in range(len(documents) - 1)]
    assert documents[-1]["text"] == "after"
    assert (row["source"], row["file"], row["record"], row["reason"]) == ("tales", f"a.jsonl{ending}", None, "truncated")
    assert row["bytes"] == len(cut)
    with pytest.raises(StageError, match=rf"the file cannot be read: truncated.*a\.jsonl\{ending}.*on_bad_document"):
        build(tmp_path, {"on_bad_document": "stop"})


def test_truncated_warc_keeps_what_stands_before_the_cut(tmp_path: Path) -> None:
    data = warc(
        [(f"http://e.org/{n}", page(text("en", str(n), 900)).encode(), {"Content-Type": "text/html"}) for n in range(9)]
    )
    put(tmp_path, {"a.warc.gz": data[: len(data) // 2]})
    documents, [row] = build(tmp_path, reader="warc")
    assert [row["url"] for row in documents] == [f"http://e.org/{n}" for n in range(len(documents))]
    assert 2 < len(documents) < 6
    assert row["reason"] == "truncated"


def test_damage_in_the_middle_is_told_from_a_cut(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(LINES))
    packed[len(packed) // 2 : len(packed) // 2 + 8] = b"\xff" * 8
    put(tmp_path, {"a.jsonl.gz": bytes(packed), "b.jsonl.gz": os.urandom(5000), "c.jsonl": LINES})
    documents, rows = build(tmp_path)
    assert len(documents) >= 400
    assert [(row["file"], row["reason"]) for row in rows if row["record"] is None][-1] == ("b.jsonl.gz", "damaged")
    assert "a.jsonl.gz" in {row["file"] for row in rows}


def test_record_of_many_megabytes_is_passed_over_in_streaming(tmp_path: Path) -> None:
    large = b'{"text": "' + b"x" * 20_000_000 + b'"}\n'
    put(tmp_path, {"a.jsonl.zst": zstandard.compress(b'{"text": "one"}\n' + large + b'{"text": "two"}\n')})
    documents, [row] = build(tmp_path, {"max_record_bytes": 1_000_000, "max_expansion": 1e9})
    assert [d["text"] for d in documents] == ["one", "two"]
    assert (row["record"], row["reason"], row["bytes"]) == ("2", "record too large", len(large))


def test_decompression_bomb_is_stopped_by_either_limit(tmp_path: Path) -> None:
    put(tmp_path, {"bomb.jsonl.gz": gzip.compress(bytes(64 * 2**20)), "good.jsonl": b'{"text": "good"}\n'})
    documents, rows = build(tmp_path, {"max_record_bytes": 1000})
    assert [row["reason"] for row in rows if row["record"] is None] == ["expands too far"]
    assert [d["text"] for d in documents] == ["good"]
    documents, rows = build(tmp_path, {"max_record_bytes": 1000, "max_expansion": 1e9, "max_member_bytes": 10_000_000})
    assert [row["reason"] for row in rows if row["record"] is None] == ["expands too far"]


def test_traversal_and_links_in_archives(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("../../outside.txt", "good.txt"):
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"text"))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("/etc/absolute.txt", "text")
        archive.writestr("fine.txt", "text")
    put(tmp_path, {"a.tar": (tmp_path / "a.tar").read_bytes(), "b.zip": (tmp_path / "b.zip").read_bytes()})
    documents, rows = build(tmp_path, reader="text", members=["*.tar/*.txt", "*.zip/*.txt"])
    assert [d["path"] for d in documents] == ["a.tar/good.txt", "b.zip/fine.txt"]
    assert [(row["file"], row["reason"], row["detail"]) for row in rows] == [
        ("a.tar: ../../outside.txt", "unsafe member name", "it leads out of the archive"),
        ("a.tar: link.txt", "link", "to /etc/passwd"),
        ("b.zip: /etc/absolute.txt", "unsafe member name", "it leads out of the archive"),
    ]


def test_one_bad_member_costs_no_more_than_itself(tmp_path: Path) -> None:
    members = {"a.jsonl.bz2": b"no bzip2 at all", "b.jsonl": b'{"text": "good"}\n'}
    put(tmp_path, {"x.tar.gz": targz(members)})
    documents, [row] = build(tmp_path, members=["*.tar.gz/*"])
    assert [d["doc_id"] for d in documents] == ["tales/x.tar.gz/b.jsonl#1"]
    assert (row["file"], row["reason"]) == ("x.tar.gz: a.jsonl.bz2", "damaged")


def test_duplicate_ids_are_named_and_the_first_is_kept(tmp_path: Path) -> None:
    rows = [{"id": name, "text": f"text {n}"} for n, name in enumerate(["a", "b", "a"])]
    put(tmp_path, {"x.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in rows)})
    documents, [row] = build(tmp_path, columns={"id": "id"})
    assert [(d["doc_id"], d["text"]) for d in documents] == [("tales/x.jsonl#a", "text 0"), ("tales/x.jsonl#b", "text 1")]
    assert (row["record"], row["reason"], row["detail"]) == ("a", "duplicate id", "tales/x.jsonl#a")
    with pytest.raises(StageError, match=r"duplicate id \(tales/x\.jsonl#a\)"):
        build(tmp_path, {"on_bad_document": "stop"}, columns={"id": "id"})


def test_file_that_stands_twice_in_an_archive_is_a_duplicate(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("x.txt", "one")
        archive.writestr("x.txt", "two")
    put(tmp_path, {"a.zip": (tmp_path / "a.zip").read_bytes()})
    documents, [row] = build(tmp_path, reader="text", members=["*.zip/*"])
    assert ([d["text"] for d in documents], row["reason"]) == (["one"], "duplicate id")


def test_text_that_is_none(tmp_path: Path) -> None:
    put(tmp_path, {"gb.txt": "你好".encode("gb18030"), "nul.txt": b"a\x00b", "blank.txt": b" \n", "good.txt": b"good"})
    documents, rows = build(tmp_path, reader="text")
    assert [d["text"] for d in documents] == ["good"]
    assert [(row["file"], row["reason"]) for row in rows] == [
        ("blank.txt", "empty"),
        ("gb.txt", "not UTF-8"),
        ("nul.txt", "binary"),
    ]


def test_licence_of_a_record_must_be_accepted_too(tmp_path: Path) -> None:
    rows = [{"text": "a", "l": "MIT"}, {"text": "b", "l": "CC-BY-NC-4.0"}, {"text": "c"}]
    put(tmp_path, {"x.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in rows)})
    documents, [row] = build(tmp_path, {"accepted_licences": ["CC0-1.0", "MIT"]}, columns={"licence": "l"})
    assert [(d["text"], d["licence"]) for d in documents] == [("a", "MIT"), ("c", "CC0-1.0")]
    assert (row["reason"], row["detail"]) == ("licence not accepted", "CC-BY-NC-4.0")


def test_too_large_a_share_stops_and_names_the_worst_reason(tmp_path: Path) -> None:
    put(tmp_path, {"x.jsonl": b'{"text": "good"}\n' * 7 + b'{"text": ""}\n' * 2 + b"no json\n"})
    with pytest.raises(StageError, match=r"source tales: 3 of 10 records cannot be used, most of them \(2\): empty.*Remedy"):
        build(tmp_path, {"max_quarantine_share": 0.29})
    assert len(build(tmp_path, {"max_quarantine_share": 0.3})[1]) == 3


def test_parquet_without_the_text_column_is_quarantined_as_a_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "b.parquet")
    put(tmp_path, {name: (tmp_path / name).read_bytes() for name in ("a.parquet", "b.parquet")})
    documents, [row] = build(tmp_path, reader="parquet")
    assert len(documents) == 1
    assert (row["file"], row["detail"]) == ("a.parquet", "no column 'text'; there are: body")


@pytest.mark.parametrize(("name", "expected"), [("documents", 3), ("bytes", 50)])
def test_source_of_another_size_than_expected_is_refused(tmp_path: Path, name: str, expected: int) -> None:
    put(tmp_path, {"x.jsonl": b'{"text": "12345"}\n' * 10})
    with pytest.raises(StageError, match=f"source tales: .* {name} were read, 999 expected.*expected_{name}"):
        build(tmp_path, **{f"expected_{name}": 999})
    if name == "bytes":
        assert len(build(tmp_path, expected_bytes=expected)[0]) == 10
        assert len(build(tmp_path, {"tolerance": 0.1}, expected_bytes=54)[0]) == 10


def test_readers_answers_that_are_no_documents_are_counted_not_quarantined(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "a.warc.gz": warc(
                [
                    ("http://e.org/p", b"\x89PNG", {"Content-Type": "image/png"}),
                    ("http://e.org/t", b"text", {"Content-Type": "text/plain"}),
                ]
            )
        },
    )
    documents, rows = build(tmp_path, reader="warc")
    assert (len(documents), rows) == (1, [])
    [entry] = json.loads((tmp_path / "data/.corpus.partial/sources.json").read_text(encoding="utf-8"))
    assert entry["passed"] == {"neither HTML nor plain text": 1}


@pytest.mark.parametrize("pack", [targz, wheel])
def test_formats_that_need_more_than_a_stream_are_read_from_archives_too(tmp_path: Path, pack: Callable[..., bytes]) -> None:
    table = io.BytesIO()
    pq.write_table(pa.table({"text": ["x", "y"]}), table)
    crawl = warc(
        [(f"http://e.org/{n}", page(text("en", str(n), 900)).encode(), {"Content-Type": "text/html"}) for n in range(3)]
    )
    ending = "tar.gz" if pack is targz else "zip"
    put(tmp_path, {f"a.{ending}": pack({"a.parquet": table.getvalue(), "a.warc.gz": crawl})})
    documents, rows = build(tmp_path, reader="parquet", members=[f"*.{ending}/*.parquet"])
    assert ([row["text"] for row in documents], rows) == (["x", "y"], [])
    documents, rows = build(tmp_path, reader="warc", members=[f"*.{ending}/*.warc.gz"])
    assert ([row["url"] for row in documents], rows) == ([f"http://e.org/{n}" for n in range(3)], [])


def test_file_that_this_machine_may_not_open_is_not_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(stream: Any, how: Any) -> Any:
        raise UndeclaredInputError("corpus", "texts/x.jsonl")

    monkeypatch.setitem(READERS, "jsonl", refused)
    put(tmp_path, {"x.jsonl": LINES})
    with pytest.raises(UndeclaredInputError):
        build(tmp_path)

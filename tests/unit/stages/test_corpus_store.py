"""Files by URL: a web server on the loopback address that cuts and lies, and an S3 server (moto) that lists."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import _transport as transport
from stages._documents import read_documents
from stages._engine import EngineSettings
from stages._params import parse
from stages._runner import StageError, StageIO
from stages.corpus import Params, remote, run
from tests.support.registry import Registry, sha256

SOURCE = {"id": "tales", "reader": "jsonl", "members": ["*"], "lang": "en", "licence": "CC0-1.0", "rights": "ours"}
BUCKET = "crawl"


def lines(name: str, count: int = 5) -> bytes:
    return gzip.compress(b"".join(json.dumps({"text": f"{name} {n}"}).encode() + b"\n" for n in range(count)), mtime=0)


FILES = {f"part/{name}.jsonl.gz": lines(name) for name in ("a", "b", "c")}
SUMS = "".join(f"{sha256(data)}  {name}\n" for name, data in FILES.items())


def section(origin: dict[str, Any], **source: Any) -> dict[str, Any]:
    return {"accepted_licences": ["CC0-1.0"], "origins": [{"kind": "store", **origin, "sources": [{**SOURCE, **source}]}]}


def stage(root: Path, settings: EngineSettings | None = None) -> StageIO:
    io = StageIO("corpus", root, [], "data/corpus", settings)
    io.forget()
    io.output.mkdir(parents=True, exist_ok=True)
    return io


def build(io: StageIO, data: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """(texts, register entry) of the only source."""
    run(parse(Params, data, "corpus"), io)
    io.engine.close()
    [entry] = json.loads((io.output / "sources.json").read_text(encoding="utf-8"))
    return [row["text"] for row in read_documents(io.output)], entry


EXPECTED = [f"{name} {n}" for name in "abc" for n in range(5)]


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setattr(transport.time, "sleep", lambda seconds: None)
    with Registry() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        for name, data in FILES.items():
            server.add_file(name, data)
        server.add_file("SHA256SUMS", SUMS.encode())
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A file system with an empty bucket; the environment sends s3:// there."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = s3fs.S3FileSystem()
    filesystem.mkdir(BUCKET)
    yield filesystem
    filesystem.rm(BUCKET, recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def downloads(io: StageIO) -> set[str]:
    return {path.name for path in io.scratch("downloads").iterdir()}


def test_pinned_list_of_sums_pins_every_file(web: Registry, tmp_path: Path) -> None:
    origin = {
        "files": [f"{web.url}/files/part/*.gz"],
        "checksums": f"{web.url}/files/SHA256SUMS",
        "sha256": sha256(SUMS.encode()),
    }
    io = stage(tmp_path)
    texts, entry = build(io, section(origin))
    assert texts == EXPECTED
    assert [row["path"] for row in read_documents(io.output)][::5] == [f"{name}.jsonl.gz#1" for name in "abc"]
    assert downloads(io) == {sha256(data) for data in FILES.values()} | {sha256(SUMS.encode())}
    files = pq.read_table(io.output / "files.parquet").to_pylist()
    assert [(row["file"], row["sha256"], row["url"]) for row in files] == [
        (f"{name}.jsonl.gz", sha256(FILES[f"part/{name}.jsonl.gz"]), f"{web.url}/files/part/{name}.jsonl.gz") for name in "abc"
    ]
    assert entry["files_read"] == 3
    web.stop()
    assert build(stage(tmp_path), section(origin)) == (texts, entry)


def test_listing_names_the_files_as_a_crawl_publishes_them(web: Registry, tmp_path: Path) -> None:
    listing = web.add_file("warc.paths.gz", gzip.compress("".join(f"{name}\n" for name in FILES).encode()))
    origin = {"listing": listing, "base": f"{web.url}/files/", "unpinned": True}
    io = stage(tmp_path / "all")
    texts, entry = build(io, section(origin))
    assert (texts, entry["url"], entry["files_read"]) == (EXPECTED, listing, 3)
    assert [row["path"] for row in read_documents(io.output)][::5] == [f"{name}#1" for name in FILES]
    some = {**origin, "files": [f"{web.url}/files/part/[bc].*"], "checksums": f"{web.url}/files/SHA256SUMS"}
    assert build(stage(tmp_path / "some"), section(some))[0] == EXPECTED[5:]


def test_http_origin_may_be_unpinned_too(web: Registry, tmp_path: Path) -> None:
    data = section({"kind": "http", "url": f"{web.url}/files/part/a.jsonl.gz", "file": "a.jsonl.gz", "unpinned": True})
    texts, entry = build(stage(tmp_path), data)
    assert (texts, entry["sha256"]) == (EXPECTED[:5], sha256(FILES["part/a.jsonl.gz"]))


def test_file_that_differs_from_its_listed_sum_stops(web: Registry, tmp_path: Path) -> None:
    origin = {"files": [f"{web.url}/files/part/a.jsonl.gz"], "checksums": f"{web.url}/files/SHA256SUMS", "unpinned": True}
    web.add_file("part/a.jsonl.gz", lines("other"))
    with pytest.raises(StageError, match=r"sources tales: SHA-256 differs.*a\.jsonl\.gz"):
        build(stage(tmp_path), section(origin))


def test_file_that_the_list_of_sums_does_not_name_stops(web: Registry, tmp_path: Path) -> None:
    url = web.add_file("part/d.jsonl.gz", lines("d"))
    origin = {"files": [url], "checksums": f"{web.url}/files/SHA256SUMS", "unpinned": True}
    with pytest.raises(StageError, match=r"no checksum is given for d\.jsonl\.gz"):
        build(stage(tmp_path), section(origin))


def test_patterns_need_something_to_match(web: Registry, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="a web server has no list of its files"):
        build(stage(tmp_path), section({"files": [f"{web.url}/files/*.gz"], "unpinned": True}))
    origin = {"files": [f"{web.url}/files/*.xz"], "checksums": f"{web.url}/files/SHA256SUMS", "unpinned": True}
    with pytest.raises(StageError, match=r"no file matches .*\*\.xz"):
        build(stage(tmp_path), section(origin))


def test_unpinned_file_is_kept_remembered_and_noticed_when_it_changes(web: Registry, tmp_path: Path) -> None:
    origin = {"files": [f"{web.url}/files/part/a.jsonl.gz"], "unpinned": True}
    io = stage(tmp_path)
    _, entry = build(io, section(origin))
    assert entry["sha256"] == sha256(FILES["part/a.jsonl.gz"])
    [record] = io.notes["retrieved"]
    assert (record["url"], record["sha256"], record["bytes"]) == (
        origin["files"][0],
        entry["sha256"],
        len(FILES["part/a.jsonl.gz"]),
    )
    assert record["etag"] and record["last_modified"] == "Thu, 01 Jan 2026 00:00:00 GMT" and record["retrieved"]
    web.add_file("part/a.jsonl.gz", lines("new"))
    assert build(stage(tmp_path), section(origin))[1] == entry  # the kept file is used
    (io.scratch("downloads") / entry["sha256"]).unlink()
    with pytest.raises(
        StageError, match=rf"changed since it was first retrieved: SHA-256 was {entry['sha256']}, is .*retrieved/"
    ):
        build(stage(tmp_path), section(origin))
    [file] = io.scratch("retrieved").glob("*.json")
    file.unlink()
    assert build(stage(tmp_path), section(origin))[0][0] == "new 0"


def test_downloads_go_once_read_where_they_are_not_to_be_kept(web: Registry, tmp_path: Path) -> None:
    origin = {"files": [f"{web.url}/files/part/a.jsonl.gz"], "unpinned": True, "keep": False}
    io = stage(tmp_path)
    first = build(io, section(origin))
    assert downloads(io) == set()
    assert build(stage(tmp_path), section(origin)) == first
    web.add_file("part/a.jsonl.gz", lines("new"))
    with pytest.raises(StageError, match="changed since"):
        build(stage(tmp_path), section(origin))


def test_cut_file_is_resumed_and_one_that_changed_meanwhile_is_begun_anew(web: Registry, tmp_path: Path) -> None:
    web.cuts, web.cut_at = 1, 20
    origin = {"files": [f"{web.url}/files/part/a.jsonl.gz"], "unpinned": True}
    assert build(stage(tmp_path / "1"), section(origin))[0] == EXPECTED[:5]
    assert [asked for _, asked in web.requests] == [None, "bytes=20-"]
    io = stage(tmp_path / "2")
    web.cuts = 99
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_RETRIES", "0")
        with pytest.raises(StageError, match=r"ended after 20 of .*what has come is kept, and a rerun goes on from there"):
            build(io, section(origin))
    web.cuts = 0
    web.add_file("part/a.jsonl.gz", lines("new"))
    assert build(stage(tmp_path / "2"), section(origin))[0] == [f"new {n}" for n in range(5)]


def test_server_that_overstates_the_length_is_named_after_retries(web: Registry, tmp_path: Path) -> None:
    web.overstated = 7
    size = len(FILES["part/a.jsonl.gz"])
    origin = {"files": [f"{web.url}/files/part/a.jsonl.gz"], "unpinned": True}
    with pytest.raises(StageError, match=f"the connection ended after .* of {size + 7} bytes"):
        build(stage(tmp_path), section(origin))


@pytest.mark.parametrize("kind", ["http", "store"])
def test_missing_file_is_named_without_secrets(web: Registry, tmp_path: Path, kind: str) -> None:
    url = f"{web.url.replace('//', '//reader:secret@')}/files/none.gz"
    place = {"url": url, "file": "none.gz"} if kind == "http" else {"files": [url]}
    data = section({"kind": kind, **place, "unpinned": True})
    with pytest.raises(StageError, match="HTTP 404") as error:
        build(stage(tmp_path), data)
    assert "secret" not in str(error.value)


def test_objects_of_a_bucket_are_listed_read_by_workers_and_known_again(s3: Any, tmp_path: Path) -> None:
    for name, data in FILES.items():
        s3.pipe(f"{BUCKET}/{name}", data)
    origin = {"files": [f"s3://{BUCKET}/part/*.jsonl.gz"], "unpinned": True}
    io = stage(tmp_path)
    texts, entry = build(io, section(origin))
    assert texts == EXPECTED
    assert [row["path"] for row in read_documents(io.output)][::5] == [f"{name}.jsonl.gz#1" for name in "abc"]
    assert all(record["etag"] for record in io.notes["retrieved"])
    two = stage(tmp_path / "two", EngineSettings(kind="local", workers=2))
    assert build(two, section(origin)) == (texts, entry)
    s3.pipe(f"{BUCKET}/part/b.jsonl.gz", lines("changed"))
    for path in io.scratch("downloads").iterdir():
        path.unlink()
    with pytest.raises(StageError, match=r"changed since.*b\.jsonl\.gz"):
        build(stage(tmp_path), section(origin))


def test_object_is_resumed_where_the_last_run_was_killed(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FILES["part/a.jsonl.gz"]
    s3.pipe(f"{BUCKET}/a.jsonl.gz", data)
    io = stage(tmp_path)
    (io.scratch("downloads") / f"{sha256(data)}.partial").write_bytes(data[:30])
    asked: list[int] = []
    opened = remote._open_store
    monkeypatch.setattr(remote, "_open_store", lambda url, start: asked.append(start) or opened(url, start))
    texts, _ = build(io, section({"files": [f"s3://{BUCKET}/a.jsonl.gz"], "sha256": sha256(data)}))
    assert (texts, asked) == (EXPECTED[:5], [30])


def test_parquet_objects_and_sums_in_a_bucket(s3: Any, tmp_path: Path) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"content": ["x", "y"], "url": ["http://e.org/1", None]}), sink)
    data = sink.getvalue().to_pybytes()
    s3.pipe(f"{BUCKET}/set/a.parquet", data)
    sums = f"{sha256(data)} *set/a.parquet\n".encode()
    s3.pipe(f"{BUCKET}/SHA256SUMS", sums)
    origin = {
        "files": [f"s3://{BUCKET}/set/*.parquet"],
        "checksums": f"s3://{BUCKET}/SHA256SUMS",
        "sha256": sha256(sums),
    }
    io = stage(tmp_path)
    texts, _ = build(io, section(origin, reader="parquet", columns={"text": "content"}))
    assert texts == ["x", "y"]
    assert [row["url"] for row in read_documents(io.output)] == ["http://e.org/1", None]


@pytest.mark.parametrize("name", ["none.gz", "none/*.gz"])
def test_missing_objects_and_buckets_are_named(s3: Any, tmp_path: Path, name: str) -> None:
    for bucket in (BUCKET, "no-such-bucket"):
        with pytest.raises(StageError, match=r"sources tales: .*none"):
            build(stage(tmp_path), section({"files": [f"s3://{bucket}/{name}"], "unpinned": True}))


def test_sums_are_what_sha256sum_writes() -> None:
    digest = "0" * 64
    assert remote.parse_sums(f"{digest}  ./a/b\n{digest} *c d\n\n", "s3://b/x/SUMS") == {
        "s3://b/x/a/b": digest,
        "s3://b/x/c d": digest,
    }
    with pytest.raises(ValueError, match="line 1 is not"):
        remote.parse_sums("MD5 (a) = 0\n", "s3://b/SUMS")


@pytest.mark.parametrize(
    ("patterns", "folder"),
    [
        (["s3://b/x/y.gz"], "s3://b/x"),
        (["s3://b/x/*.gz"], "s3://b/x"),
        (["s3://b/x/*/y.gz", "s3://b/x/z/*.gz"], "s3://b/x"),
        (["s3://b/x/1/*", "s3://b/x/2/*"], "s3://b/x"),
        (["s3://b/x*", "s3://c/x*"], "s3:/"),
    ],
)
def test_names_are_relative_to_the_deepest_common_folder(patterns: list[str], folder: str) -> None:
    assert remote.common_folder(patterns) == folder


def test_public_addresses_hold_no_secret() -> None:
    assert remote.public("https://u:p@h/x.gz?signature=1#f") == "https://h/x.gz"
    assert remote.public("sftp://u:p@h/x?.gz") == "sftp://h/x?.gz"
    assert remote.public("s3://bucket/key") == "s3://bucket/key"
    assert remote.public("texts/a") == "texts/a"

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages._documents import read_documents
from stages._params import ParamsError, parse
from stages._runner import StageError, StageIO
from stages.corpus import Params, run
from tests.support.registry import Registry, made_up_corpus, sha256, targz, write_corpus_section
from tests.support.text import text

ROOT = Path(__file__).resolve().parents[3]
SOURCE = {"id": "tales", "reader": "text", "members": ["*.txt"], "lang": "en", "licence": "CC0-1.0", "rights": "ours"}


def section(*origins: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"accepted_licences": ["CC0-1.0"], "origins": list(origins), **settings}


def local(path: str = "texts", **changes: Any) -> dict[str, Any]:
    return {"kind": "local", "path": path, "sources": [{**SOURCE, **changes}]}


def build(root: Path, data: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """(counts, documents, register) of the stage run in this process, without the sandbox, which cannot be left again."""
    io = StageIO("corpus", root, [], "data/corpus")
    io.output.mkdir(parents=True, exist_ok=True)
    counts = run(parse(Params, data, "params.yaml: corpus"), io)
    io.forget()
    register = json.loads((io.output / "sources.json").read_text(encoding="utf-8"))
    return counts, list(read_documents(io.output)), register


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    with Registry() as registry:
        for name, value in registry.environment().items():
            monkeypatch.setenv(name, value)
        yield registry


def test_local_folder_becomes_documents_in_order_of_names(tmp_path: Path) -> None:
    write(tmp_path, {"texts/b.txt": "second\r\nline\n", "texts/a/deep.txt": "\ufefffirst", "texts/skip.md": "no"})
    counts, documents, register = build(tmp_path, section(local(author="Someone")))
    assert [row["doc_id"] for row in documents] == ["tales/a/deep.txt", "tales/b.txt"]
    assert [row["text"] for row in documents] == ["first", "second\nline"]
    assert documents[1] == {
        "doc_id": "tales/b.txt",
        "source": "tales",
        "path": "b.txt",
        "url": None,
        "licence": "CC0-1.0",
        "lang": "en",
        "title": None,
        "author": "Someone",
        "date": None,
        "raw_sha256": hashlib.sha256(b"second\r\nline\n").hexdigest(),
        "text": "second\nline",
    }
    assert counts["documents"] == 2
    assert counts["bytes"] == len("firstsecond\nline")
    assert register[0]["documents"] == 2
    assert register[0]["licence"] == "CC0-1.0"
    assert register[0]["rights"] == "ours"


def test_registry_archives_are_read_in_place_once_for_all_their_sources(tmp_path: Path, registry: Registry) -> None:
    counts, documents, register = build(tmp_path, made_up_corpus(registry, size=20_000))
    assert [entry["id"] for entry in register] == ["made-tales", "made-poems", "made-poems-again"]
    assert counts["documents"] == len(documents) == sum(entry["documents"] for entry in register)
    assert len([path for path, _ in registry.requests if path.endswith(".tgz")]) == 1
    by_id = {row["doc_id"]: row for row in documents}
    assert by_id["made-tales/000.txt"]["text"] == text("en", "1 0", 2000)
    assert by_id["made-poems/poems.json#1"]["title"] == "第1首"
    assert by_id["made-poems/poems.json#1"]["author"] == "无名氏"
    assert by_id["made-poems/poems.json#1"]["text"] == text("zh", "1 1", 800)
    assert not any("notes are left out" in row["text"] for row in documents)
    downloads = tmp_path / "runs/corpus/scratch/downloads"
    assert {file.name for file in downloads.iterdir()} == {entry["sha256"] for entry in register}
    assert all(sha256(file.read_bytes()) == file.name for file in downloads.iterdir())


def test_max_bytes_takes_a_prefix_of_the_source_and_later_members_may_be_missing(tmp_path: Path) -> None:
    write(tmp_path, {"texts/1.txt": "x" * 40, "texts/2.txt": "y" * 40, "texts/3.txt": "z" * 40, "texts/4.txt": "w"})
    _, documents, register = build(tmp_path, section(local(max_bytes=100)))
    assert [row["path"] for row in documents] == ["1.txt", "2.txt"]
    assert register[0]["capped"]
    assert register[0]["bytes"] == 80
    _, documents, register = build(tmp_path, section(local(max_bytes=121)))
    assert len(documents) == 4
    assert not register[0]["capped"]


def test_shards_begin_anew_after_shard_bytes(tmp_path: Path) -> None:
    write(tmp_path, {f"texts/{n}.txt": "x" * 40 for n in range(5)})
    _, documents, _ = build(tmp_path, section(local(), shard_bytes=80))
    assert [row["path"] for row in documents] == [f"{n}.txt" for n in range(5)]
    files = sorted(path.name for path in (tmp_path / "data/.corpus.partial/documents").iterdir())
    assert files == ["tales-00000.parquet", "tales-00001.parquet", "tales-00002.parquet"]


def test_exclamation_mark_leaves_members_out(tmp_path: Path) -> None:
    write(tmp_path, {"texts/a.txt": "a", "texts/b.txt": "b"})
    _, documents, _ = build(tmp_path, section(local(members=["*.txt", "!b*"])))
    assert [row["path"] for row in documents] == ["a.txt"]


@pytest.mark.parametrize("members", [["*.txt", "*.csv"], ["*.txt", "!c.txt"]])
def test_pattern_without_match_stops_and_is_named(tmp_path: Path, members: list[str]) -> None:
    write(tmp_path, {"texts/a.txt": "a"})
    with pytest.raises(StageError, match=rf"source tales: no file matches {members[1].replace('*', '.')}.*Remedy"):
        build(tmp_path, section(local(members=members)))


def test_bad_document_stops_with_source_file_and_row(tmp_path: Path) -> None:
    write(tmp_path, {"texts/a.jsonl": '{"text": "good"}\n{"text": "  "}\n{"body": 1}\nnot json\n{"text": "也好"}\n'})
    origin = local(reader="jsonl", members=["*.jsonl"])
    with pytest.raises(
        StageError, match=r"source tales: bad document: empty \(file a\.jsonl, row 2\)\. Remedy: .*on_bad_document"
    ):
        build(tmp_path, section(origin))
    counts, documents, register = build(tmp_path, section(origin, on_bad_document="quarantine", max_quarantine_share=1.0))
    assert [(row["path"], row["text"]) for row in documents] == [("a.jsonl#1", "good"), ("a.jsonl#5", "也好")]
    assert register[0]["quarantined"] == {"empty": 1, "no string field 'text'": 1, "not valid JSON": 1}
    assert counts["sources"]["tales"]["quarantined"] == register[0]["quarantined"]


def test_text_that_is_not_utf8_stops_or_is_quarantined(tmp_path: Path) -> None:
    write(tmp_path, {"texts/a.txt": "你好".encode("gb18030"), "texts/b.txt": "fine"})
    with pytest.raises(StageError, match=r"not UTF-8 \(byte 0: .*\) \(file a\.txt\)"):
        build(tmp_path, section(local()))
    _, documents, register = build(tmp_path, section(local(), on_bad_document="quarantine", max_quarantine_share=1.0))
    assert [row["path"] for row in documents] == ["b.txt"]
    assert register[0]["quarantined"] == {"not UTF-8": 1}


def test_half_a_surrogate_pair_is_a_bad_document(tmp_path: Path) -> None:
    write(tmp_path, {"texts/a.jsonl": '{"text": "\\ud83d alone"}\n{"text": "\\ud83d\\ude00 whole"}\n'})
    origin = local(reader="jsonl", members=["*.jsonl"])
    with pytest.raises(StageError, match=r"not Unicode text .*a\.jsonl, row 1"):
        build(tmp_path, section(origin))
    _, documents, _ = build(tmp_path, section(origin, on_bad_document="quarantine", max_quarantine_share=1.0))
    assert [row["text"] for row in documents] == ["😀 whole"]


def test_source_without_any_document_stops(tmp_path: Path) -> None:
    write(tmp_path, {"texts/a.txt": ""})
    with pytest.raises(StageError, match="source tales: no document was read"):
        build(tmp_path, section(local(), on_bad_document="quarantine", max_quarantine_share=1.0))


def test_broken_archive_names_sources_and_member(tmp_path: Path) -> None:
    whole = targz({"a.txt": os.urandom(200_000)})
    write(tmp_path, {"cut.tar.gz": whole[: len(whole) // 2]})
    with pytest.raises(StageError, match=r"sources tales: the file cannot be read.*cut\.tar\.gz"):
        build(tmp_path, section(local("cut.tar.gz")))


def test_missing_local_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"sources tales: no such file or folder \(file nowhere\)"):
        build(tmp_path, section(local("nowhere")))


def test_local_checksum_is_checked_where_given(tmp_path: Path) -> None:
    write(tmp_path, {"tales.txt": "once"})
    pinned = {**local("tales.txt"), "sha256": sha256(b"once")}
    _, _, register = build(tmp_path, section(pinned))
    assert register[0]["sha256"] == sha256(b"once")
    write(tmp_path, {"tales.txt": "twice"})
    with pytest.raises(StageError, match=f"expected {sha256(b'once')}, found {sha256(b'twice')}"):
        build(tmp_path, section(pinned))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licence": "LicenseRef-Unknown"}, "source tales: licence 'LicenseRef-Unknown' is not accepted.*Remedy"),
        ({"lang": "fr"}, r"lang: 'fr' is not allowed; allowed: 'en', 'zh'"),
        ({"reader": "pdf"}, r"reader: 'pdf' is not allowed"),
        ({"id": "Two Words"}, "source id 'Two Words'"),
        ({"members": []}, "members is empty"),
        ({"max_bytes": 0}, "max_bytes: 0 is not allowed"),
    ],
)
def test_wrong_source_settings_are_refused_on_load(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        parse(Params, section(local(**change)), "corpus")


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ({"kind": "pypi", "package": "a", "version": "1", "file": "a.whl"}, "kind pypi needs sha256"),
        ({"kind": "local", "path": "x", "url": "http://y"}, "kind local does not take url"),
        ({"kind": "http", "url": "http://y", "file": "y", "sha256": "ABC"}, "64 lower-case hexadecimal"),
        ({"kind": "http", "url": "http://y", "file": "y"}, "needs sha256, or unpinned: true"),
        ({"kind": "store", "files": ["s3://b/*.gz"]}, "needs sha256, or unpinned: true"),
        ({"kind": "store", "files": ["s3://b/*.gz"], "sha256": "0" * 64}, "cannot pin several files"),
        ({"kind": "store", "files": ["s3://b/x"], "sha256": "0" * 64, "unpinned": True}, "and not both"),
        ({"kind": "store", "unpinned": True}, "kind store needs files or listing"),
        ({"kind": "store", "listing": "http://y/paths", "unpinned": True}, "listing and base go together"),
        ({"kind": "ftp"}, "kind: 'ftp' is not allowed"),
    ],
)
def test_wrong_origin_settings_are_refused_on_load(origin: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        parse(Params, section({**origin, "sources": [SOURCE]}), "corpus")


def test_two_sources_of_one_name_are_refused() -> None:
    with pytest.raises(ParamsError, match="source id 'tales' stands 2 times"):
        parse(Params, section(local(), local("other")), "corpus")


def test_params_of_the_project_name_only_pinned_sources() -> None:
    data = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["corpus"]
    params = parse(Params, data, "corpus")
    assert all(origin.sha256 and origin.version for origin in params.origins)
    assert {source.lang for origin in params.origins for source in origin.sources} == {"en", "zh"}


def test_stage_as_a_process_gives_equal_bytes_twice_and_offline(tmp_path: Path, registry: Registry) -> None:
    write_corpus_section(tmp_path / "params.yaml", made_up_corpus(registry, size=10_000))
    (tmp_path / "dvc.yaml").write_text("stages:\n  corpus:\n    deps: []\n    outs: [data/corpus]\n", encoding="utf-8")

    def once(seed: str) -> dict[str, str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-m", "stages.corpus"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        files = sorted(path for path in (tmp_path / "data/corpus").rglob("*") if path.is_file())
        return {path.relative_to(tmp_path).as_posix(): sha256(path.read_bytes()) for path in files}

    first = once("1")
    registry.stop()
    assert once("2") == first
    assert {"data/corpus/manifest.json", "data/corpus/sources.json"} < set(first)

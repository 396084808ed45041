"""Sharing the files out: groups, parts of large files, equal bytes whatever the workers, and what a killed run leaves."""

from __future__ import annotations

import bz2
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from stages._documents import read_documents, read_shard
from stages._engine import EngineSettings
from stages._manifest import describe_folder
from stages._params import parse
from stages._runner import StageError, StageIO
from stages.corpus import Params, build, run
from stages.corpus.plan import plan
from stages.corpus.reading import read_units
from tests.support.registry import targz
from tests.support.text import text
from tests.unit.stages.test_corpus_tables import multistream

ROOT = Path(__file__).resolve().parents[3]
SOURCE = {"id": "tales", "members": ["*"], "lang": "en", "licence": "CC0-1.0", "rights": "ours"}


def section(*sources: dict[str, Any], **settings: Any) -> dict[str, Any]:
    origin = {"kind": "local", "path": "texts", "sources": [{**SOURCE, **source} for source in sources]}
    return {"accepted_licences": ["CC0-1.0"], "origins": [origin], **settings}


def stage(root: Path, settings: EngineSettings | None = None) -> StageIO:
    io = StageIO("corpus", root, [], "data/corpus", settings)
    io.output.mkdir(parents=True, exist_ok=True)
    return io


def put(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "texts" / name).write_bytes(data)


def lines(prefix: str, count: int, characters: int = 200) -> bytes:
    rows = [{"text": text("en", f"{prefix} {n}", characters)} for n in range(count)]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def units(root: Path, data: dict[str, Any]) -> list[list[tuple[str, tuple[int, int] | None]]]:
    tasks, _ = plan(parse(Params, data, "corpus"), stage(root))
    assert [task.number for task in tasks] == list(range(len(tasks)))
    return [[(unit.name, unit.part) for unit in task.units] for task in tasks]


def test_small_files_are_read_together_large_ones_alone(tmp_path: Path) -> None:
    put(tmp_path, {"a.txt": b"x" * 40, "b.txt": b"x" * 40, "c.txt": b"x" * 40, "d.txt": b"x" * 500, "e.txt": b"x"})
    groups = units(tmp_path, section({"reader": "text"}, shard_bytes=100))
    assert [[name for name, _ in group] for group in groups] == [["a.txt", "b.txt"], ["c.txt"], ["d.txt"], ["e.txt"]]


def test_source_with_a_size_limit_is_read_by_one_worker(tmp_path: Path) -> None:
    put(tmp_path, {"a.txt": b"x" * 90, "b.txt": b"x" * 90})
    assert len(units(tmp_path, section({"reader": "text", "max_bytes": 1000}, shard_bytes=100))) == 1


def test_large_parquet_file_is_read_by_row_groups(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    table = pa.table({"text": [text("en", str(n), 400) for n in range(100)], "id": [f"i{n}" for n in range(100)]})
    pq.write_table(table, tmp_path / "texts/a.parquet", row_group_size=10)
    data = section({"reader": "parquet"}, shard_bytes=10_000)
    groups = units(tmp_path, data)
    assert len(groups) >= 4
    assert [part for group in groups for _, part in group] == [*dict.fromkeys(part for group in groups for _, part in group)]
    io = stage(tmp_path)
    run(parse(Params, data, "corpus"), io)
    rows = list(read_documents(io.output))
    assert [row["text"] for row in rows] == [value.strip("\n") for value in table["text"].to_pylist()]
    assert [row["path"] for row in rows] == [f"a.parquet#{n}" for n in range(1, 101)]
    assert len(units(tmp_path, section({"reader": "parquet", "columns": {"id": "id"}}, shard_bytes=10_000))) == 1


def test_multistream_dump_is_read_in_parts_where_its_index_lies_beside_it(tmp_path: Path) -> None:
    dump, index = multistream(pages=40, each=4)
    put(tmp_path, {"w-pages-articles-multistream.xml.bz2": dump})
    data = section({"reader": "mediawiki", "members": ["*.xml.bz2"]}, shard_bytes=len(dump) - 1)
    assert len(units(tmp_path, data)) == 1
    whole = stage(tmp_path)
    run(parse(Params, data, "corpus"), whole)
    expected = list(read_documents(whole.output))
    whole.forget()
    put(tmp_path, {"w-pages-articles-multistream-index.txt.bz2": bz2.compress(index)})
    [parts] = units(tmp_path, data)  # small, so one worker reads them all
    assert len(parts) >= 3
    assert len(units(tmp_path, {**data, "shard_bytes": 1000})) >= 3
    apart = stage(tmp_path)
    run(parse(Params, data, "corpus"), apart)
    assert list(read_documents(apart.output)) == expected
    assert len(expected) == 40


def dump_with_repeats(root: Path, **settings: Any) -> dict[str, Any]:
    """A dump of several tasks, whose last part holds pages 3 and 17 a second time."""
    dump, index = multistream(pages=400, each=4, again=(3, 17, 401))
    put(root, {"w-multistream.xml.bz2": dump, "w-multistream-index.txt": index})
    return section({"reader": "mediawiki", "members": ["*.bz2"]}, shard_bytes=len(dump) // 3, **settings)


def test_page_that_two_parts_of_a_dump_hold_is_kept_once_and_the_other_quarantined(tmp_path: Path) -> None:
    data = dump_with_repeats(tmp_path, on_bad_document="quarantine")
    assert len(units(tmp_path, data)) >= 3
    apart = stage(tmp_path)
    counts = run(parse(Params, data, "corpus"), apart)
    rows = list(read_documents(apart.output))
    assert [row["doc_id"] for row in rows] == [f"tales/w-multistream.xml.bz2#{n}" for n in range(1, 402)]
    refused = pq.read_table(apart.output / "quarantine.parquet").to_pylist()
    assert [(row["file"], row["record"], row["reason"]) for row in refused] == [
        ("w-multistream.xml.bz2", "3", "duplicate id"),
        ("w-multistream.xml.bz2", "17", "duplicate id"),
    ]
    assert (counts["documents"], counts["quarantined"]) == (401, 2)
    assert counts["bytes"] == sum(len(row["text"].encode()) for row in rows)
    apart.forget()
    shutil.rmtree(apart.output)
    (tmp_path / "texts/w-multistream-index.txt").unlink()
    whole = stage(tmp_path)
    assert run(parse(Params, data, "corpus"), whole)["sources"] == counts["sources"], "as one reader counts them"
    assert list(read_documents(whole.output)) == rows


def test_page_that_two_parts_of_a_dump_hold_stops_a_build_that_wants_no_bad_document(tmp_path: Path) -> None:
    data = dump_with_repeats(tmp_path, on_bad_document="stop")
    with pytest.raises(StageError, match=r"source tales: bad document: duplicate id \(tales/.*#3\).*w-multistream.*row 3"):
        run(parse(Params, data, "corpus"), stage(tmp_path))


def test_killed_while_repeats_are_taken_out_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dump_with_repeats(tmp_path, on_bad_document="quarantine")
    params = parse(Params, data, "corpus")
    first = stage(tmp_path)
    monkeypatch.setattr(build, "_entry", lambda *given: 1 / 0)  # after the shards were written anew
    with pytest.raises(ZeroDivisionError):
        run(params, first)
    monkeypatch.undo()
    again = stage(tmp_path)
    assert run(params, again)["documents"] == 401
    assert len(list(read_documents(again.output))) == 401


def test_archive_with_two_members_of_one_name(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for data in (lines("a", 3), lines("b", 2)):
            info = tarfile.TarInfo("x.jsonl")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    put(tmp_path, {"a.tar.gz": out.getvalue()})
    data = section({"reader": "jsonl", "members": ["*.jsonl"]}, on_bad_document="quarantine", max_quarantine_share=1.0)
    data["origins"][0]["path"] = "texts/a.tar.gz"
    made = stage(tmp_path)
    assert run(parse(Params, data, "corpus"), made)["documents"] == 3
    [refused] = pq.read_table(made.output / "quarantine.parquet").to_pylist()
    assert (refused["file"], refused["reason"]) == ("a.tar.gz: x.jsonl", "duplicate id")


def test_index_of_another_dump_is_refused(tmp_path: Path) -> None:
    dump, index = multistream(pages=40, each=4)
    put(
        tmp_path,
        {"a-multistream.xml.bz2": dump, "a-multistream-index.txt": index + b"99999999:99:X\n"},
    )
    with pytest.raises(StageError, match="the index names bytes that the dump does not have"):
        units(tmp_path, section({"reader": "mediawiki", "members": ["*.bz2"]}, shard_bytes=100))


def test_archives_among_several_files_are_opened_where_a_pattern_leads_into_them(tmp_path: Path) -> None:
    put(tmp_path, {"1.tar.gz": targz({"x.txt": b"one"}), "2.tar.gz": targz({"x.txt": b"two"}), "x.txt": b"loose"})
    io = stage(tmp_path)
    run(parse(Params, section({"reader": "text", "members": ["*.tar.gz/*.txt"]}), "corpus"), io)
    assert [(row["path"], row["text"]) for row in read_documents(io.output)] == [
        ("1.tar.gz/x.txt", "one"),
        ("2.tar.gz/x.txt", "two"),
    ]


def test_two_sources_share_files_and_number_their_shards_by_themselves(tmp_path: Path) -> None:
    put(tmp_path, {f"{kind}/{n}.jsonl": lines(f"{kind}{n}", 5) for kind in ("a", "b") for n in range(3)})
    io = stage(tmp_path)
    sources = [{"id": kind, "reader": "jsonl", "members": [f"{kind}/*"]} for kind in ("a", "b")]
    run(parse(Params, section(*sources, shard_bytes=1500), "corpus"), io)
    for kind in ("a", "b"):
        files = sorted((io.output / "documents").glob(f"{kind}-*.parquet"))
        assert [file.name for file in files] == [f"{kind}-{n:05d}.parquet" for n in range(len(files))]
        assert len(files) >= 3
        paths = [row["path"] for file in files for row in read_shard(file)]
        assert paths == [f"{kind}/{n}.jsonl#{row}" for n in range(3) for row in range(1, 6)]


def test_bytes_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    put(tmp_path, {f"{n}.jsonl": lines(str(n), 20) + b"no json\n" for n in range(6)})
    data = section({"reader": "jsonl"}, shard_bytes=6000, on_bad_document="quarantine")
    found = []
    for settings in (EngineSettings(), EngineSettings(kind="local", workers=2)):
        io = stage(tmp_path, settings)
        run(parse(Params, data, "corpus"), io)
        io.engine.close()
        io.forget()
        found.append(describe_folder(io.output))
    assert found[0] == found[1]
    assert len(found[0]) > 6


def test_finished_groups_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {f"{n}.jsonl": lines(str(n), 10) for n in range(4)})
    params = parse(Params, section({"reader": "jsonl"}, shard_bytes=2000), "corpus")
    read: list[int] = []

    def dies_at_the_third(task: Any) -> dict[str, Any]:
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(task.number)
        return read_units(task)

    monkeypatch.setattr(build, "read_units", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(params, stage(tmp_path))
    monkeypatch.setattr(build, "read_units", lambda task: read.append(task.number) or read_units(task))
    io = stage(tmp_path)
    run(params, io)
    assert read == sorted(set(read))
    assert len(list(read_documents(io.output))) == 40


def test_killed_process_leaves_work_that_the_next_one_goes_on_with(tmp_path: Path) -> None:
    put(tmp_path, {f"{n:02}.jsonl": lines(str(n), 150, 400) for n in range(12)})
    data = section({"reader": "jsonl"}, shard_bytes=60_000)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"corpus": data}), encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text("stages:\n  corpus:\n    deps: [texts]\n    outs: [data/corpus]\n", encoding="utf-8")
    command, environment = [sys.executable, "-m", "stages.corpus"], {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/corpus/work/*/results/read/*.json")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/corpus/work/*/results/read/*.json")}
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert kept or process.returncode == 0
    first = describe_folder(tmp_path / "data/corpus")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert describe_folder(tmp_path / "data/corpus") == first
    assert len(list(read_documents(tmp_path / "data/corpus"))) == 1800
    assert not (tmp_path / "runs/corpus/work").exists()


def test_exchange_carries_local_files_to_workers_elsewhere(tmp_path: Path) -> None:
    put(tmp_path, {f"{n}.jsonl": lines(str(n), 5) for n in range(3)})
    io = stage(tmp_path, EngineSettings(exchange=f"file://{tmp_path}/exchange"))
    tasks, _ = plan(parse(Params, section({"reader": "jsonl"}), "corpus"), io)
    assert all(unit.downloaded and unit.sha256 for task in tasks for unit in task.units)
    run(parse(Params, section({"reader": "jsonl"}), "corpus"), io)
    assert len(list(read_documents(io.output))) == 15


def test_register_says_what_the_parts_of_a_source_came_to(tmp_path: Path) -> None:
    rows = [{"text": "12345", "meta": {"pile_set_name": name}} for name in ("A", "B", "A")]
    put(tmp_path, {"x.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in rows)})
    io = stage(tmp_path)
    run(parse(Params, section({"reader": "jsonl"}), "corpus"), io)
    [entry] = json.loads((io.output / "sources.json").read_text(encoding="utf-8"))
    assert entry["parts"] == {"A": {"documents": 2, "bytes": 10}, "B": {"documents": 1, "bytes": 5}}
    assert entry["files_read"] == 1
    files = pq.read_table(io.output / "files.parquet").to_pylist()
    assert [(row["source"], row["file"], row["bytes"]) for row in files] == [
        ("tales", "x.jsonl", (tmp_path / "texts/x.jsonl").stat().st_size)
    ]

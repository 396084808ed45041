"""The runner as `dvc repro` uses it: a process in a project that declares one data file and nothing else."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages._params import parse
from stages._runner import Progress, StageError, StageIO, stage_entry

ROOT = Path(__file__).resolve().parents[3]

STAGE = """
import os, subprocess, sys, time
from dataclasses import dataclass
from pathlib import Path
from stages._runner import StageError, run_stage

@dataclass(frozen=True)
class Params:
    size: int
    act: str = "write"

def run(params, io):
    data = io.input("data/before").joinpath("x").read_bytes()
    (io.output / "part").mkdir()
    (io.output / "part" / "b").write_bytes(data * params.size)
    (io.output / "a").write_text("A")
    exec(ACTS[params.act])
    return {"bytes": len(data) * params.size}

ACTS = {
    "write": "",
    "fail": "raise StageError('the text is empty', file='x.txt', row=7, remedy='fill it')",
    "bug": "1 / 0",
    "wait": "print('waiting', flush=True); time.sleep(60)",
    "disk": "(io.output / 'full').symlink_to('/dev/full'); (io.output / 'full').write_text('x' * 10**6)",
    "open": "open('data/secret/x').read()",
    "native": "import pyarrow; pyarrow.memory_map('data/secret/x').read()",
    "parquet": "import pyarrow.parquet; pyarrow.parquet.read_table('data/secret/table.parquet')",
    "child": "sys.exit(subprocess.call(['cat', 'data/secret/x']))",
    "undeclared": "io.input('data/secret')",
    "absent": "io.input('data/absent')",
    "temporary": "import tempfile; print(tempfile.gettempdir())",
    "outside": "Path('/proc/self/status').read_text(); Path('params.yaml').read_text()",
}

if __name__ == "__main__":
    run_stage("demo", Params, run)
"""

GRAPH = """
stages:
  demo:
    cmd: python demo.py
    deps: [demo.py, data/before, data/absent]
    params: [demo]
    outs: [data/demo]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make(tmp_path / "project")


def make(root: Path) -> Path:
    for folder in ("data/before", "data/secret"):
        (root / folder).mkdir(parents=True)
        (root / folder / "x").write_text("abc", encoding="utf-8")
    (root / "demo.py").write_text(STAGE, encoding="utf-8")
    (root / "dvc.yaml").write_text(GRAPH, encoding="utf-8")
    (root / "params.yaml").write_text("demo: {size: 2}\n", encoding="utf-8")
    return root


def run(root: Path, act: str | None = None) -> subprocess.CompletedProcess[str]:
    if act is not None:
        (root / "params.yaml").write_text(f"demo: {{size: 3, act: {act}}}\n", encoding="utf-8")
    command = [sys.executable, "demo.py"]
    return subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, timeout=120, check=False)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def landlock() -> bool:
    return ctypes.CDLL(None).syscall(444, None, 0, 1) >= 2


def test_output_manifest_and_record(project: Path) -> None:
    done = run(project)
    assert done.returncode == 0, done.stderr
    output = project / "data/demo"
    assert sorted(contents(output)) == ["a", "manifest.json", "part/b"]
    assert (output / "part/b").read_bytes() == b"abcabc"
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["stage"] == "demo"
    assert manifest["params"] == {"size": 2, "act": "write"}
    assert manifest["counts"] == {"bytes": 6}
    assert list(manifest["files"]) == ["a", "part/b"]
    assert manifest["files"]["a"] == {
        "bytes": 1,
        "sha256": "559aead08264d5795d3909718cdd05abd49572e84fe55590eef31a88a08fdffd",
    }
    assert list(manifest["inputs"]) == ["data/absent", "data/before"]
    record = json.loads((project / "runs/demo/run.json").read_text(encoding="utf-8"))
    assert {"started", "wall_seconds", "cpu_seconds", "peak_rss_bytes", "host", "versions"} <= record.keys()
    assert record["manifest_sha256"] == hashlib.sha256((output / "manifest.json").read_bytes()).hexdigest()
    assert record["commit"] is None and "unfinished" not in record
    assert not (project / "data/.demo.partial").exists()


def test_equal_inputs_give_equal_bytes_wherever_and_whenever(project: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "elsewhere" / "deeper")
    run(project)
    time.sleep(1.1)
    run(other)
    assert contents(project / "data/demo") == contents(other / "data/demo")
    for data in contents(project / "data/demo").values():
        assert str(tmp_path).encode() not in data


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("fail", "ERROR: stage demo: the text is empty (file x.txt, row 7). Remedy: fill it"),
        ("disk", "ERROR: stage demo: the disk is full"),
        ("open", "ERROR: stage demo: stage demo: opened data/secret/x, which dvc.yaml does not declare. Remedy: add it to"),
        ("undeclared", "input is not declared (file data/secret). Remedy: add it to stages.demo.deps in dvc.yaml"),
        ("absent", "declared input does not exist (file data/absent). Remedy: run `dvc repro`"),
    ],
)
def test_a_failure_says_what_to_do_and_leaves_the_old_output(project: Path, act: str, message: str) -> None:
    run(project)
    before = contents(project / "data/demo")
    done = run(project, act)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert contents(project / "data/demo") == before
    assert run(project, "write").returncode == 0, "the next run starts clean"
    assert sorted(contents(project / "data/demo")) == ["a", "manifest.json", "part/b"]


@pytest.mark.parametrize("act", ["native", "parquet"])
def test_native_code_cannot_read_what_is_not_declared(project: Path, act: str) -> None:
    if not landlock():
        pytest.skip("this kernel has no Landlock: native code passes the audit hook unseen, as the module says")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"n": [1]}), project / "data/secret/table.parquet")
    (project.parent / "alias").symlink_to(project)  # a way around: what lies beside the project stays readable
    done = run(project, act)
    assert done.returncode == 1
    assert re.search(r"opened data/secret/(x|table.parquet), which dvc.yaml does not declare", done.stderr), done.stderr
    assert not (project / "data/demo").exists()


def test_a_child_process_is_held_to_the_same_rule(project: Path) -> None:
    if not landlock():
        pytest.skip("this kernel has no Landlock: the audit hook sees this process alone, as the module says")
    done = run(project, "child")
    assert done.returncode != 0
    assert "ermission denied" in done.stderr


def test_what_is_outside_the_project_or_always_allowed_can_be_read(project: Path) -> None:
    done = run(project, "outside")
    assert done.returncode == 0, done.stderr


def test_temporary_files_go_below_runs_and_are_removed(project: Path) -> None:
    done = run(project, "temporary")
    assert done.stdout.strip() == str(project / "runs/demo/tmp")
    assert not (project / "runs/demo/tmp").exists()


def test_a_bug_shows_its_traceback(project: Path) -> None:
    done = run(project, "bug")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_stage_leaves_the_old_output(project: Path, number: signal.Signals) -> None:
    run(project)
    before = contents(project / "data/demo")
    (project / "params.yaml").write_text("demo: {size: 5, act: wait}\n", encoding="utf-8")
    stage = subprocess.Popen([sys.executable, "demo.py"], cwd=project, env=environment(), stdout=subprocess.PIPE, text=True)
    assert stage.stdout is not None
    assert stage.stdout.readline() == "waiting\n"
    stage.send_signal(number)
    assert stage.wait(30) == -number
    assert contents(project / "data/demo") == before
    run(project, "write")
    assert (project / "data/demo/part/b").read_bytes() == b"abcabcabc"
    assert not (project / "data/.demo.partial").exists()


def test_wrong_parameters_are_refused_before_anything_is_touched(project: Path) -> None:
    run(project)
    (project / "params.yaml").write_text("demo: {size: two}\n", encoding="utf-8")
    done = run(project)
    assert (done.returncode, done.stderr) == (
        1,
        "ERROR: stage demo: params.yaml: demo.size: 'two' has the wrong type; expected int\n",
    )
    assert (project / "data/demo/manifest.json").is_file()


def test_stage_entry_knows_what_dvc_yaml_may_say(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no dvc.yaml here .*run the stage from the project's root"):
        stage_entry(tmp_path, "demo")
    make(tmp_path / "p")
    assert stage_entry(tmp_path / "p", "demo") == (["demo.py", "data/before", "data/absent"], "data/demo")
    with pytest.raises(StageError, match="'other' is not in the graph"):
        stage_entry(tmp_path / "p", "other")
    (tmp_path / "p/dvc.yaml").write_text(GRAPH.replace("[data/demo]", "[{data/else: {cache: false}}]"), encoding="utf-8")
    with pytest.raises(StageError, match=r"expected the single output data/demo, found \['data/else'\]"):
        stage_entry(tmp_path / "p", "demo")


def test_fingerprint_follows_parameters_and_every_dependency(project: Path) -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Params:
        size: int

    def fingerprint(size: int) -> str:
        io = StageIO("demo", project, ["demo.py", "data/before"], "data/demo")
        return io.fingerprint(parse(Params, {"size": size}, "p"))

    first = fingerprint(1)
    assert fingerprint(1) == first
    assert fingerprint(2) != first
    (project / "data/before/x").write_text("abd", encoding="utf-8")
    changed = fingerprint(1)
    assert changed != first
    (project / "demo.py").write_text(STAGE + "\n", encoding="utf-8")
    assert fingerprint(1) not in (first, changed)


def test_scratch_is_kept_by_key(project: Path) -> None:
    io = StageIO("demo", project, [], "data/demo")
    (io.scratch("k1") / "state").write_text("1", encoding="utf-8")
    assert (io.scratch("k1") / "state").read_text(encoding="utf-8") == "1"
    assert list(io.scratch("k2").iterdir()) == []
    assert io.scratch("k1").is_relative_to(project / "runs/demo/scratch")


def test_progress_away_from_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("demo", "count", 4, "items") as progress:
        for _ in range(4):
            progress.advance()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.fullmatch(r"demo: count: 4/4 \(100%\) items, [\d,.]+ items/s done", lines[0])

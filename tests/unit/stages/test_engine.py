"""Maps over tasks: the same results from one process and from several, after a worker's death or a kill, inside the sandbox."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from stages import _storage
from stages._engine import Engine, EngineSettings, read_settings
from stages._errors import StageError
from stages._params import ParamsError
from stages._runner import StageIO
from stages._sandbox import Sandbox

LOCAL = EngineSettings(kind="local", workers=2)


@dataclass(frozen=True)
class Task:
    number: int
    folder: str
    act: str = "write"


def work(task: Task) -> dict[str, int]:
    """Write the task's shard; misbehave as told, once."""
    Path(task.folder).mkdir(parents=True, exist_ok=True)
    once = Path(task.folder) / f"once-{task.number}"
    if task.act in ("die", "fail") and not once.exists():
        once.touch()
        if task.act == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task.act == "fail":
            raise StageError("bad shard", file="x.parquet", row=task.number)
    if task.act == "always die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.act == "slow":
        time.sleep(0.3)
    with _storage.atomic_output(_storage.join(task.folder, f"shard-{task.number}")) as stream:
        stream.write(b"x" * task.number)
    with Path(task.folder, "calls").open("a") as calls:
        calls.write(f"{task.number}\n")
    return {"bytes": task.number}


def loaded(module: str) -> tuple[bool, int]:
    time.sleep(0.1)
    return module in sys.modules, os.getpid()


def read_secret(path: str) -> str:
    return Path(path).read_text()


def make_io(root: Path, settings: EngineSettings) -> StageIO:
    io = StageIO("demo", root, ["data/before"], "data/demo", settings)
    io.output.mkdir(parents=True, exist_ok=True)
    return io


@pytest.mark.parametrize("settings", [EngineSettings(), LOCAL], ids=["inline", "local"])
def test_results_come_in_the_order_of_tasks(tmp_path: Path, settings: EngineSettings) -> None:
    io = make_io(tmp_path, settings)
    first = Task(0, io.target("part"), "slow")
    tasks = [first, *(Task(number, io.target("part")) for number in range(1, 6))]
    assert io.map(work, tasks, "writing") == [{"bytes": number} for number in range(6)]
    io.engine.close()
    (tmp_path / "runs/demo/work/default/out/part/.shard-9.1.partial").write_bytes(b"a killed worker's")
    Path(io.target("part"), "calls").unlink()
    io.collect()
    assert {path.name: path.stat().st_size for path in (io.output / "part").iterdir()} == {f"shard-{n}": n for n in range(6)}


def test_workers_that_are_expected_load_the_module_and_are_gone_at_the_end(tmp_path: Path) -> None:
    io = make_io(tmp_path, LOCAL)
    io.expect("this")
    ids = io.map(loaded, ["this"] * 4, "asking")
    # a worker may take both requests before its fellow has started; the fellow then loads with its first task
    assert any(found for found, _ in ids) and os.getpid() not in {process for _, process in ids}
    io.engine.close()
    io.engine.wait()
    assert not any(Path(f"/proc/{process}").exists() for _, process in ids)
    inline = make_io(tmp_path / "inline", EngineSettings())
    inline.expect("no.such.module")  # nobody would load it before it is needed
    assert inline.map(work, [Task(1, str(tmp_path))], "writing") == [{"bytes": 1}]


def test_workers_that_were_expected_for_nothing_are_gone_at_the_end(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    io = make_io(tmp_path, LOCAL)
    io.expect("json")
    assert io.map(work, [], "writing") == []
    io.expect("json")
    io.engine.close()
    io.engine.wait()
    assert not recwarn.list


def test_an_engine_starts_when_the_one_before_has_ended(tmp_path: Path) -> None:
    tasks = [Task(number, str(tmp_path / "out")) for number in range(4)]
    for run in range(3):
        io = make_io(tmp_path / str(run), LOCAL)
        assert [result["bytes"] for result in io.map(work, tasks, "writing")] == [0, 1, 2, 3]
        io.engine.close()


def test_a_module_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    io = make_io(tmp_path, LOCAL)
    io.expect("no.such.module")
    with pytest.raises(ModuleNotFoundError, match="no"):
        io.map(work, [Task(1, str(tmp_path))], "writing")
    io.engine.close()


def test_tasks_of_a_killed_worker_run_again(tmp_path: Path) -> None:
    io = make_io(tmp_path, LOCAL)
    tasks = [Task(number, str(tmp_path / "out"), "die" if number == 2 else "write") for number in range(8)]
    assert [result["bytes"] for result in io.map(work, tasks, "writing")] == list(range(8))
    io.engine.close()


def test_a_task_that_always_kills_its_worker_is_named(tmp_path: Path) -> None:
    io = make_io(tmp_path, LOCAL)
    with pytest.raises(StageError, match=r"died 3 times.*1 tasks are left, the first: Task\(number=7.*runner.yaml"):
        io.map(work, [Task(7, str(tmp_path), "always die")], "writing")


@pytest.mark.parametrize("settings", [EngineSettings(), LOCAL], ids=["inline", "local"])
def test_an_error_of_a_task_arrives_and_a_rerun_does_the_rest(tmp_path: Path, settings: EngineSettings) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    tasks = [Task(number, str(folder), "fail" if number == 3 else "write") for number in range(4)]
    with pytest.raises(StageError, match=r"bad shard \(file x.parquet, row 3\)"):
        make_io(tmp_path, settings).map(work, tasks, "writing", key="write")
    before = (folder / "calls").read_text().split()
    io = make_io(tmp_path, settings)
    assert io.map(work, tasks, "writing", key="write") == [{"bytes": number} for number in range(4)]
    again = (folder / "calls").read_text().split()[len(before) :]
    assert "3" in again
    assert settings.kind == "local" or again == ["3"]
    io.engine.close()
    io.forget()
    assert not (tmp_path / "runs/demo/work").exists()


@pytest.mark.parametrize("settings", [EngineSettings(), LOCAL], ids=["inline", "local"])
@pytest.mark.parametrize("harm", ["cut", "lost"])
def test_a_finished_task_whose_file_was_harmed_before_the_rerun_runs_again(
    tmp_path: Path, settings: EngineSettings, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    tasks = [Task(number, str(folder)) for number in range(4)]
    io = make_io(tmp_path, settings)
    io.map(work, tasks, "writing", key="write")
    io.engine.close()
    (folder / "calls").unlink()
    shard = folder / "shard-3"
    if harm == "cut":
        os.truncate(shard, 2)
    else:
        shard.unlink()
    io = make_io(tmp_path, settings)
    assert io.map(work, tasks, "writing", key="write") == [{"bytes": number} for number in range(4)]
    io.engine.close()
    assert (folder / "calls").read_text().split() == ["3"]
    assert shard.read_bytes() == b"xxx"
    assert f"demo: {shard} was lost or cut short" in capsys.readouterr().err


def test_workers_keep_the_limits_of_the_stage(tmp_path: Path) -> None:
    secret = tmp_path / "data" / "secret"
    secret.parent.mkdir()
    secret.write_text("s")
    engine = Engine(LOCAL, Sandbox("demo", tmp_path, [Path("data/before")]))
    with pytest.raises(StageError, match=r"stage demo: opened data/secret, which dvc\.yaml does not declare"):
        list(engine.map(read_secret, {0: str(secret)}))
    engine.close()


def test_settings_come_from_the_file_and_the_environment(tmp_path: Path) -> None:
    assert read_settings(tmp_path, {}) == EngineSettings()
    (tmp_path / "runner.yaml").write_text("engine:\n  kind: local\n  workers: 3\n")
    assert read_settings(tmp_path, {}) == EngineSettings(kind="local", workers=3)
    found = read_settings(tmp_path, {"GLM_ENGINE": "ray", "GLM_WORKERS": "5", "GLM_EXCHANGE": "s3://b/p"})
    assert found == EngineSettings(kind="ray", workers=5, exchange="s3://b/p")
    with pytest.raises(ParamsError, match="allowed: 'inline', 'local', 'ray'"):
        read_settings(tmp_path, {"GLM_ENGINE": "spark"})
    with pytest.raises(ParamsError, match="GLM_WORKERS: 'two'"):
        read_settings(tmp_path, {"GLM_WORKERS": "two"})
    (tmp_path / "runner.yaml").write_text("engine:\n  sort: local\n")
    with pytest.raises(ParamsError, match="unknown key; allowed: kind, workers"):
        read_settings(tmp_path, {})

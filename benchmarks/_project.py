"""A project folder of its own for a benchmark: real stages as processes, each with its CPU seconds and its largest memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
_ROOMS = ("stages", "model", "ledger")


@dataclass(frozen=True)
class Run:
    """One finished process.

    Attributes:
        cpu: seconds, with interpreter start and imports, and with those of its workers.
        wall: seconds.
        resident: bytes at most, of the process itself.
        anonymous: the same without pages of mapped files, which the kernel may take back.
        family: bytes at most, resident in the process and in those that it started, added up at one moment.
    """

    cpu: float
    wall: float
    resident: int
    anonymous: int
    family: int = 0


def make(root: Path) -> Path:
    """A copy of this project's code and graph at `root`."""
    root.mkdir(parents=True, exist_ok=True)
    for room in _ROOMS:
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "dvc.yaml", root / "dvc.yaml")
    (root / "takedowns.jsonl").touch()
    (root / ".cache").mkdir(exist_ok=True)
    return root


def configure(root: Path, changes: Mapping[str, Any]) -> None:
    """Give the project at `root` the laptop parameters with `changes` laid over them."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    (root / "params.yaml").write_text(yaml.safe_dump(overlay(params, changes), allow_unicode=True), encoding="utf-8")


def overlay(base: Any, changes: Any) -> Any:
    """`base` with `changes` in it: mappings are merged key by key, anything else is replaced."""
    if not isinstance(base, Mapping) or not isinstance(changes, Mapping):
        return changes
    return {**base, **{key: overlay(base.get(key), value) for key, value in changes.items()}}


def run_stage(root: Path, stage: str, workers: int = 1) -> Run:
    """Run one stage in the project at `root` with so many processes of this machine; see `run`."""
    engine = {"GLM_ENGINE": "inline" if workers == 1 else "local", "GLM_WORKERS": str(workers)}
    return run(["-m", f"stages.{stage}"], root, root / f"{stage}.log", engine)


def run(arguments: list[str], folder: Path, log: Path, environment: Mapping[str, str]) -> Run:
    """Run Python in `folder` and watch it.

    Raises:
        RuntimeError: it failed; the message holds what it said.
    """
    started, peak, anonymous, family = time.perf_counter(), 0, 0, 0
    with log.open("wb") as output:
        command, variables = [sys.executable, *arguments], {**os.environ, **environment}
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=output, stderr=subprocess.STDOUT)
        while True:
            memory = _memory(process.pid)
            peak, anonymous = max(peak, memory.get("VmHWM", 0)), max(anonymous, memory.get("RssAnon", 0))
            together = [memory, *map(_memory, _children(process.pid))]
            family = max(family, sum(one.get("VmRSS", 0) for one in together))
            finished, status, used = os.wait4(process.pid, os.WNOHANG)
            if finished:
                break
            time.sleep(0.01)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments[:2])} failed:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
    return Run(used.ru_utime + used.ru_stime, time.perf_counter() - started, peak, anonymous, family)


def _memory(pid: int) -> dict[str, int]:
    """Bytes by name out of a process's status; its own `ru_maxrss` would begin at that of the process that started it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:  # it has just ended
        return {}
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:  # it has just ended, or this kernel does not say
        return []

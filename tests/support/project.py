"""Temporary DVC projects: one with this project's own graph at a size of seconds, one with whatever graph a test writes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "tests" / "profiles" / "smoke.yaml"


def make_project(root: Path, corpus: dict[str, Any], **changes: Any) -> Path:
    """A git repository and DVC project at `root` with the real stages, dvc.yaml, and parameters of the smoke profile.

    Args:
        root: the folder to make.
        corpus: the corpus section, e.g. from `tests.support.registry.made_up_corpus`.
        changes: more changes by section, laid over the profile.
    """
    root.mkdir(parents=True)
    copy_rooms(root)
    shutil.copyfile(ROOT / "dvc.yaml", root / "dvc.yaml")
    params = smoke_params() | {"corpus": corpus}
    (root / "params.yaml").write_text(yaml.safe_dump(overlay(params, changes), allow_unicode=True), encoding="utf-8")
    return init(root)


def copy_rooms(root: Path) -> None:
    """Copy what stages import to `root`, the machine code compiled for it so far (numba names it by folder), no takedowns."""
    for room in ("stages", "model", "ledger"):
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "takedowns.jsonl").touch()
    cache = Path(".cache") / "numba"
    (root / cache).mkdir(parents=True)
    for source in [ROOT / "stages", *(path for path in (ROOT / "stages").iterdir() if path.is_dir())]:
        copied = root / source.relative_to(ROOT)
        for kept in (ROOT / cache).glob(f"*/{_kernel_folder(source)}"):
            shutil.copytree(kept, root / cache / kept.parent.name / _kernel_folder(copied))


def _kernel_folder(source: Path) -> str:
    """How numba names the folder of the code that it compiled from files in `source`."""
    return f"{source.name}_{hashlib.sha1(str(source).encode()).hexdigest()}"


def smoke_params() -> dict[str, Any]:
    """params.yaml with the smoke profile laid over it."""
    data: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    return overlay(data, yaml.safe_load(SMOKE.read_text(encoding="utf-8")))


def overlay(base: Any, changes: Any) -> Any:
    """`base` with `changes` in it: mappings are merged key by key, anything else is replaced."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return base | {key: overlay(base.get(key), value) for key, value in changes.items()}


def toy_project(root: Path, graph: str, params: str = "{}\n") -> Path:
    """A git repository and DVC project at `root` with the given text of dvc.yaml and params.yaml."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dvc.yaml").write_text(graph, encoding="utf-8")
    (root / "params.yaml").write_text(params, encoding="utf-8")
    return init(root)


def init(root: Path) -> Path:
    """Make `root` a git repository and a DVC project with a cache of its own."""
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    dvc(root, "init", "--quiet")
    return root


def dvc(root: Path, *arguments: str, status: int = 0) -> str:
    """Run a dvc command in `root` with this Python's programs and give its output; `status` is what it must exit with."""
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr

"""Rules that hold for the tree as a whole: names agree, `deps` cover the imports, only one module knows DVC."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
DATA = ("data/", "takedowns.jsonl")
OWN = ("cli", "ledger", "model", "pipelines", "stages")
MARKER = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)")


def module_file(name: str) -> Path | None:
    """The file of a first-party module or package, None where there is none of that name."""
    path = ROOT.joinpath(*name.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


@cache
def imported(file: Path) -> frozenset[str]:
    """First-party modules that a file imports anywhere in it, in functions too, and the packages on the way to them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names.add(str(node.module))
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    own = {name for name in names if name.partition(".")[0] in OWN and module_file(name)}
    parents = {name.rpartition(".")[0] for name in own if "." in name}
    return frozenset(own | parents)


def closure(module: str) -> set[Path]:
    """The files of everything first-party that running `python -m module` may import."""
    waiting, seen = [module, f"{module}.__main__", *_packages_of(module)], set()
    while waiting:
        file = module_file(waiting.pop())
        if file is not None and file not in seen:
            seen.add(file)
            waiting += imported(file)
    return seen


def _packages_of(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_every_module_that_a_stage_may_import(stage: str) -> None:
    declared = [ROOT / dep for dep in STAGES[stage]["deps"]]
    missing = {
        file.relative_to(ROOT).as_posix()
        for file in closure(f"stages.{stage}")
        if not any(file.is_relative_to(d) for d in declared)
    }
    assert not missing, f"add to stages.{stage}.deps in dvc.yaml: {sorted(missing)}"


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_no_code_that_a_stage_does_not_import(stage: str) -> None:
    code = [dep for dep in STAGES[stage]["deps"] if not dep.startswith(DATA)]
    used = closure(f"stages.{stage}")
    idle = [dep for dep in code if not any(file.is_relative_to(ROOT / dep) for file in used)]
    assert not idle, f"a change of {idle} would run {stage} again for nothing"


@pytest.mark.parametrize("stage", STAGES)
def test_stage_module_section_and_folder_have_one_name(stage: str) -> None:
    entry = STAGES[stage]
    assert find_spec(f"stages.{stage}") is not None
    assert entry["cmd"] == f"python -m stages.{stage}"
    assert entry["params"] == [stage]
    assert entry["outs"] == [f"data/{stage}"]
    assert entry["deps"] == sorted(entry["deps"], key=lambda dep: dep.startswith(DATA)), "code first, then data"
    assert all((ROOT / dep).exists() for dep in entry["deps"] if not dep.startswith("data/"))
    assert {dep.removeprefix("data/") for dep in entry["deps"] if dep.startswith("data/")} <= STAGES.keys()


def test_parameters_have_a_section_for_every_stage_and_no_other() -> None:
    sections = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert list(sections) == list(STAGES), "one section per stage, in the order of the graph"


@pytest.mark.parametrize(
    "file", [ROOT / "params.yaml", *sorted((ROOT / "profiles").glob("*.yaml"))], ids=lambda file: file.name
)
def test_no_parameter_has_a_name_that_dvc_overlooks(file: Path) -> None:
    """DVC's run cache leaves every key `size` and `nfiles` out of its key: a change would bring the old output back."""

    def names(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {name for item in value.values() for name in names(item)}
        return {name for item in value for name in names(item)} if isinstance(value, list) else set()

    assert not names(yaml.safe_load(file.read_text(encoding="utf-8"))) & {"size", "nfiles"}


def test_every_stage_says_what_it_reads_writes_takes_and_promises() -> None:
    for stage in STAGES:
        texts = [ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "" for file in _faces(stage)]
        assert any(
            all(re.search(rf"^{word}:", text, re.M) for word in ("Reads", "Writes", "Params", "Promises")) for text in texts
        ), stage


def _faces(stage: str) -> list[Path]:
    return [file for name in (f"stages.{stage}", f"stages.{stage}.__main__") if (file := module_file(name))]


def test_one_module_knows_dvc() -> None:
    users = [
        file.name
        for file in sorted((ROOT / "pipelines").glob("*.py"))
        if re.search(r"^\s*(from|import) dvc\b", file.read_text("utf-8"), re.M)
    ]
    assert users == ["graph.py"]


def test_every_requirement_is_pinned_by_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {_normal(line) for line in [*project["dependencies"], *extras["build"], *extras["test"]]}
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.]+", line) for line in lines), (
        "exact versions, no addresses, no local builds"
    )
    assert lines == sorted(lines, key=_normal)
    assert wanted <= {_normal(line) for line in lines}


def _normal(requirement: str) -> str:
    match = MARKER.match(requirement)
    assert match
    return re.sub(r"[-_.]+", "-", match["name"]).lower()


def test_no_tracked_file_names_a_place_of_one_machine() -> None:
    command = ["git", "grep", "-nIE", "-e", f"{ROOT}/", "-e", "/home/[a-z]+/", "-e", "/root/", "--", "."]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    own = [line for line in found.stdout.splitlines() if not line.startswith("tests/unit/test_rooms.py:")]
    assert found.returncode in (0, 1), found.stderr
    assert not own

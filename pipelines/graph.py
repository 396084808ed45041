"""What DVC knows, for the flows: the graph of stages, the lock file, and how DVC says what it did.

The only module that touches DVC. It reads; stages are run by `dvc` as a process (pipelines/stage_task.py), because DVC's
Python API holds no lock between the threads of one process.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_UP_TO_DATE = "Data and pipelines are up to date."
_OUTCOMES = {
    "ran": re.compile(r"^Running stage '(?P<stage>.+)':"),
    "restored": re.compile(r"^Stage '(?P<stage>.+)' is cached - skipping run, checking out outputs"),
    "unchanged": re.compile(r"^Stage '(?P<stage>.+)' didn't change, skipping"),
}

_CHATTER = re.compile(
    r"^\s*$|^To track the changes with git, run:|^\s+git add |^To enable auto staging, run:|^\s+dvc config core.autostage true|"
    r"^Use `dvc push` to send"
)


class GraphError(Exception):
    """The folder is no project, its dvc.yaml is wrong, or a stage is asked for that it does not hold."""


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml: its name, its command, the stages it reads from and the paths it writes."""

    name: str
    command: str
    parents: tuple[str, ...]
    outs: tuple[str, ...]


def read_graph(root: Path, targets: Iterable[str] = ()) -> dict[str, Stage]:
    """The stages of `root`/dvc.yaml by name, parents before children; with `targets`, only these and their ancestors.

    Raises:
        GraphError: no DVC project with stages at `root`, an invalid dvc.yaml, or an unknown target.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

    if not (root / "dvc.yaml").is_file():
        raise GraphError(f"no dvc.yaml in {root}. Remedy: run from the project's root")
    try:
        with Repo(str(root)) as repo:
            edges = repo.index.graph
            nodes = [
                node for node in edges if isinstance(node, PipelineStage) and Path(node.path) == root.resolve() / "dvc.yaml"
            ]
            stages = {
                node.name: Stage(
                    node.name,
                    str(node.cmd),
                    tuple(sorted(parent.name for parent in edges.successors(node) if parent in nodes)),
                    tuple(out.def_path for out in node.outs),
                )
                for node in nodes
            }
    except DvcException as error:
        raise GraphError(f"dvc cannot read the graph of {root}: {error}") from error
    return _sorted(stages, list(targets) or sorted(stages))


def _sorted(stages: Mapping[str, Stage], targets: Iterable[str]) -> dict[str, Stage]:
    ordered: dict[str, Stage] = {}

    def visit(name: str) -> None:
        if name not in ordered:
            for parent in stages[name].parents:
                visit(parent)
            ordered[name] = stages[name]

    for name in targets:
        if name not in stages:
            raise GraphError(f"stage {name!r} is not in dvc.yaml; present: {', '.join(sorted(stages))}")
        visit(name)
    return ordered


def repro_command(targets: Iterable[str] = (), *, single: bool = False) -> list[str]:
    """The command that brings `targets` (all stages, without them) up to date.

    With `--wait-for-lock`: of two plain `dvc repro` at the same time one fails.
    """
    return [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *(["--single-item"] if single else []), *targets]


def outcome_of(line: str) -> tuple[str, str] | None:
    """(stage, outcome) if `line` is DVC's word on a stage: `ran`, `restored` (from the run cache) or `unchanged`."""
    for outcome, pattern in _OUTCOMES.items():
        if match := pattern.match(line):
            return match["stage"], outcome
    return None


def is_up_to_date(output: Iterable[str]) -> bool:
    """Whether these lines are those of a `dvc repro` that found nothing to do."""
    return _UP_TO_DATE in output


def says_something(line: str) -> bool:
    """Whether a line of DVC's output is more than its standing advice on git and remotes."""
    return not _CHATTER.match(line)


def read_lock(root: Path) -> dict[str, dict[str, Any]]:
    """The entries of dvc.lock by stage. Compare these, never the text: entries stand in the order stages finished.

    Raises:
        GraphError: the file is not, and does not soon become, a lock file; DVC rewrites it in place as a stage ends.
    """
    file = root / "dvc.lock"
    for _ in range(20):
        try:
            data = yaml.safe_load(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except yaml.YAMLError:
            data = None
        if isinstance(data, dict):
            return dict(data.get("stages") or {})
        time.sleep(0.1)
    raise GraphError(f"{file} is no lock file of DVC. Remedy: delete it and run `dvc repro`")


def reasons(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[str]:
    """Why a stage that ran had to: what differs between its lock entries before and after."""
    if not after:
        return ["it did not finish: no entry in dvc.lock"]
    if not before:
        return ["first run: dvc.lock had no entry for it"]
    found = ["command changed"] if before.get("cmd") != after.get("cmd") else []
    old, new = ({dep["path"]: dep for dep in entry.get("deps", [])} for entry in (before, after))
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path):
            found.append(f"dependency {path} " + ("is new" if path not in old else "is gone" if path not in new else "changed"))
    old, new = _params(before), _params(after)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            found.append(f"parameter {key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}")
    return found or ["its output was missing or had been changed by hand, or the run was forced"]


def _params(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for section in entry.get("params", {}).values() for key, value in flat(section).items()}


def flat(data: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    leaves: dict[str, Any] = {}
    for key, value in data.items():
        leaves |= {f"{key}.{rest}": leaf for rest, leaf in flat(value).items()} if isinstance(value, dict) else {key: value}
    return leaves


def mermaid(graph: Mapping[str, Stage], outcomes: Mapping[str, str]) -> str:
    """The graph as a Mermaid flowchart, every stage coloured by its outcome."""
    ids = {name: f"s{index}" for index, name in enumerate(graph)}
    lines = ["flowchart TD"]
    lines += [f'    {ids[name]}["{name}: {outcomes.get(name, "waiting")}"]:::{outcomes.get(name, "waiting")}' for name in graph]
    lines += [f"    {ids[parent]} --> {ids[name]}" for name in graph for parent in graph[name].parents if parent in ids]
    lines += [f"    classDef {outcome} {style}" for outcome, style in _COLOURS.items()]
    return "\n".join(lines) + "\n"


_COLOURS = {
    "ran": "fill:#cfe8cf,stroke:#2f7d32",
    "restored": "fill:#d6e6f7,stroke:#2b6cb0",
    "unchanged": "fill:#eeeeee,stroke:#777777",
    "failed": "fill:#f6cfcf,stroke:#b42318",
    "blocked": "fill:#fdf0cf,stroke:#b7791f",
    "waiting": "fill:#ffffff,stroke:#aaaaaa",
}

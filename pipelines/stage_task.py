"""One Prefect task that brings one DVC stage up to date and publishes what happened.

DVC is the cache: the task has none of Prefect's. A stage's own failure is final; only a held lock or a failed download is
tried again.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger

from pipelines import QUIET, graph
from pipelines.children import Children, Finished

_TRANSIENT = re.compile(
    r"Unable to acquire lock|is busy, it is being blocked|cannot download|"
    r"Connection (reset|refused|aborted)|Temporary failure in name resolution|Network is unreachable"
)
_SHOWN = 15  # last lines of a failed stage that a message repeats


@dataclass(frozen=True)
class Outcome:
    """What became of one stage, and its wall time in seconds.

    `ran`, `restored` (from DVC's run cache) or `unchanged`; or `failed`, or `blocked` by a failed stage before it.
    """

    stage: str
    outcome: str
    seconds: float | None = None


class StageFailedError(Exception):
    """A stage's process failed; `tail` holds its last lines."""

    def __init__(self, stage: str, cause: str, tail: tuple[str, ...]) -> None:
        super().__init__(f"stage {stage} {cause}")
        self.stage, self.cause, self.tail = stage, cause, tail[-_SHOWN:]

    @property
    def transient(self) -> bool:
        """Whether another attempt may succeed without anybody's help: a lock or the network stood in the way."""
        return any(_TRANSIENT.search(line) for line in self.tail)


def child_environment() -> dict[str, str]:
    """This process's environment, with this Python's programs first on PATH, and the defaults of `pipelines`."""
    programs = str(Path(sys.executable).parent)
    return {
        **QUIET,
        "PYTHONUNBUFFERED": "1",
        **os.environ,
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)]),
    }


def _worth_retrying(_task: object, _run: TaskRun, state: State[Any]) -> bool:
    error = state.data
    return isinstance(error, StageFailedError) and error.transient


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=[5, 20, 60],
    retry_condition_fn=_worth_retrying,
)
def run_stage(
    stage: graph.Stage, root: Path, before: Mapping[str, Any] | None, children: Children, timeout: float | None
) -> Outcome:
    """Run `dvc repro --single-item` for `stage` as a process of its own and publish counts and reasons.

    Args:
        stage: The stage; its parents are up to date.
        root: The project.
        before: The stage's entry in dvc.lock before the flow began, if it had one.
        children: Starts and stops the process.
        timeout: Seconds after which the stage is stopped, or None.

    Raises:
        StageFailedError: the process failed or was stopped.
    """
    logger = get_run_logger()
    command = graph.repro_command([stage.name], single=True)
    outcomes: dict[str, str] = {}

    def follow(line: str) -> None:
        if graph.says_something(line):
            logger.info("%s", line)
        outcomes.update(filter(None, [graph.outcome_of(line)]))

    ended = children.run(command, root, child_environment(), follow, timeout)
    outcome = outcomes.get(stage.name, "unchanged") if ended.status == 0 else "failed"
    reasons = graph.reasons(before, graph.read_lock(root).get(stage.name)) if outcome in ("ran", "restored") else []
    _publish(stage, outcome, ended, reasons, _counts(root, stage) if outcome != "failed" else {})
    if outcome == "failed":
        raise StageFailedError(stage.name, _cause(ended, timeout), ended.tail)
    return Outcome(stage.name, outcome, ended.seconds)


def _cause(ended: Finished, timeout: float | None) -> str:
    if ended.timed_out:
        return f"was stopped: it took longer than {timeout:g} s"
    return f"was stopped by signal {-ended.status}" if ended.status < 0 else f"failed with status {ended.status}"


def _counts(root: Path, stage: graph.Stage) -> dict[str, Any]:
    """The counts in the manifests of the stage's outputs, flat: `dropped.too_short` for a mapping inside."""
    manifests = [root / out / "manifest.json" for out in stage.outs]
    found = [json.loads(file.read_text(encoding="utf-8")).get("counts", {}) for file in manifests if file.is_file()]
    return {name: value for counts in found for name, value in graph.flat(counts).items()}


def _publish(stage: graph.Stage, outcome: str, ended: Finished, reasons: list[str], counts: Mapping[str, Any]) -> None:
    key = artifact_key(stage.name)
    lines = [f"## {stage.name}: {outcome}", "", f"`{stage.command}`, {ended.seconds:.1f} s", ""]
    lines += [f"- {reason}" for reason in reasons]
    if outcome == "failed":
        lines += ["```", *ended.tail[-_SHOWN:], "```"]
    create_markdown_artifact("\n".join(lines), key=f"{key}-run", description=f"What became of stage {stage.name}, and why")
    if counts:
        rows = [{"count": name, "value": str(value)} for name, value in counts.items()]
        create_table_artifact(rows, key=f"{key}-counts", description=f"Counts of stage {stage.name}, from its manifest")


def artifact_key(name: str) -> str:
    """A Prefect artifact key (lower-case letters, digits, dashes) for a stage's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")

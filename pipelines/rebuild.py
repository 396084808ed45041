"""The flow that rebuilds everything: every stage of dvc.yaml as a task, parents first, then the proof that nothing is left.

It gives what `dvc repro` gives, with two stages at a time, retries, logs, counts and a history in Prefect's interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.futures import PrefectFuture, wait
from prefect.states import Failed

from pipelines import graph
from pipelines.children import Children
from pipelines.stage_task import Outcome, StageFailedError, child_environment, run_stage

WORKERS = 2


class RebuildError(Exception):
    """Stages failed, or DVC still found work after the last one; `outcomes` tells of every stage."""

    def __init__(self, message: str, outcomes: list[Outcome], failures: list[StageFailedError]) -> None:
        super().__init__(message)
        self.outcomes, self.failures = outcomes, failures


@flow(name="rebuild")
def rebuild(targets: list[str] | None = None, timeout: float | None = None, root: str = ".") -> list[Outcome]:
    """Bring every stage up to date, or `targets` and what they need.

    Parameters choose stages and time limits, never what a stage computes: that is params.yaml.

    Args:
        targets: Names of stages; all, without it.
        timeout: Seconds that one stage may take; no limit, without it.
        root: The project's folder.

    Raises:
        GraphError: there is no usable dvc.yaml, or a target is not in it.
        RebuildError: a stage failed, or DVC still found work after the last one.
    """
    folder = Path(root).resolve()
    stages = graph.read_graph(folder, targets or ())
    before = graph.read_lock(folder)
    children = Children(WORKERS)
    futures: dict[str, PrefectFuture[Outcome]] = {}
    try:
        for name, stage in stages.items():
            named = run_stage.with_options(name=f"dvc:{name}", task_run_name=f"dvc:{name}")
            parents = [futures[parent] for parent in stage.parents if parent in futures]
            futures[name] = named.submit(
                stage, folder, before.get(name), children, timeout, wait_for=parents, return_state=False
            )
        wait(list(futures.values()))
        results = {name: _result(future) for name, future in futures.items()}
        outcomes = [_outcome(name, result) for name, result in results.items()]
        complete = all(isinstance(result, Outcome) for result in results.values())
        proof = _prove(folder, targets, children) if complete else None
    finally:
        children.stop()
    _summarise(stages, outcomes, proof)
    if not complete:
        names = ", ".join(outcome.stage for outcome in outcomes if outcome.outcome == "failed")
        return _failed(f"failed: {names}", outcomes, [r for r in results.values() if isinstance(r, StageFailedError)])
    if proof is not None:
        return _failed(f"dvc repro still found work to do after the last stage: {proof}", outcomes, [])
    return outcomes


def _failed(message: str, outcomes: list[Outcome], failures: list[StageFailedError]) -> Any:
    """A Prefect state that raises `RebuildError` at the caller and, unlike a raise in the flow, logs no traceback."""
    return Failed(message=message, data=RebuildError(message, outcomes, failures))


def _result(future: PrefectFuture[Outcome]) -> Outcome | BaseException | None:
    """What the task returned or raised; None where it never started because a stage before it failed."""
    state = future.state
    result: Outcome | BaseException | None = None if state.is_pending() else state.result(raise_on_failure=False)
    return result


def _outcome(name: str, result: object) -> Outcome:
    if isinstance(result, Outcome):
        return result
    return Outcome(name, "blocked" if result is None else "failed")


def _prove(root: Path, targets: list[str] | None, children: Children) -> str | None:
    """Run plain `dvc repro`, which must find nothing to do; what it said instead, or None."""
    logger = get_run_logger()
    before = graph.read_lock(root)
    logger.info("proof: a plain `dvc repro` must find nothing to do")
    ended = children.run(graph.repro_command(targets or ()), root, child_environment(), lambda line: logger.info("%s", line))
    if ended.status == 0 and graph.is_up_to_date(ended.tail) and graph.read_lock(root) == before:
        return None
    return "; ".join(ended.tail[-5:]) or f"status {ended.status}"


def _summarise(stages: Mapping[str, graph.Stage], outcomes: list[Outcome], proof: str | None) -> None:
    rows = [f"| {o.stage} | {o.outcome} | {'' if o.seconds is None else f'{o.seconds:.1f}'} |" for o in outcomes]
    done = all(o.outcome not in ("failed", "blocked") for o in outcomes)
    verdict = "A plain `dvc repro` found nothing to do." if done and proof is None else "Not complete."
    diagram = graph.mermaid(stages, {o.stage: o.outcome for o in outcomes})
    table = "\n".join(["| stage | outcome | seconds |", "|---|---|---|", *rows])
    page = "\n\n".join(["# Rebuild", verdict, table, f"```mermaid\n{diagram}```"])
    create_markdown_artifact(page, key="rebuild-summary", description="Every stage and what became of it")

"""`glm rebuild`: the rebuild flow from the command line."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipelines.rebuild import RebuildError
    from pipelines.stage_task import Outcome

app = typer.Typer(add_completion=False)


@app.command()
def rebuild(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Stages to bring up to date, with what they need; all, if none.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that one stage may take.")] = None,
    cron: Annotated[str | None, typer.Option(help="Stay, and rebuild on this schedule, e.g. '0 3 * * *'.")] = None,
) -> None:
    """Run the stages of dvc.yaml as a Prefect flow: two at a time, logged, then prove that nothing is left to do.

    Without PREFECT_API_URL a Prefect server lives as long as the run. The result is that of `dvc repro`.
    """
    if not Path("dvc.yaml").is_file():
        typer.echo("ERROR: no dvc.yaml here. Remedy: run from the project's root", err=True)
        raise typer.Exit(1)
    from pipelines.graph import GraphError
    from pipelines.rebuild import RebuildError
    from pipelines.rebuild import rebuild as flow

    if cron is not None:
        flow.serve(name="scheduled", cron=cron, parameters={"targets": targets, "timeout": timeout}, limit=1)
        return
    try:
        with _exit_on_sigterm():
            outcomes = flow(targets=targets, timeout=timeout)
    except GraphError as error:
        typer.echo(f"ERROR: {error}", err=True)
        raise typer.Exit(1) from error
    except RebuildError as error:
        _print_table(error.outcomes)
        _explain(error)
        raise typer.Exit(1) from error
    _print_table(outcomes)
    typer.echo("A plain `dvc repro` found nothing to do.")


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """SIGTERM becomes an ordinary exit, which stops stages and server too; Prefect does so while the flow itself runs."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_table(outcomes: list[Outcome]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "outcome", "seconds")
    colours = {"failed": "red", "blocked": "yellow", "ran": "green", "restored": "blue"}
    for line in outcomes:
        seconds = "" if line.seconds is None else f"{line.seconds:.1f}"
        table.add_row(line.stage, line.outcome, seconds, style=colours.get(line.outcome))
    Console().print(table)


def _explain(error: RebuildError) -> None:
    for failure in error.failures:
        typer.echo(f"ERROR: {failure}. Its last lines:", err=True)
        for line in failure.tail:
            typer.echo(f"    {line}", err=True)
    if not error.failures:
        typer.echo(f"ERROR: {error}", err=True)
    typer.echo(
        "Kept: the output of every stage that finished, and scratch work under runs/. "
        "Run `glm rebuild` or `dvc repro` again to go on from there.",
        err=True,
    )

"""`glm verify rebuild`: build everything again in a clean folder, and say stage by stage whether it came out the same."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ledger.rebuild.compare import StageVerdict

app = typer.Typer(name="verify", help="Build again and compare.", no_args_is_help=True, add_completion=False)


class WorkspaceError(Exception):
    """The second workspace cannot be made or built."""


@app.callback()
def _group() -> None:
    """Build again and compare."""


@app.command()
def rebuild(
    against: Annotated[
        Path | None,
        typer.Option(help="An already built folder of the same commit, in place of a second build.", file_okay=False),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where to build, and to leave the build; a temporary folder, if none.", file_okay=False)
    ] = None,
    relative: Annotated[float, typer.Option(min=0, help="Numbers may lie apart by so much of themselves ...")] = 1e-5,
    absolute: Annotated[float, typer.Option(min=0, help="... and by this.")] = 1e-8,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Clone the committed project, build it with an empty cache and no run cache, and compare every stage's output.

    Status 0 where every stage is identical, identical in canonical form, or numerically close; else 1.
    """
    from ledger import LedgerError
    from ledger.rebuild.compare import Tolerance, compare

    tolerance = Tolerance(relative, absolute)
    with ExitStack() as stack:
        try:
            second = against or build_again(
                Path(), folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="glm-rebuild-"))) / "again"
            )
            verdicts = list(compare(Path(), second, tolerance))
        except (WorkspaceError, LedgerError) as error:
            typer.echo(f"ERROR: {error}", err=True)
            raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps({"tolerance": asdict(tolerance), "stages": [asdict(verdict) for verdict in verdicts]}))
    else:
        _print(verdicts, tolerance)
    if any(verdict.verdict in ("different", "missing") for verdict in verdicts):
        raise typer.Exit(1)


def build_again(root: Path, folder: Path) -> Path:
    """Clone the committed project at `root` to `folder` and run every stage there, with a cache of its own and no run cache.

    Raises:
        WorkspaceError: something at `root` is not committed, `folder` exists, or a stage failed.
    """
    changed = _run(["git", "status", "--porcelain"], root, "this is no git repository").strip()
    if changed:
        raise WorkspaceError(f"not committed, so no clone would have it: {changed.splitlines()[0]}. Remedy: commit or drop it")
    if folder.exists():
        raise WorkspaceError(f"{folder} exists. Remedy: name a new folder, or compare with it by --against")
    _run(["git", "clone", "--quiet", str(root.resolve()), str(folder)], root, "git cannot clone it")
    dvc = [sys.executable, "-m", "dvc"]
    _run([*dvc, "config", "--local", "cache.dir", str(folder.resolve() / ".dvc" / "cache")], folder, "dvc cannot be set up")
    from pipelines.stage_task import child_environment

    command = [*dvc, "repro", "--force", "--no-run-cache"]  # its lines go to standard error: the answer has the other
    if subprocess.run(command, cwd=folder, env=child_environment(), stdout=2, check=False).returncode:
        raise WorkspaceError(f"a stage failed in {folder}; its own lines stand above. Remedy: --folder keeps the workspace")
    return folder


def _run(command: list[str], root: Path, wrong: str) -> str:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkspaceError(f"{wrong}: {done.stderr.strip()}")
    return done.stdout


def _print(verdicts: list[StageVerdict], tolerance: object) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "files", "verdict", "first difference", title="Two builds", title_justify="left")
    colours = {"identical": "green", "canonical": "cyan", "close": "yellow"}
    for line in verdicts:
        place = "" if line.file is None else f"{line.file}: {line.place}"
        table.add_row(line.stage, str(line.files), line.verdict, place, style=colours.get(line.verdict, "red"))
    Console().print(table)
    typer.echo(f"close: {tolerance}")

"""`glm checkpoint`: reshape a checkpoint for another tensor-parallel size, or check one through."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Reshape a checkpoint, or check it through.", no_args_is_help=True)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="Checkpoint or training state, of any tensor-parallel size.")],
    target: Annotated[Path, typer.Argument(metavar="TO", help="Folder to write; must not exist.")],
    tp: Annotated[int, typer.Option(min=1, help="Tensor-parallel ranks to write for.")],
    shard_bytes: Annotated[int, typer.Option(min=1, help="Largest shard.")] = 5_000_000_000,
) -> None:
    """Write FROM again for another number of tensor-parallel ranks. There and back gives the same bytes."""
    from model.checkpoint import CheckpointError
    from model.checkpoint.convert import convert as write

    try:
        write(source, target, tp, shard_bytes)
    except (CheckpointError, OSError) as error:
        typer.echo(f"glm checkpoint: {error}", err=True)
        raise typer.Exit(1) from error


@app.command()
def verify(folder: Annotated[Path, typer.Argument(help="Checkpoint or training state.")]) -> None:
    """Check every shard against its SHA-256, and names and shapes against the settings."""
    from model.checkpoint import CheckpointError
    from model.checkpoint.convert import verify as check

    try:
        typer.echo(check(folder))
    except (CheckpointError, OSError) as error:
        typer.echo(f"glm checkpoint: {error}", err=True)
        raise typer.Exit(1) from error

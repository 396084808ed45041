"""`glm lineage`: which documents made a checkpoint, which checkpoints saw a document, what a step trained on, does it all hold.

On a terminal the answers are tables; into a pipe they go as tab-separated lines. Libraries that take time to load are imported
by the command that needs them.
"""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pyarrow as pa

    from ledger.query import Ledger

app = typer.Typer(
    name="lineage", help="Ask the training ledger: who saw what, in which order.", no_args_is_help=True, add_completion=False
)

_TERMINAL_ROWS = 40


class Format(enum.StrEnum):
    """How an answer is written."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


Project = Annotated[Path, typer.Option(help="Folder of the project.", file_okay=False)]
FormatOption = Annotated[Format, typer.Option("--format", help="How to write the answer.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write to instead of the terminal.", dir_okay=False)
]
Limit = Annotated[int | None, typer.Option(min=0, help="Rows at most; 0 for all. A table on a terminal shows 40 by default.")]


@app.command()
def docs(
    checkpoint: Annotated[
        str | None, typer.Option(help="Name, folder or SHA-256 of the weights; the newest kept one by default.")
    ] = None,
    project: Project = Path(),
    format: FormatOption = Format.table,
    output: Output = None,
    limit: Limit = None,
) -> None:
    """Documents that a checkpoint was trained on, in the order of first exposure."""
    with _explained():
        ledger = _open(project)
        name = checkpoint or _newest(ledger)
        _write(ledger.documents(name), format, output, limit, f"Documents of {name}")


@app.command()
def seen(
    doc: Annotated[str, typer.Option(help="Id of the document.")],
    project: Project = Path(),
    format: FormatOption = Format.table,
    output: Output = None,
) -> None:
    """Checkpoints that saw a document, and when; branches that were given up stand apart."""
    import pyarrow as pa

    with _explained():
        found = _open(project).seen(doc)
        rows = [
            {
                "checkpoint": sighting.checkpoint or f"(none, segment {sighting.segment})",
                "status": sighting.status,
                "exposures": sighting.exposures,
                "tokens": sighting.tokens,
                "first_step": sighting.steps[0] if sighting.steps else None,
                "last_step": sighting.steps[-1] if sighting.steps else None,
                "steps": list(sighting.steps),
            }
            for sighting in found.sightings
        ]
        schema = [("checkpoint", pa.string()), ("status", pa.string())]
        schema += [(name, pa.int64()) for name in ("exposures", "tokens", "first_step", "last_step")]
        table = pa.Table.from_pylist(rows, schema=pa.schema([*schema, ("steps", pa.list_(pa.int64()))]))
        title = f"{found.doc_id}: {found.source}, {found.lang}, {found.licence}, {found.length:,} tokens"
        _write(table, format, output, None, title)


@app.command()
def step(
    number: Annotated[int, typer.Argument(metavar="STEP", help="Step, counted from 0.")],
    project: Project = Path(),
    format: FormatOption = Format.table,
    output: Output = None,
    limit: Limit = None,
) -> None:
    """Samples and documents of one step, and what became of them."""
    with _explained():
        record = _open(project).step(number)
        runs = ", ".join(
            f"segment {run.segment} {'skipped' if run.skipped else 'trained on'} it ({run.status})" for run in record.runs
        )
        title = f"Step {record.step}: samples {record.first_sample} to {record.last_sample}; {runs}"
        _write(record.pieces, format, output, limit, title)


@app.command()
def verify(project: Project = Path()) -> None:
    """Compute every digest again: files, manifests, journal, plan, checkpoints, attestation."""
    from ledger.verify import verify as checks

    failed = 0
    with _explained():
        for check in checks(project):
            failed += not check.ok
            mark = typer.style("ok    ", fg="green") if check.ok else typer.style("FAILED", fg="red", bold=True)
            typer.echo(f"{mark}  {check.name}: {check.detail}")
    typer.echo(f"{failed} checks failed" if failed else "All checks passed")
    if failed:
        raise typer.Exit(1)


def _open(project: Path) -> Ledger:
    from ledger.query import Ledger

    return Ledger(project)


def _newest(ledger: Ledger) -> str:
    from ledger import LedgerError

    line = ledger.journal.main_line()
    if not line or line[-1].checkpoint is None:
        raise LedgerError(f"{ledger.journal.path}: no checkpoint yet")
    return line[-1].checkpoint


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what is wrong with the ledger into one line and status 1."""
    from ledger import LedgerError

    try:
        yield
    except LedgerError as error:
        typer.echo(f"ERROR: {error}", err=True)
        raise typer.Exit(1) from error


def _write(table: pa.Table, format: Format, output: Path | None, limit: int | None, title: str) -> None:
    """Write a table to a file or to standard output."""
    shown = table if not limit else table.slice(0, limit)
    if format is Format.parquet:
        import pyarrow.parquet as pq

        if output is None:
            raise typer.BadParameter("a Parquet file does not go to a terminal: name it with --output", param_hint="--format")
        pq.write_table(shown, output, compression="zstd")
    elif format is Format.table and output is None and sys.stdout.isatty():
        _print_table(shown if limit is not None else table.slice(0, _TERMINAL_ROWS), table.num_rows, title)
        return
    else:
        lines = _lines(shown, format)
        if output is None:
            typer.echo(title, err=True)
            sys.stdout.writelines(f"{line}\n" for line in lines)
            return
        with output.open("w", encoding="utf-8", newline="") as file:
            file.writelines(f"{line}\n" for line in lines)
    typer.echo(f"{shown.num_rows:,} rows in {output}", err=True)


def _lines(table: pa.Table, format: Format) -> Iterator[str]:
    """The rows as text: JSON objects a line, or a heading and separated values."""
    rows = (row for batch in table.to_batches(4096) for row in batch.to_pylist())
    if format is Format.json:
        yield from (json.dumps(row, ensure_ascii=False) for row in rows)
        return
    import csv

    class Line:
        """Takes what the csv writer writes, a row at a time."""

        text = ""

        def write(self, text: str) -> None:
            self.text = text

    line = Line()
    writer = csv.writer(line, delimiter="," if format is Format.csv else "\t", lineterminator="")
    for values in (table.column_names, *(_cells(row.values()) for row in rows)):
        writer.writerow(values)
        yield line.text


def _cells(values: Any) -> list[str]:
    return [
        ""
        if value is None
        else " ".join(map(str, value))
        if isinstance(value, Sequence) and not isinstance(value, str)
        else str(value)
        for value in values
    ]


def _print_table(table: pa.Table, total: int, title: str) -> None:
    import pyarrow as pa
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    view = Table(title=Text(title), title_justify="left", caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for field in table.schema:
        heading = field.name.replace("_", " ")
        number = pa.types.is_integer(field.type)
        view.add_column(
            heading, justify="right" if number else "left", overflow="fold", min_width=max(map(len, heading.split()))
        )
    for row in table.to_pylist():
        cells = [(f"{value:,}" if isinstance(value, int) else _cells([value])[0]) for value in row.values()]
        view.add_row(*(Text(cell, no_wrap=isinstance(value, int)) for cell, value in zip(cells, row.values(), strict=True)))
    if table.num_rows < total:
        view.caption = f"{table.num_rows:,} of {total:,} rows; --limit 0 shows all"
    Console().print(view)

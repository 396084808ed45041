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
        title = f"Documents of {name}"
        if format is Format.table and output is None and sys.stdout.isatty():
            _write(ledger.documents(name), format, output, limit, title)
        else:
            from ledger.cli.output import write_batches

            _explain_target(format, output)
            rows = write_batches(ledger.stream(name), format.value, output, limit or 0)
            typer.echo(f"{rows:,} rows in {output}" if output else title, err=True)


@app.command()
def seen(
    doc: Annotated[str | None, typer.Option(help="Id of the document.")] = None,
    project: Project = Path(),
    format: FormatOption = Format.table,
    output: Output = None,
    url: Annotated[str | None, typer.Option(help="Address of a page; scheme, www. and a last slash do not count.")] = None,
    domain: Annotated[str | None, typer.Option(help="All pages of a domain and its sub-domains.")] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="File with a text (UTF-8); blanks, case and signs do not count.", exists=True, dir_okay=False),
    ] = None,
) -> None:
    """Checkpoints that saw a document, and when; branches that were given up stand apart.

    Of an address, a domain or a text, every document that it means, with how it was matched and what became of it.
    """
    from ledger.cli.output import SIGHTINGS, found_rows, sighting_rows

    asked = {"doc": doc, "url": url, "domain": domain, "text": text}
    given = {kind: value for kind, value in asked.items() if value is not None}
    if len(given) != 1:
        raise typer.BadParameter("give one of --doc, --url, --domain and --text")
    with _explained():
        ledger = _open(project)
        if doc is not None:
            found = ledger.seen(doc)
            title = f"{found.doc_id}: {found.source}, {found.lang}, {found.licence}, {found.length:,} tokens"
            _write(_table(sighting_rows(found), SIGHTINGS), format, output, None, title)
            return
        ((kind, value),) = given.items()
        table, title = found_rows(ledger, kind, _text_of(value) if isinstance(value, Path) else str(value))
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
def cost(
    checkpoint: Annotated[str | None, typer.Option(help="As of `docs`.")] = None,
    cpu_watts: Annotated[float, typer.Option(min=0, help="Power of one busy core.")] = 12.0,
    gpu_watts: Annotated[float, typer.Option(min=0, help="Power of one GPU.")] = 400.0,
    overhead: Annotated[float, typer.Option(min=1, help="What the building takes for each watt of the machines (PUE).")] = 1.0,
    project: Project = Path(),
    format: FormatOption = Format.table,
    output: Output = None,
) -> None:
    """What a checkpoint cost, stage by stage: measured seconds, estimated energy; branches that were given up stand apart."""
    from ledger.lineage.cost import Power, as_table, of_checkpoint, total

    with _explained():
        ledger = _open(project)
        name = checkpoint or _newest(ledger)
        bill = of_checkpoint(ledger, name, Power(cpu_watts, gpu_watts, overhead))
        how = f"seconds from runs/, energy estimated as ({cpu_watts:g} W a core + {gpu_watts:g} W a GPU) x {overhead:g}"
        _write(as_table([*bill, total(bill)]), format, output, None, f"Cost of {name}: {how}")


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="Checkpoint, or FOLDER:CHECKPOINT of another build.")],
    b: Annotated[str, typer.Argument(help="The checkpoint to compare with it.")],
    project: Project = Path(),
    format: FormatOption = Format.table,
    output: Output = None,
) -> None:
    """What sets two checkpoints apart: code, parameters, data by source, order, journal, scores."""
    from ledger.lineage.diff import Side
    from ledger.lineage.diff import diff as differences

    with _explained():
        table = differences(Side.of(a, project), Side.of(b, project))
        _write(table, format, output, 0, f"{a} and {b}: {table.num_rows:,} differences and scores")


@app.command()
def stages(
    checkpoint: Annotated[str | None, typer.Option(help="As for docs; the newest kept one by default.")] = None,
    project: Project = Path(),
    format: FormatOption = Format.table,
    output: Output = None,
) -> None:
    """Every artifact from raw bytes to a checkpoint: digests, parameters, git commit."""
    from ledger.lineage.graph import artifacts

    with _explained():
        ledger = _open(project)
        name = checkpoint or _newest(ledger)
        table = artifacts(project, ledger.resolve(name).weights_sha256)
        _write(table, format, output, 0, f"From raw bytes to {name}: {table.num_rows:,} artifacts")


@app.command()
def verify(project: Project = Path()) -> None:
    """Compute every digest again: files, manifests, journal, plan, checkpoints, attestation."""
    from ledger.lineage.verify import verify as checks

    failed = 0
    with _explained():
        for check in checks(project):
            failed += not check.ok
            mark = typer.style("ok    ", fg="green") if check.ok else typer.style("FAILED", fg="red", bold=True)
            typer.echo(f"{mark}  {check.name}: {check.detail}")
    typer.echo(f"{failed} checks failed" if failed else "All checks passed")
    if failed:
        raise typer.Exit(1)


def _text_of(file: Path) -> str:
    from ledger import LedgerError

    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LedgerError(f"{file}: not UTF-8 at byte {error.start}. Remedy: convert it (`iconv -t utf-8`)") from error


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=schema)


def _explain_target(format: Format, output: Path | None) -> None:
    if format is Format.parquet and output is None:
        raise typer.BadParameter("a Parquet file does not go to a terminal: name it with --output", param_hint="--format")


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

        _explain_target(format, output)
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

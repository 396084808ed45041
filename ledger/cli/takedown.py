"""`glm takedown`: what a request would mean, the tombstones that carry it out, and the proof that it was carried out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ledger.query.match import Request
    from ledger.takedown.plan import Finding, Plan

app = typer.Typer(
    name="takedown", help="Take documents out of the training set, and prove it.", no_args_is_help=True, add_completion=False
)

_SHOWN = 20  # documents of one request
_NOTHING = 3  # status: all was done, but a request means no document

File = Annotated[
    Path | None,
    typer.Argument(
        help="One request a line: an address, a domain, the SHA-256 of a record, a document's id; 'doc:', 'url:', 'domain:' or "
        "'sha256:' before it decide where its form does not. Lines that begin with # are comments.",
        exists=True,
        dir_okay=False,
    ),
]
Texts = Annotated[list[Path] | None, typer.Option("--text", help="File with a text to look for.", exists=True, dir_okay=False)]
Project = Annotated[Path, typer.Option(help="Folder of the project.", file_okay=False)]
Least = Annotated[
    float, typer.Option(min=0.05, max=1.0, help="Similarity from which a text is a near copy or a shared passage.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def plan(
    file: File = None,
    text: Texts = None,
    project: Project = Path(),
    least: Least = 0.5,
    cpu_watts: Annotated[float, typer.Option(min=0, help="Power of one busy core.")] = 12.0,
    gpu_watts: Annotated[float, typer.Option(min=0, help="Power of one GPU.")] = 400.0,
    as_json: Json = False,
) -> None:
    """Say what would have to go: documents, their copies, the checkpoints that saw them, the cost. Changes nothing.

    Ends with status 3 where a request means no document, and names it.
    """
    with _explained():
        from ledger.lineage.cost import Power
        from ledger.query import Ledger
        from ledger.takedown.plan import plan as make

        ledger = Ledger(project)
        found = make(ledger, _requests(file, text), Power(cpu_watts, gpu_watts), least)
        if as_json:
            answer = asdict(found)
            for sighting in answer["exposures"]:
                del sighting["steps"]  # there may be as many as the training has; `glm lineage seen` lists them
            typer.echo(json.dumps(answer, ensure_ascii=False))
        else:
            _print(found)
        _complain(found.findings, found.unaddressed, ledger.fate)


@app.command()
def apply(
    date: Annotated[str, typer.Option(help="Day of the request, YYYY-MM-DD: the clock is not asked.")],
    file: File = None,
    text: Texts = None,
    project: Project = Path(),
    least: Least = 0.5,
) -> None:
    """Append to takedowns.jsonl what `plan` shows; the next `dvc repro` leaves it out, and does again what rests on it.

    Ends with status 3 where a request means no document; the others are written all the same.
    """
    with _explained():
        from ledger.takedown.plan import findings, stones, unaddressed
        from ledger.tombstones import FILE, append

        found = findings(project, _requests(file, text), least)
        try:
            entries = stones(project, found, date)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--date") from error
        new = append(project / FILE, entries)
    for finding in found:
        typer.echo(f"{finding.request.kind} {finding.request.label}: {len(finding.documents)} documents")
    typer.echo(f"{len(new)} tombstones new in {project / FILE}. Commit it and run `dvc repro`, then `glm takedown prove`")
    _complain(found, unaddressed(project))


@app.command()
def prove(
    project: Project = Path(),
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the proofs here, for ledger/verifier.py to check.", dir_okay=False),
    ] = None,
    envelope: Annotated[
        Path | None,
        typer.Option(help="Signed statement that the proofs are for; the newest unsigned one, if none.", dir_okay=False),
    ] = None,
    public_key: Annotated[Path | None, typer.Option(help="Key that the envelope is checked with.", dir_okay=False)] = None,
) -> None:
    """Prove that no document of takedowns.jsonl is in the build, and name the older checkpoints that were trained on any."""
    with _explained():
        from ledger import LedgerError
        from ledger.cli.attest import payload_of
        from ledger.proof.envelope import STATEMENTS
        from ledger.takedown.absence import prove as make
        from ledger.takedown.absence import remains
        from ledger.tombstones import FILE, read

        found = make(project)
        left = remains(project, read(project / FILE))
        stated = envelope is not None or any(file.startswith(f"{STATEMENTS}/") for file in found.attested)
        statement = payload_of(project, envelope, public_key, None) if stated else None
        if statement is not None and not found.named_by(statement):
            raise LedgerError("the statement names other roots than this build has. Remedy: sign that of this build")
    for proof in found.proofs:
        how = "by id and raw hash" if proof.by_hash is not None else "by id (its raw hash names other records too)"
        verdict = typer.style("absent", fg="green") if proof.absent else typer.style("STILL THERE", fg="red", bold=True)
        typer.echo(f"{verdict}  {proof.document.doc_id}: {how}")
    typer.echo(f"root over ids {found.ids.hex()}")
    typer.echo(f"root over raw hashes {found.hashes.hex()}, attested in {', '.join(found.attested) or 'nothing here'}")
    for line in left:
        where = ", ".join(line.folders) or "no folder of this project"
        typer.echo(f"still knows {', '.join(line.asked)}: {line.checkpoint}, weights {line.weights_sha256}; lies in {where}")
    if output is not None:
        output.write_text(json.dumps(found.to_json(statement), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if not found.holds:
        typer.echo("ERROR: not everything is gone. Remedy: run `dvc repro`", err=True)
        raise typer.Exit(1)
    typer.echo(f"{len(found.proofs)} documents are in no part of this build")


def _requests(file: Path | None, texts: Sequence[Path] | None) -> list[Request]:
    from ledger import LedgerError
    from ledger.query.match import Request

    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines() if file else [], 1):
        if line.strip() and not line.startswith("#"):
            try:
                found.append(Request.of_line(line))
            except LedgerError as error:
                raise LedgerError(f"{file}, line {number}: {error}") from error
    found += [Request("text", text.read_text(encoding="utf-8")) for text in texts or ()]
    if not found:
        raise LedgerError("nothing was asked for. Remedy: name a file of requests, or a text by --text")
    return found


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what is wrong into one line and status 1."""
    from ledger import LedgerError

    try:
        yield
    except (LedgerError, UnicodeDecodeError) as error:
        typer.echo(f"ERROR: {error}", err=True)
        raise typer.Exit(1) from error


def _complain(found: Iterable[Finding], unaddressed: int, similar: Callable[[str], str] | None = None) -> None:
    """Name every request that means no document, say what was compared, and end with a status of its own; else nothing."""
    compared = {
        "doc": "the ids of all documents and labelled rows",
        "sha256": "the SHA-256 of the bytes of all of them, as they were fetched",
        "text": "the letters and digits of all of them",
    }
    addresses = f"the addresses that documents state; {unaddressed:,} state none, and may come from there: look for their text"
    asked = [(finding.request, len(finding.documents)) for finding in found]
    empty = [request for request, documents in asked if not documents]
    for request in empty:
        how = compared.get(request.kind, addresses)
        hint = f". {similar(request.value)}" if similar is not None and request.kind == "doc" else ""
        typer.echo(f"ERROR: {request.kind} {request.label}: means no document of this build. Compared: {how}{hint}", err=True)
    if empty:
        typer.echo(f"ERROR: {len(empty)} of {len(asked)} requests mean nothing here: nothing is taken down for them", err=True)
        raise typer.Exit(_NOTHING)


def _print(found: Plan) -> None:
    for finding in found.findings:
        typer.secho(f"{finding.request.kind} {finding.request.label}", bold=True)
        if not finding.documents:
            typer.secho("  means no document of this build", fg="red")
        how = {match.doc_id: f"{match.how} {match.share:.2f}" for match in finding.matches}
        for document in finding.documents[:_SHOWN]:
            why = how.get(document.doc_id, "of the same cluster")
            typer.echo(f"  {document.doc_id}  ({document.role}; {why}; {found.fates[document.doc_id]})")
        if len(finding.documents) > _SHOWN:
            typer.echo(f"  and {len(finding.documents) - _SHOWN:,} more; --json has all")
    columns = ("checkpoint", "status", "documents", "exposures", "tokens", "first_step", "last_step")
    _table("Checkpoints", columns, ([getattr(line, name) for name in columns] for line in found.exposures))
    typer.echo(f"Last clean checkpoint: {found.clean or 'none'}")
    typer.echo(f"To train again from it: {_bill(found.retrain)}")
    typer.echo(f"What `dvc repro` does again, whole: {_bill(found.rebuild)}")
    _table("Made from them", ("path", "what of them"), found.derived)


def _bill(line: Any) -> str:
    seconds = f"{line.cpu_seconds:,.0f} CPU seconds, {line.gpu_seconds:,.0f} GPU seconds"
    return f"{seconds}, about {line.watt_hours:,.1f} Wh ({line.status})"


def _table(title: str, columns: Sequence[str], rows: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    view = Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows:
        view.add_row(*("" if value is None else f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    Console().print(view)

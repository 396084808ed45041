"""`glm attest`: make a key, sign statements, prove what a checkpoint consumed, check that statements and documents hold."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ledger import LedgerError

app = typer.Typer(
    name="attest", help="Sign, prove and check what a checkpoint was made from.", no_args_is_help=True, add_completion=False
)

_VARIABLE = "GLM_ATTEST_KEY"
Project = Annotated[Path, typer.Option(help="Folder of the project.", file_okay=False)]
Key = Annotated[Path, typer.Option(envvar=_VARIABLE, help="Private key (PEM), outside of the project.")]
Checkpoint = Annotated[str | None, typer.Option(help="Name of the checkpoint; the newest kept one by default.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write to instead of standard output.")]


class Documents(enum.StrEnum):
    """The set that a proof is about."""

    consumed = "consumed"
    training = "training"


@app.command()
def keygen(key: Key, project: Project = Path()) -> None:
    """Make an Ed25519 key: the private one for you alone, KEY.pub for everybody."""
    from ledger.proof.envelope import make_key

    with _explained():
        public = make_key(key, project)
    typer.echo(f"{key}: private key. {public}: public key, to be published where readers trust it to be yours")


@app.command()
def sign(
    key: Key,
    checkpoint: Annotated[list[str] | None, typer.Option(help="Name of a checkpoint; every one by default.")] = None,
    project: Project = Path(),
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the envelopes.")] = Path("attestations"),
    commit: Annotated[str | None, typer.Option(help="Git commit, where the project is no git work tree.")] = None,
) -> None:
    """Sign the statements of checkpoints: one DSSE envelope each, the same bytes for the same statement, commit and key."""
    from ledger.proof.envelope import STATEMENTS, build_facts, load_key, statement_file
    from ledger.proof.envelope import sign as signed

    with _explained():
        signer, build = load_key(key), build_facts(project, commit)
        names = checkpoint or sorted(file.stem for file in (project / STATEMENTS).glob("*.json"))
        if not names:
            raise LedgerError(f"{project / STATEMENTS}: no statement. Remedy: `dvc repro attest`")
        output.mkdir(parents=True, exist_ok=True)
        for name in names:
            statement = json.loads(statement_file(project, name).read_text(encoding="utf-8"))
            (output / f"{name}.dsse.json").write_text(signed(statement, build, signer), encoding="utf-8")
            typer.echo(f"{output / name}.dsse.json")


@app.command()
def prove(
    envelope: Annotated[Path | None, typer.Option(help="Signed statement that the proof is for.", dir_okay=False)] = None,
    public_key: Annotated[Path | None, typer.Option(help="Key that the envelope is checked with.", dir_okay=False)] = None,
    checkpoint: Checkpoint = None,
    doc: Annotated[str | None, typer.Option(help="Id of a document.")] = None,
    sha256: Annotated[str | None, typer.Option(help="SHA-256 of a document's bytes as fetched (raw_sha256).")] = None,
    file: Annotated[Path | None, typer.Option(help="File that holds these bytes.", dir_okay=False, exists=True)] = None,
    step: Annotated[int | None, typer.Option(help="Step, counted from 0: what it consumed, in order.")] = None,
    documents: Annotated[Documents, typer.Option("--set", help="What a checkpoint consumed, or all it could have.")] = (
        Documents.consumed
    ),
    project: Project = Path(),
    output: Output = None,
) -> None:
    """Prove that a document is in a set or is not, or what a step consumed, for `ledger/verifier.py` to check.

    The proof is for a signed statement (--envelope, --public-key), or for the unsigned one of --checkpoint.
    """
    import hashlib

    from ledger.proof.prover import Prover, digest_of

    asked = [option for option in (doc, sha256, file, step) if option is not None]
    if len(asked) != 1:
        raise typer.BadParameter("give one of --doc, --sha256, --file and --step")
    with _explained():
        prover = Prover.of(project, payload_of(project, envelope, public_key, checkpoint))
        if step is not None:
            proof = prover.step(step)
        else:
            digest = digest_of(project, doc) if doc else hashlib.sha256(file.read_bytes()).hexdigest() if file else str(sha256)
            proof = prover.document(digest, documents.value)
    text = json.dumps(proof, sort_keys=True) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
        typer.echo(f"{output}: proof of {proof['kind']}, {len(text):,} bytes", err=True)


@app.command()
def check(
    card: Annotated[
        list[Path] | None, typer.Option(help="Document whose cells to ask again; card and summary, if none.")
    ] = None,
    envelope: Annotated[list[Path] | None, typer.Option(help="Signed statement to compare as well.", dir_okay=False)] = None,
    public_key: Annotated[Path | None, typer.Option(help="Key of the envelopes.", dir_okay=False)] = None,
    project: Project = Path(),
) -> None:
    """Compute statements and every cell of the documents again; ends with status 1 where an answer has moved, and names it."""
    from ledger.export.attestation import check as checks

    if envelope and public_key is None:
        raise typer.BadParameter("--envelope needs --public-key")
    failed = 0
    with _explained():
        for found in checks(project, card, [(path, public_key) for path in envelope or [] if public_key is not None]):
            failed += not found.ok
            mark = typer.style("ok    ", fg="green") if found.ok else typer.style("FAILED", fg="red", bold=True)
            typer.echo(f"{mark}  {found.name}: {found.detail}")
    typer.echo(f"{failed} checks failed" if failed else "All checks passed")
    if failed:
        raise typer.Exit(1)


def payload_of(project: Path, envelope: Path | None, public_key: Path | None, checkpoint: str | None) -> bytes:
    """The bytes of the statement that a proof is for."""
    from ledger.proof.envelope import read_envelope, statement_file

    if envelope is not None:
        if public_key is None:
            raise typer.BadParameter("--envelope needs --public-key")
        return read_envelope(envelope, public_key)
    if checkpoint is None:
        from ledger.query import Ledger

        line = Ledger(project).journal.main_line()
        checkpoint = str(line[-1].checkpoint) if line else "(none)"
    return statement_file(project, checkpoint).read_bytes()


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what is wrong into one line and status 1."""
    message: Any
    try:
        yield
        return
    except LedgerError as error:
        message = error
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("securesystemslib", "cryptography"):
            raise
        message = f"signing needs {error.name}. Remedy: pip install 'glm-rebuild[sign]'"
    typer.echo(f"ERROR: {message}", err=True)
    raise typer.Exit(1)

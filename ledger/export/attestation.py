"""Whether what was attested still holds: statements and the project, envelopes and statements, cells and queries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ledger import LedgerError
from ledger.export.answers import Answers, cells
from ledger.export.answers import check as moved_cells
from ledger.lineage.verify import Check
from ledger.proof.consumption import Consumption
from ledger.proof.envelope import STATEMENTS, read_envelope
from ledger.proof.merkle import MerkleTree
from ledger.query import Ledger

DOCUMENTS = ("model-card.md", "training-summary.md")


def check(root: Path, documents: Sequence[Path] | None, envelopes: Sequence[tuple[Path, Path]]) -> Iterator[Check]:
    """Check everything that the attest stage wrote, yielding each result as it is known.

    Args:
        root: the project.
        documents: whose cells to ask again; those of the stage by default.
        envelopes: signed statements, each with the public key that it is checked with.

    Raises:
        LedgerError: the project or a document cannot be read.
    """
    consumption = Consumption(Ledger(root))
    statements = {file.stem: _read(file) for file in sorted((root / STATEMENTS).glob("*.json"))}
    if not statements:
        yield Check("statements", False, f"{root / STATEMENTS} holds none. Remedy: run `dvc repro attest`")
    for name, statement in statements.items():
        yield _check_statement(consumption, name, statement)
    for path, public_key in envelopes:
        yield _check_envelope(path, public_key, statements)
    yield from _check_documents(root, consumption, documents or [root / "data/attest" / name for name in DOCUMENTS])


def _check_statement(consumption: Consumption, name: str, statement: dict[str, Any]) -> Check:
    """The roots of a statement, computed again."""
    try:
        predicate = statement["predicate"]
        segment = consumption.ledger.journal.path_to(predicate["checkpoint"]["weights_sha256"])[-1]
        found = {
            "Merkle root of the training set": (predicate["documents"], MerkleTree.of_set(consumption.training_set())),
            "Merkle root of their ids": (predicate["documentIds"], MerkleTree.of_set(consumption.training_ids())),
            "Merkle root of what it consumed": (
                predicate["consumed"]["documents"],
                MerkleTree.of_set(consumption.documents(segment)),
            ),
            "Merkle root over the order": (predicate["consumed"]["order"], consumption.tree(segment)),
        }
        wrong = [
            what
            for what, (stated, tree) in found.items()
            if (stated["merkleRoot"], stated["size"]) != (tree.root.hex(), len(tree.leaves))
        ]
        if predicate["journal"]["head"] != consumption.ledger.journal.head:
            wrong.append("journal head")
    except LedgerError as error:
        return Check(f"statement {name}", False, str(error))
    except (LookupError, TypeError) as error:
        return Check(f"statement {name}", False, f"not one of the attest stage: {error!r}")
    steps = predicate["consumed"]["order"]["size"]
    return Check(f"statement {name}", not wrong, f"differs: {', '.join(wrong)}" if wrong else f"{steps} steps, four roots")


def _check_envelope(path: Path, public_key: Path, statements: dict[str, dict[str, Any]]) -> Check:
    """The signature, and that the payload is a statement that lies here with what signing adds."""
    try:
        signed = json.loads(read_envelope(path, public_key))
        build = signed["predicate"].pop("build")
        name = signed["predicate"]["checkpoint"]["name"]
    except LedgerError as error:
        return Check(f"envelope {path.name}", False, str(error))
    except (LookupError, TypeError, AttributeError) as error:
        return Check(f"envelope {path.name}", False, f"not a signed statement of `glm attest sign`: {error!r}")
    if signed != statements.get(name):
        return Check(f"envelope {path.name}", False, f"signed was another statement of {name} than the one that lies here")
    return Check(f"envelope {path.name}", True, f"signed for {name} at commit {str(build.get('gitCommit'))[:12]}")


def _check_documents(root: Path, consumption: Consumption, documents: Sequence[Path]) -> Iterator[Check]:
    """Every cell of the documents, asked again."""
    attest = _read(root / "data/attest/manifest.json")["params"]
    checkpoint = _read(root / "data/attest/statement.json")["predicate"]["checkpoints"][-1]["name"]
    answers = Answers(consumption, checkpoint, attest)
    for path in documents:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            yield Check(path.name, False, str(error))
            continue
        try:
            moved = moved_cells(text, answers)
        except LedgerError as error:
            yield Check(path.name, False, str(error))
            continue
        for cell in moved:
            yield Check(path.name, False, str(cell))
        if not moved:
            yield Check(path.name, True, f"{cells(text)} cells, each as its query answers")


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except FileNotFoundError as error:
        raise LedgerError(f"{path}: no such file. Remedy: `dvc repro attest`") from error
    except ValueError as error:
        raise LedgerError(f"{path}: not JSON: {error}. Remedy: `dvc checkout data/attest`") from error

"""The stage itself: parameters, and which module writes which file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ledger import LedgerError
from ledger.export.answers import Answers, cells, fill
from stages._manifest import canonical, write_atomic
from stages._runner import StageError, StageIO
from stages.attest import croissant, cyclonedx, openlineage
from stages.attest.evidence import Evidence, Params, gather
from stages.attest.statement import build_statement, checkpoint_statement

__all__ = ["Params", "run"]

ASKED = ("model-card.md", "training-summary.md")
"""The documents whose cells are queries; their templates lie beside this module."""


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Gather the evidence once and write it in every format."""
    evidence = gather(io)
    documents = {
        "statement.json": canonical(build_statement(params, evidence)),
        "ai-bom.cdx.json": canonical(cyclonedx.bom(params, evidence)),
        "openlineage.ndjson": "".join(openlineage.lines(params, evidence)),
    }
    for item in evidence.checkpoints:
        documents[f"statements/{item.name}.json"] = canonical(checkpoint_statement(params, evidence, item))
    for name, described in croissant.datasets(params, evidence).items():
        documents[f"croissant/{name}.json"] = canonical(described)
    asked = _asked(params, evidence)
    for name, text in (documents | asked).items():
        (io.output / name).parent.mkdir(exist_ok=True)
        write_atomic(io.output / name, text)
    return {
        "checkpoints": len(evidence.checkpoints),
        "exports": len(evidence.exports),
        "documents": evidence.training.documents,
        "merkle_root": evidence.training.root,
        "sources": len(evidence.sources),
        "packages": len(evidence.packages),
        "cells": {name: cells(text) for name, text in asked.items()},
    }


def _asked(params: Params, evidence: Evidence) -> dict[str, str]:
    """The documents whose cells are queries."""
    try:
        answers = Answers(evidence.consumption, evidence.model.name, asdict(params))
        return {name: fill(Path(__file__).with_name(name).read_text(encoding="utf-8"), answers) for name in ASKED}
    except LedgerError as error:
        raise StageError(str(error)) from error

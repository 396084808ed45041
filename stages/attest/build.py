"""The stage itself: parameters, and which module writes which file."""

from __future__ import annotations

from typing import Any

from stages._manifest import canonical, write_atomic
from stages._runner import StageIO
from stages.attest import card, croissant, cyclonedx, openlineage, statement
from stages.attest.evidence import Params, gather

__all__ = ["Params", "run"]


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Gather the evidence once and write it in every format."""
    evidence = gather(io)
    documents = {
        "statement.json": canonical(statement.statement(params, evidence)),
        "ai-bom.cdx.json": canonical(cyclonedx.bom(params, evidence)),
        "croissant.json": canonical(croissant.dataset(params, evidence)),
        "openlineage.ndjson": "".join(openlineage.lines(params, evidence)),
        "model-card.md": card.model_card(params, evidence),
    }
    for name, text in documents.items():
        write_atomic(io.output / name, text)
    return {
        "checkpoints": len(evidence.checkpoints),
        "exports": len(evidence.exports),
        "documents": evidence.documents,
        "merkle_root": evidence.merkle_root,
        "sources": len(evidence.sources),
    }

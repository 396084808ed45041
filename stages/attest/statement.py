"""The in-toto Statements (v1): which data, order and journal stand behind which weights. Signing them is a step of its own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ledger.proof.consumption import ORDER
from stages.attest.evidence import Checkpoint, Evidence, Export, Params, SetRoot

_TREE = "RFC 6962 section 2.1, SHA-256"
_SET = "sorted set of the SHA-256 of each {} document's bytes as fetched (raw_sha256)"
_IDS = "sorted set of the SHA-256 of each train document's id in UTF-8"


def build_statement(params: Params, evidence: Evidence) -> dict[str, Any]:
    """The statement about a whole build; its subjects are the weights of every checkpoint and of every export."""
    predicate = _predicate(params, evidence) | {
        "checkpoints": [_checkpoint(item) for item in evidence.checkpoints],
        "exports": _exports(evidence.exports),
    }
    return _statement(params, "training-lineage", [*evidence.checkpoints, *evidence.exports], predicate)


def checkpoint_statement(params: Params, evidence: Evidence, checkpoint: Checkpoint) -> dict[str, Any]:
    """The statement about one checkpoint and the exports made from it: what it consumed, and in which order."""
    exports = tuple(item for item in evidence.exports if item.parent is checkpoint)
    consumed = evidence.consumed[checkpoint.name]
    predicate = _predicate(params, evidence) | {
        "checkpoint": _checkpoint(checkpoint),
        "exports": _exports(exports),
        "consumed": {
            "documents": _root(consumed.documents, _SET.format("consumed")),
            "order": {"size": consumed.steps, "merkleRoot": consumed.order, "leaves": ORDER, "tree": _TREE},
        },
    }
    return _statement(params, "checkpoint-lineage", [checkpoint, *exports], predicate)


def _statement(params: Params, kind: str, weights: list[Checkpoint | Export], predicate: dict[str, Any]) -> dict[str, Any]:
    """A statement; subjects are named by their paths in the project."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": item.path, "digest": {"sha256": item.sha256}} for item in weights],
        "predicateType": f"{params.namespace}/{kind}/v1",
        "predicate": predicate,
    }


def _predicate(params: Params, evidence: Evidence) -> dict[str, Any]:
    """What holds for all checkpoints of a build."""
    return {
        "model": {"name": params.name, "version": params.version, "creator": params.creator},
        "timestamp": params.timestamp,
        "documents": _root(evidence.training, _SET.format("train")),
        "documentIds": _root(evidence.ids, _IDS),
        "manifests": evidence.digests,
        "plan": {**asdict(evidence.plan), "digest": evidence.plan.digest},
        "journal": {"head": evidence.head, "segments": len(evidence.segments)},
    }


def _root(documents: SetRoot, leaves: str) -> dict[str, Any]:
    found = {"count": documents.documents, "size": documents.size, "merkleRoot": documents.root}
    return {**found, "leaves": leaves, "tree": _TREE}


def _checkpoint(item: Checkpoint) -> dict[str, Any]:
    return {"name": item.name, **item.segment.checkpoint_manifest(), "parameters": item.parameters}


def _exports(exports: tuple[Export, ...]) -> list[dict[str, Any]]:
    return [{"scheme": item.scheme, "weights_sha256": item.sha256, "parent_sha256": item.parent.sha256} for item in exports]

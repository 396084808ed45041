"""The in-toto Statement (v1): which data, order and journal stand behind which weights. Signing it is a step of its own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from stages.attest.evidence import Checkpoint, Evidence, Export, Params


def statement(params: Params, evidence: Evidence) -> dict[str, Any]:
    """The statement; its subjects are the weights of every checkpoint and of every export, named by their paths."""
    weights: list[Checkpoint | Export] = [*evidence.checkpoints, *evidence.exports]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": item.path, "digest": {"sha256": item.sha256}} for item in weights],
        "predicateType": f"{params.namespace}/training-lineage/v1",
        "predicate": {
            "model": {"name": params.name, "version": params.version, "creator": params.creator},
            "timestamp": params.timestamp,
            "documents": {
                "count": evidence.documents,
                "merkleRoot": evidence.merkle_root,
                "leaves": "sorted set of the SHA-256 of each train document's bytes as fetched (raw_sha256)",
                "tree": "RFC 6962 section 2.1, SHA-256",
            },
            "manifests": evidence.digests,
            "plan": {**asdict(evidence.plan), "digest": evidence.plan.digest},
            "journal": {"head": evidence.head, "segments": len(evidence.segments)},
            "checkpoints": [
                {"name": item.name, **item.segment.checkpoint_manifest(), "parameters": item.parameters}
                for item in evidence.checkpoints
            ],
            "exports": [
                {"scheme": item.scheme, "weights_sha256": item.sha256, "parent_sha256": item.parent.sha256}
                for item in evidence.exports
            ],
        },
    }

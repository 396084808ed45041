"""Section "Provenance": the digests by which anybody can tell whether they hold the same artifacts."""

from __future__ import annotations

from typing import Any

from stages._runner import StageError
from stages.report.facts import Facts, at

_STATEMENT = "data/attest/statement.json"


def section(facts: Facts) -> dict[str, Any]:
    """What the template needs; the statement has to be about the manifests that lie here.

    Raises:
        StageError: the statement is incomplete, or names another version of a stage.
    """
    statement = facts.json(_STATEMENT)
    predicate = at(statement, _STATEMENT, "predicate")
    for stage, digest in at(predicate, _STATEMENT, "manifests").items():
        if facts.digests.get(stage) != digest:
            raise StageError(
                f"the statement is about another {stage} than the one that lies here",
                file=_STATEMENT,
                remedy="run `dvc repro attest`",
            )
    stages = [
        {
            "stage": stage,
            "digest": facts.digests[stage],
            "files": len(facts.of(stage, "files")),
            "bytes": sum(entry["bytes"] for entry in facts.of(stage, "files").values()),
        }
        for stage in facts.manifests
    ]
    return {
        "stages": stages,
        "type": at(statement, _STATEMENT, "_type"),
        "predicate_type": at(statement, _STATEMENT, "predicateType"),
        "subjects": [
            (at(entry, _STATEMENT, "name"), at(entry, _STATEMENT, "digest", "sha256"))
            for entry in at(statement, _STATEMENT, "subject")
        ],
        "documents": {key: at(predicate, _STATEMENT, "documents", key) for key in ("count", "merkleRoot", "leaves", "tree")},
        "model": {key: at(predicate, _STATEMENT, "model", key) for key in ("name", "version")},
        "journal": {key: at(predicate, _STATEMENT, "journal", key) for key in ("head", "segments")},
        "plan": at(predicate, _STATEMENT, "plan", "digest"),
        "attested": facts.of("attest", "files"),
    }

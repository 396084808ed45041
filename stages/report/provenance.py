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
        "subjects": [(entry["name"], entry["digest"]["sha256"]) for entry in at(statement, _STATEMENT, "subject")],
        "documents": at(predicate, _STATEMENT, "documents"),
        "model": at(predicate, _STATEMENT, "model"),
        "journal": at(predicate, _STATEMENT, "journal"),
        "plan": at(predicate, _STATEMENT, "plan", "digest"),
        "attested": facts.of("attest", "files"),
    }

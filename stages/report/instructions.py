"""Part of section "Objective": the data sets of the instruction mix, with what was taken, cut and left out of each."""

from __future__ import annotations

from typing import Any

from stages.report.facts import Facts, at

REGISTRY = "data/instruct/registry.json"
_SHOWN = ("name", "task", "lang", "licences", "available", "samples", "texts_cut", "targets_cut", "overlapping")


def section(facts: Facts) -> dict[str, Any]:
    """Rows of the table, and what evaluation sets the mix overlaps with on purpose.

    Raises:
        StageError: the register is absent, or an entry lacks a field.
    """
    entries = facts.json(REGISTRY)
    rows = [{name: at(entry, REGISTRY, name) for name in _SHOWN} | {"from": _origin(entry)} for entry in entries]
    return {
        "datasets": rows,
        "samples": sum(row["samples"] for row in rows),
        "allowed": facts.of("instruct", "params", "allowed_overlaps"),
    }


def _origin(entry: dict[str, Any]) -> str:
    """Where a data set's rows come from, in words."""
    package = at(entry, REGISTRY, "package")
    if package:
        return f"{package['name']} {package['version']}"
    return ", ".join(at(entry, REGISTRY, "sources")) or ", ".join(at(entry, REGISTRY, "files"))

"""Part of section "Corpus": what each rule of cleaning matched, and what it dropped, changed and only just kept."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from stages.report.facts import Facts

_COLUMNS = ("rule", "lang", "outcome", "doc_id", "value", "limit", "detail", "excerpt")


@dataclass(frozen=True)
class Sample:
    """A document, or a line of one, on the page; `note` says how far it was from the limit, or what was there before."""

    doc_id: str
    note: str
    excerpt: str


@dataclass
class Decision:
    """What one rule did in one language.

    Attributes:
        matched: documents that failed the rule; of what changes text, lines or places.
        dropped: documents of which it is the first reason; None where the rule drops nothing.
        samples: by outcome: `dropped`, `changed` or `kept`.
    """

    rule: str
    lang: str
    matched: int
    dropped: int | None
    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))


def decisions(facts: Facts) -> list[Decision]:
    """Every rule and language that matched something or came near it, in alphabetical order."""
    matched, drops = facts.count("clean", "matched"), facts.count("clean", "drops")
    found: dict[tuple[str, str], Decision] = {}

    def decision(rule: str, lang: str) -> Decision:
        changes = rule in ("repair", "boilerplate") or rule.startswith("mask_")
        dropped = None if changes else drops.get(rule, {}).get(lang, 0)
        entry = Decision(rule.replace("_", " "), lang, matched.get(rule, {}).get(lang, 0), dropped)
        return found.setdefault((rule, lang), entry)

    for rule, langs in matched.items():
        for lang in langs:
            decision(rule, lang)
    for row in facts.table("data/clean/samples.parquet", _COLUMNS).to_pylist():
        entry = decision(row["rule"], row["lang"])
        entry.samples[row["outcome"]].append(Sample(row["doc_id"], _note(row), row["excerpt"]))
    return [found[key] for key in sorted(found)]


def _note(row: dict[str, Any]) -> str:
    if row["rule"] == "repair":
        return f"was: {row['detail']}"
    if row["rule"] == "boilerplate":
        return f"in {row['value']:,.0f} documents"
    if row["outcome"] == "kept":
        return f"{row['value']:.4g}; limit {row['limit']:.4g}"
    return str(row["detail"])

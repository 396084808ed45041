"""Samples for a person to judge the rules by: what each dropped, and what it only just kept, by hash and not by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

SCHEMA = pa.schema(
    [
        pa.field("rule", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),  # dropped, kept or changed
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("limit", pa.float64()),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("excerpt", pa.string(), nullable=False),
        pa.field("distance", pa.float64(), nullable=False),  # from the limit, relative to it; 0: by hash alone
    ]
)
DROPPED, KEPT, CHANGED = "dropped", "kept", "changed"
NEAR = 0.2  # a document is "only just kept" within this distance of the limit
_EXCERPT = 240


def order(doc_id: str) -> bytes:
    """Samples are taken in the order of this hash: nobody picked them."""
    return hashlib.sha256(doc_id.encode()).digest()


@dataclass
class Samples:
    """At most `size` rows for each (rule, language, outcome): those with the smallest (distance, hash of the document)."""

    size: int
    rows: dict[tuple[str, str, str], list[tuple[float, bytes, dict[str, Any]]]] = field(default_factory=dict)

    def wants(self, rule: str, lang: str, outcome: str, doc_id: str, distance: float = 0.0) -> bool:
        """Whether such a row would be taken, so that its excerpt is worth making."""
        best = self.rows.get((rule, lang, outcome), [])
        if len(best) >= self.size and (not best or (distance, order(doc_id)) >= best[-1][:2]):
            return False
        return all(row["doc_id"] != doc_id for _, _, row in best)

    def farthest(self, rule: str, lang: str, outcome: str) -> float:
        """The largest distance that may still be taken."""
        best = self.rows.get((rule, lang, outcome), [])
        return float("inf") if len(best) < self.size else best[-1][0] if best else -1.0

    def add(
        self,
        rule: str,
        lang: str,
        outcome: str,
        doc_id: str,
        excerpt: str,
        detail: str = "",
        value: float | None = None,
        limit: float | None = None,
        distance: float = 0.0,
    ) -> None:
        """Take the row if it is among the first."""
        if not self.wants(rule, lang, outcome, doc_id, distance):
            return
        row = {"rule": rule, "lang": lang, "outcome": outcome, "doc_id": doc_id, "value": value, "limit": limit}
        row |= {
            "detail": detail,
            "excerpt": excerpt if len(excerpt) <= _EXCERPT + 2 else f"{excerpt[:_EXCERPT].rstrip()} …",
            "distance": distance,
        }
        best = self.rows.setdefault((rule, lang, outcome), [])
        best.append((distance, order(doc_id), row))
        best.sort(key=lambda entry: entry[:2])
        del best[self.size :]

    def extend(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take rows of another sample, as `table` gives them."""
        for row in rows:
            self.add(**row)

    def table(self) -> list[dict[str, Any]]:
        """All rows, by rule, language and outcome."""
        return [row for key in sorted(self.rows) for _, _, row in self.rows[key]]

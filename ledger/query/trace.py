"""What became of documents, whether or not they are trained on: the tables of every stage between raw text and token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ledger import tombstones


@dataclass(frozen=True)
class Fate:
    """What became of a document.

    Attributes:
        doc_id: its name.
        outcome: `trained on`, `held out`, `duplicate`, `dropped`, `emptied`, `contaminated`, `taken down` or `unknown`.
        detail: one sentence more; empty where the outcome says all.
        survivor: of a duplicate, the document that stayed in its place.
        doc_index: of one that is trained on, its number.
    """

    doc_id: str
    outcome: str
    detail: str = ""
    survivor: str | None = None
    doc_index: int | None = None

    def __str__(self) -> str:
        return f"{self.outcome}: {self.detail}" if self.detail else self.outcome


def fates(root: Path, doc_ids: Sequence[str]) -> dict[str, Fate]:
    """What became of each document, by name; every table is read once."""
    wanted = list(dict.fromkeys(doc_ids))
    found: dict[str, Fate] = {}

    def settle(table: str, columns: list[str], fate: Any) -> None:
        left = [doc_id for doc_id in wanted if doc_id not in found]
        for row in _rows(root / table, ["doc_id", *columns], left):
            found.setdefault(row["doc_id"], fate(row))

    def trained(row: dict[str, Any]) -> Fate:
        return Fate(row["doc_id"], "trained on", doc_index=row["doc_index"])

    settle("data/encode/train.documents.parquet", ["doc_index"], trained)
    settle("data/instruct/documents.parquet", ["doc_index"], trained)
    settle("data/encode/heldout.documents.parquet", [], lambda row: Fate(row["doc_id"], "held out"))
    settle("data/dedup/clusters.parquet", ["cluster", "survivor", "kind", "jaccard"], _copy)
    found = {doc_id: fate for doc_id, fate in found.items() if fate.outcome}  # a survivor that a later stage left out
    settle("data/clean/drops.parquet", ["reason", "detail"], _dropped)
    settle("data/dedup/passages.parquet", ["emptied"], _emptied)
    found = {doc_id: fate for doc_id, fate in found.items() if fate.outcome}
    file = root / tombstones.FILE
    for entry in tombstones.read(file).entries if file.is_file() else ():
        for document in entry.documents:
            if document.doc_id in wanted:
                found.setdefault(document.doc_id, Fate(document.doc_id, "taken down", f"as asked for on {entry.date}"))
    settle("data/decontaminate/hits.parquet", ["evaluation", "action"], _contaminated)
    return {doc_id: found.get(doc_id, Fate(doc_id, "unknown")) for doc_id in wanted}


def _copy(row: dict[str, Any]) -> Fate:
    if row["survivor"]:
        return Fate(row["doc_id"], "")
    detail = f"{row['kind']} duplicate of {row['cluster']!r} (Jaccard {row['jaccard']:.2f})"
    return Fate(row["doc_id"], "duplicate", detail, survivor=row["cluster"])


def _dropped(row: dict[str, Any]) -> Fate:
    return Fate(row["doc_id"], "dropped", f"by the clean stage: {row['reason']} ({row['detail']})")


def _emptied(row: dict[str, Any]) -> Fate:
    return Fate(row["doc_id"], "emptied" if row["emptied"] else "", "every passage of it stands in an earlier document")


def _contaminated(row: dict[str, Any]) -> Fate:
    return Fate(row["doc_id"], "contaminated", f"overlaps with evaluation {row['evaluation']!r}: {row['action']}")


def _rows(file: Path, columns: list[str], doc_ids: list[str]) -> list[dict[str, Any]]:
    """Rows about documents; none where the stage left no such table."""
    if not doc_ids or not file.is_file():
        return []
    import pyarrow.parquet as pq

    table = pq.read_table(file, columns=columns, filters=pc.field("doc_id").isin(pa.array(doc_ids)))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows

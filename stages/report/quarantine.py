"""Part of section "Corpus": what the corpus stage could not use, by source and reason, with the first records of each."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from stages._documents import read_batches
from stages._runner import StageError
from stages.report.facts import Facts

TABLE = "data/corpus/quarantine.parquet"
_COLUMNS = ["source", "file", "record", "reason", "detail", "bytes"]
_SHOWN = 3  # records of each source and reason


def section(facts: Facts) -> dict[str, Any]:
    """Counts by source and reason, the most first, and the first records of each; the table is read batch by batch.

    Raises:
        StageError: the table is absent, or holds another number of records than the manifest says.
    """
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    first: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for batch in read_batches(facts.io.input(TABLE), _COLUMNS):
        grouped = batch.select(["source", "reason", "bytes"])
        for source, reason, size in zip(*(column.to_pylist() for column in grouped.columns), strict=True):
            counts[source, reason].update(records=1, bytes=size)
        if any(len(first[key]) < _SHOWN for key in counts):
            for row in batch.to_pylist():
                shown = first[row["source"], row["reason"]]
                if len(shown) < _SHOWN:
                    shown.append(row)
    total = sum(entry["records"] for entry in counts.values())
    if total != (said := facts.count("corpus", "quarantined")):
        raise StageError(f"{total:,} records; the manifest says {said:,}", file=TABLE, remedy="run `dvc checkout data/corpus`")
    order = sorted(counts, key=lambda key: (-counts[key]["records"], key))
    groups = [{"source": key[0], "reason": key[1], **counts[key], "first": first[key]} for key in order]
    return {"total": total, "groups": groups}

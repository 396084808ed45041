"""Answers as rows and files: sightings as tables, long answers written a batch at a time."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from ledger import LedgerError
from ledger.query.ledger import DOCUMENTS, Found, Ledger, Seen
from ledger.query.match import Request

SIGHTINGS = pa.schema(
    [("checkpoint", pa.string()), ("status", pa.string())]
    + [(name, pa.int64()) for name in ("exposures", "tokens", "first_step", "last_step")]
    + [("steps", pa.list_(pa.int64()))]
)
_FACTS = ("doc_id", "matched_by", "share", "fate", "stayed")
FOUND = pa.schema([*(pa.field(name, pa.float64() if name == "share" else pa.string()) for name in _FACTS), *SIGHTINGS])


def sighting_rows(seen: Seen) -> list[dict[str, Any]]:
    """One row for each checkpoint, and for each branch that left none."""
    return [
        {
            "checkpoint": sighting.checkpoint or f"(none, segment {sighting.segment})",
            "status": sighting.status,
            "exposures": sighting.exposures,
            "tokens": sighting.tokens,
            "first_step": sighting.first_step,
            "last_step": sighting.last_step,
            "steps": list(sighting.steps),
        }
        for sighting in seen.sightings
    ]


def found_rows(ledger: Ledger, kind: str, value: str) -> tuple[pa.Table, str]:
    """The documents that an address, a domain or a text means, and a line that says how many.

    A document that nobody was to see has one row, with what became of it.

    Raises:
        LedgerError: no document of the corpus; the message says what was compared.
    """
    found = ledger.find(Request(kind, value))  # type: ignore[arg-type]
    if not found:
        raise LedgerError(
            f"{_asked(kind, value)}: in no document of the corpus and in no labelled row, whatever became of them. Compared: "
            + ("the SHA-256 of the bytes, then all letters and digits" if kind == "text" else "the addresses of all documents")
        )
    table = pa.Table.from_pylist([row for one in found for row in _rows(one)], schema=FOUND)
    return table, f"{_asked(kind, value)}: {len(found):,} documents"


def write_batches(batches: Iterator[pa.RecordBatch], format: str, output: Path | None, limit: int) -> int:
    """Write documents as `parquet`, `csv`, `json` (an object a line) or `table` (separated by tabs); gives the rows written.

    Args:
        batches: with the schema `ledger.query.ledger.DOCUMENTS`.
        format: see above.
        output: file; standard output, where it is None.
        limit: rows at most, 0 for all.
    """
    rows, begun = 0, list(itertools.islice(batches, 1))  # an error stands alone: no heading above an answer that there is not
    with ExitStack() as stack:
        stream: BinaryIO = sys.stdout.buffer if output is None else stack.enter_context(output.open("wb"))
        writer = _writer(format, stream, stack)
        for batch in itertools.chain(begun, batches):
            shown = batch.slice(0, limit - rows) if limit else batch
            writer(shown)
            rows += shown.num_rows
            if limit and rows >= limit:
                break
        stream.flush()
    return rows


def _rows(found: Found) -> Iterator[dict[str, Any]]:
    match, stayed = found.match, found.stayed
    facts: dict[str, Any] = {"doc_id": match.doc_id, "matched_by": match.how, "share": match.share, "fate": str(found.fate)}
    if found.fate.survivor is not None:
        facts["stayed"] = stayed.doc_id if found.seen else f"{stayed.doc_id} ({stayed.outcome})"
    if found.seen is None:
        yield facts
        return
    for row in sighting_rows(found.seen):
        yield facts | row


def _asked(kind: str, value: str) -> str:
    return f"text of {len(value):,} characters" if kind == "text" else f"{kind} {value!r}"


def _writer(format: str, stream: BinaryIO, stack: ExitStack) -> Any:
    if format == "parquet":
        import pyarrow.parquet as pq

        return stack.enter_context(pq.ParquetWriter(stream, DOCUMENTS, compression="zstd")).write_batch
    if format == "json":
        return lambda batch: stream.write(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist()).encode()
        )
    from pyarrow import csv

    options = csv.WriteOptions(delimiter="," if format == "csv" else "\t")
    return stack.enter_context(csv.CSVWriter(stream, DOCUMENTS, write_options=options)).write_batch

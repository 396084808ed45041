"""Corpora and evaluation sets with planted overlaps, and the decontaminate stage over them."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages import _documents, decontaminate, dedup
from stages.decontaminate import EvaluationSet
from stages.decontaminate.split import split
from tests.support.cleaning_project import run, write_documents


def words(seed: int, count: int = 60) -> str:
    generator = random.Random(seed)
    return " ".join("".join(generator.choices("abcdefghij", k=6)) for _ in range(count))


def write_dedup(root: Path, rows, members=()) -> None:
    write_documents(root / "data/dedup", rows)
    _documents.write_table(root / "data/dedup/clusters.parquet", dedup.CLUSTERS, members)


def write_items(path: Path, items: list[dict], **fields) -> EvaluationSet:
    lines = "".join(json.dumps(item) + "\n" for item in items)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return EvaluationSet(path.name.partition(".")[0], (str(path),), **fields)


def side(root: Path, name: str) -> list[str]:
    return [row["doc_id"] for row in _documents.read_documents(root / "data/decontaminate" / name)]


def hit_rows(root: Path) -> list[dict]:
    return pq.read_table(root / "data/decontaminate/hits.parquet").to_pylist()


def clean_up(root: Path, **changes) -> dict:
    """The stage without a held-out part, so that evaluation sets alone decide."""
    return run(decontaminate, root, **{"heldout_share": 0.0, **changes})


def entries(*rows: tuple[str, str, int, str]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(("doc_id", "source", "bytes", "group"), row, strict=True)) for row in rows])


def many(source: str = "s", count: int = 400, size: int = 100) -> list[tuple[str, str, int, str]]:
    return [(f"{source}/{n}", source, size, f"{source}/{n}") for n in range(count)]


def chosen(rows, share: float, seed: int) -> set[str]:
    table = entries(*rows)
    return set(table.filter(pa.array(split(table, share, seed)))["doc_id"].to_pylist())

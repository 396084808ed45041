"""A small project on disk for the stages from corpus to decontaminate: real stage code, small tables, no process of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from stages import _documents
from stages._params import load_section
from stages._runner import StageIO

REPOSITORY = Path(__file__).parents[2]
STAGES = ("clean", "dedup", "decontaminate")


def document(doc_id: str, text: str, lang: str = "en", **fields: Any) -> dict[str, Any]:
    source, path = doc_id.split("/", 1)
    row = {"doc_id": doc_id, "source": source, "path": path, "licence": "CC0-1.0", "lang": lang, "text": text}
    row |= {"title": None, "author": None, "date": None, "raw_sha256": hashlib.sha256(text.encode()).hexdigest()}
    return row | fields


def write_documents(folder: Path, rows: list[dict[str, Any]]) -> None:
    for source in sorted({row["source"] for row in rows}):
        chosen = [row for row in rows if row["source"] == source]
        _documents.write_shard(folder / "documents" / f"{source}-00000.parquet", chosen)


def write_corpus(root: Path, rows: list[dict[str, Any]]) -> None:
    folder = root / "data/corpus"
    write_documents(folder, rows)
    register = [{"id": source, "licence": "CC0-1.0"} for source in sorted({row["source"] for row in rows})]
    (folder / "sources.json").write_text(json.dumps(register), encoding="utf-8")


def params(module: ModuleType, **changes: Any) -> Any:
    """The laptop profile's section of a stage, with changes."""
    section = load_section(module.Params, REPOSITORY / "params.yaml", module.__name__.rpartition(".")[2])
    return dataclasses.replace(section, **changes)


def run(module: ModuleType, root: Path, **changes: Any) -> dict[str, Any]:
    """Run a stage in this process, move its output into place and return its counts."""
    stage = module.__name__.rpartition(".")[2]
    deps = [f"data/{name}" for name in ("corpus", *STAGES) if name != stage] + ["takedowns.jsonl"]
    (root / "takedowns.jsonl").touch()
    io = StageIO(stage, root, deps, f"data/{stage}")
    io.output.mkdir(parents=True)
    io.runs.mkdir(parents=True, exist_ok=True)
    counts: dict[str, Any] = module.run(params(module, **changes), io)
    io.collect()
    io.forget()
    io.output.rename(root / "data" / stage)
    return counts

"""A small project with everything that the gate reads: made text, and the real stages from decontaminate to pack."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages import decontaminate, encode, instruct, pack, tokenizer
from stages._documents import write_table
from stages._manifest import canonical, write_atomic
from stages._params import load_section, to_plain
from stages._runner import StageIO
from stages.instruct.build import Dataset
from tests.support.text import documents, write_documents

REPOSITORY = Path(__file__).parents[2]
CLUSTERS = pa.schema(
    [
        ("doc_id", pa.string()), ("cluster", pa.string()), ("survivor", pa.bool_()), ("kind", pa.string()),
        ("jaccard", pa.float64()), ("group", pa.string()),
    ]
)  # fmt: skip
DROPS = pa.schema([(name, pa.string()) for name in ("doc_id", "source", "lang", "reason", "detail")])
DEPENDENCIES = ("corpus", "clean", "dedup", "decontaminate", "tokenizer", "encode", "instruct", "pack")
Rows = list[dict[str, Any]]


def section(stage: ModuleType, **changes: Any) -> Any:
    """The laptop profile's section of a stage, with changes."""
    return dataclasses.replace(_section(stage), **changes)


@cache
def _section(stage: ModuleType) -> Any:
    return load_section(stage.Params, REPOSITORY / "params.yaml", stage.__name__.rpartition(".")[2])


def stage_io(root: Path, stage: str) -> StageIO:
    deps = [f"data/{name}" for name in DEPENDENCIES if name != stage]
    return StageIO(stage, root, [*deps, "takedowns.jsonl"], f"data/{stage}")


def run_stage(root: Path, stage: ModuleType, **changes: Any) -> None:
    """Run a stage in this process and move its output into place, with the part of the manifest that others read."""
    name = stage.__name__.rpartition(".")[2]
    params, io = section(stage, **changes), stage_io(root, name)
    io.output.mkdir(parents=True)
    stage.run(params, io)
    io.collect()
    io.forget()
    write_atomic(io.output / "manifest.json", canonical({"params": to_plain(params)}))
    io.output.rename(root / "data" / name)


def gate_project(root: Path) -> Path:
    """Lay the project out: a document that clean drops, one that is a duplicate, two masking epochs of a few dozen samples."""
    (root / "takedowns.jsonl").parent.mkdir(parents=True, exist_ok=True)
    (root / "takedowns.jsonl").touch()
    rows = documents("en", 1, 24, 1500, "tales") + documents("zh", 1, 24, 1200, "poems")
    for number, row in enumerate(rows):
        row |= {"title": f"第{number}首", "author": "无名氏"}
    short = {**rows[30], "doc_id": "poems/short", "path": "short", "text": "短。"}
    copy = {**rows[30], "doc_id": "poems/copy", "path": "copy"}
    write_documents(root / "data/corpus", [*rows, short, copy])
    register = [{"id": source, "licence": "CC0-1.0"} for source in ("poems", "tales")]
    (root / "data/corpus/sources.json").write_text(json.dumps(register), encoding="utf-8")
    write_documents(root / "data/clean", [*rows, copy])
    drop = {"doc_id": "poems/short", "source": "poems", "lang": "zh", "reason": "too short", "detail": "1"}
    write_table(root / "data/clean/drops.parquet", DROPS, [drop])
    write_documents(root / "data/dedup", rows)
    kept = rows[30]["doc_id"]
    cluster = {"cluster": kept, "kind": "exact", "jaccard": 1.0, "group": kept}
    members = [{**cluster, "doc_id": kept, "survivor": True}, {**cluster, "doc_id": "poems/copy", "survivor": False}]
    write_table(root / "data/dedup/clusters.parquet", CLUSTERS, members)
    run_stage(root, decontaminate, heldout_share=0.15, max_documents=1, may_match_nothing=("heldout",))
    run_stage(root, tokenizer, vocab_size=800, seed_pieces=8000, character_coverage=0.98, threads=1)
    run_stage(root, encode)
    dataset = Dataset("zh-poem-title", "title", "zh", ("poems",), None)
    run_stage(root, instruct, block_length=64, datasets=(dataset,))
    lengths = {"sequence_length": 128, "blocks": 2, "gmask_row": 126, "mask_row": 104, "short_minimum": 8, "span_max": 8}
    run_stage(root, pack, **lengths, instruction_share=0.1, shard_samples=100)
    return root


# --- tampering -------------------------------------------------------------------------------------------------------------


def edit(file: Path, change: Callable[[Rows], Rows]) -> None:
    """Rewrite a Parquet file through a function of its rows."""
    table = pq.read_table(file)
    schema = pa.schema([field.with_nullable(True) for field in table.schema])
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=schema), file)


def put(file: Path, row: int, column: str, value: Any) -> None:
    """Set one field of a Parquet file."""

    def change(rows: Rows) -> Rows:
        rows[row][column] = value(rows[row][column]) if callable(value) else value
        return rows

    edit(file, change)


def edit_arrow(file: Path, column: str, change: Callable[[Any], None]) -> None:
    """Rewrite a column of an Arrow file through a function that changes its array, [rows] or [rows, n], in place."""
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_file(source).read_all().combine_chunks()
        kind = table.schema.field(column).type
        fixed = pa.types.is_fixed_size_list(kind)
        old = table[column].chunk(0)
        values = (old.flatten() if fixed else old).to_numpy().copy()
        shaped = values.reshape(len(table), -1) if fixed else values
        change(shaped)
        new = pa.array(shaped.ravel())
        new = pa.FixedSizeListArray.from_arrays(new, kind.list_size) if fixed else new
        names = [field.name for field in table.schema]
        table = table.set_column(names.index(column), table.schema.field(column), new)
    file.unlink()
    with pa.ipc.new_file(str(file), table.schema) as writer:
        writer.write_table(table)


def packed_column(file: Path, column: str) -> Any:
    """A column of a shard of samples, [rows, n]."""
    with pa.memory_map(str(file)) as source:
        array = pa.ipc.open_file(source).read_all().combine_chunks()[column].chunk(0)
        fixed = pa.types.is_fixed_size_list(array.type)
        return (array.flatten() if fixed else array).to_numpy().reshape(len(array), -1).copy()

"""Suite "contracts": the columns that each table must have (docs/data.md), written down apart from those who write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages import _documents
from stages._runner import StageIO
from stages.validate.expect import Suite, Table, in_set

_STRINGS = {name: pa.string() for name in ("doc_id", "source", "lang", "licence")}
_DROPS = {name: pa.string() for name in ("doc_id", "source", "lang", "reason", "detail")}
_CLUSTERS = {
    "doc_id": pa.string(),
    "cluster": pa.string(),
    "survivor": pa.bool_(),
    "kind": pa.string(),
    "jaccard": pa.float64(),
    "group": pa.string(),
}
_HITS = {name: pa.string() for name in ("doc_id", "evaluation", "item", "ngram", "action", "method")} | {"start": pa.int64()}
_PLACES = {"shard": pa.int32(), "offset": pa.int64(), "length": pa.int32(), "bytes": pa.int64()}
_INSTRUCTIONS = {
    **{name: pa.string() for name in ("sample_id", "dataset", "licence", "lang", "template", "doc_id", "prompt", "target")},
    "doc_index": pa.int64(),
    "prompt_ids": pa.list_(pa.int32()),
    "target_ids": pa.list_(pa.int32()),
}
_LABELLED = {"doc_index": pa.int64(), **_STRINGS, "length": pa.int32(), "bytes": pa.int64(), "raw_sha256": pa.string()}
_SAMPLES = dict.fromkeys(("input_ids", "block_start", "block_context", "block_last", "blank_position"))
_PIECES = {"sample": pa.int64(), "doc_index": pa.int64(), "doc_offset": pa.int32(), "length": pa.int32()}
_DOCUMENTS = {field.name: field.type for field in _documents.SCHEMA}

Contract = dict[str, pa.DataType | None]  # None: a list of int32 (of positions, uint16) of any one length
TABLES: list[tuple[str, str, Contract]] = [
    *((f"data/{stage}", "documents/*.parquet", _DOCUMENTS) for stage in ("corpus", "clean", "dedup")),
    ("data/clean", "drops.parquet", _DROPS),
    ("data/dedup", "clusters.parquet", _CLUSTERS),
    ("data/decontaminate", "*/documents/*.parquet", _DOCUMENTS),
    ("data/decontaminate", "hits.parquet", _HITS),
    ("data/decontaminate", "takedowns.parquet", dict.fromkeys(("doc_id", "raw_sha256"), pa.string())),
    ("data/encode", "*.arrow", {"token": pa.int32()}),
    ("data/encode", "*.documents.parquet", {"doc_index": pa.int64(), **_STRINGS, **_PLACES}),
    ("data/instruct", "samples.parquet", _INSTRUCTIONS),
    ("data/instruct", "documents.parquet", _LABELLED),
    ("data/pack", "samples-*.arrow", {**_SAMPLES, "kind": pa.int8(), "epoch": pa.int32()}),
    ("data/pack", "pieces-*.parquet", _PIECES),
]


def difference(file: Path, contract: Contract) -> str:
    """What a file lacks or has in another type than its contract says; empty where it keeps it."""
    try:
        schema = pq.read_schema(file) if file.suffix == ".parquet" else pa.ipc.open_file(pa.memory_map(str(file))).schema
    except pa.ArrowInvalid as error:
        return f"cannot be read: {error}"
    found = {field.name: field.type for field in schema}
    missing = [f"no {name}" for name in contract if name not in found]
    others = [f"{name} is {found[name]}" for name, kind in contract.items() if name in found and not _fits(found[name], kind)]
    return "; ".join([*missing, *others])


def _fits(found: pa.DataType, wanted: pa.DataType | None) -> bool:
    if wanted is None:
        return bool(pa.types.is_fixed_size_list(found) and found.value_type in (pa.int32(), pa.uint16()))
    return bool(found == wanted)


def suite(io: StageIO) -> Suite:
    """The suite; where it fails the others cannot be read."""

    def files() -> Iterator[pa.Table]:
        rows = [
            {"file": file.relative_to(io.root).as_posix(), "difference": difference(file, contract)}
            for dependency, pattern, contract in TABLES
            for file in sorted(io.input(dependency).glob(pattern))
        ]
        yield pa.Table.from_pylist(rows, schema=pa.schema([("file", pa.string()), ("difference", pa.string())]))

    return Suite("contracts", [Table("files", "file", files)], [in_set("files", "difference", [""])])

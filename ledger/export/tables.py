"""The tables that queries of documents ask beside the project's files: registers, journal, weights, roots, as Arrow tables."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa

from ledger import LedgerError
from ledger.journal import Segment
from ledger.lineage.weights import weights_file
from ledger.proof.consumption import Consumption
from ledger.proof.merkle import MerkleTree

_FOLLOWING = ("attest", "report")  # stages that may have run before; what they left says nothing about this build
_SOURCE = ("id", "kind", "package", "version", "file", "url", "path", "lang", "licence", "rights", "reader", "sha256")
_PACKAGE = ("id", "kind", "name", "version", "file", "licence", "rights", "sha256")


def tables(consumption: Consumption, checkpoint: str, attest: dict[str, Any]) -> dict[str, pa.Table]:
    """The tables that are no files: what a checkpoint was shown, the journal, registers, manifests, weights.

    Raises:
        LedgerError: a file is missing or damaged.
    """
    ledger, root = consumption.ledger, consumption.ledger.root
    line = [segment for segment in ledger.journal.main_line() if _weights(root, segment).is_file()]
    files = (path for path in sorted((root / "data").glob("*/manifest.json")) if path.parent.name not in _FOLLOWING)
    manifests = {path.parent.name: _json(path) for path in files}
    registry = _json(root / "data/instruct/registry.json")
    checkpoints = [_checkpoint(root, segment) for segment in line]
    model = {**attest, "checkpoint": checkpoint}
    exports = [
        {"scheme": path.parent.name, "bytes": path.stat().st_size, "parent": _json(path.with_name("config.json")).get("parent")}
        | {"sha256": manifests["quantize"]["files"][f"{path.parent.name}/{path.name}"]["sha256"]}
        for path in sorted((root / "data/quantize").glob("*/model.safetensors"))
    ]
    rows: dict[str, list[dict[str, Any]]] = {
        "model": [{"key": key, "value": _plain(value)} for key, value in model.items()],
        "sources": [_picked(row, _SOURCE, ("documents", "bytes")) for row in _json(root / "data/corpus/sources.json")],
        "packages": [_picked(row, _PACKAGE, ("samples",)) for row in labelled_packages(registry)],
        "origins": _origins(_json(root / "data/corpus/sources.json"), labelled_packages(registry)),
        "mix": [_picked(row, ("name", "lang", "task"), ("available", "samples", "overlapping")) for row in registry],
        "settings": [row for stage, manifest in manifests.items() for row in _pairs(stage, manifest["params"])],
        "counts": [row for stage, manifest in manifests.items() for row in _pairs(stage, manifest["counts"])],
        "metrics": _pairs("evaluate", _json(root / "data/evaluate/metrics.json")),
        "segments": [_segment(segment) for segment in ledger.journal.segments],
        "checkpoints": checkpoints,
        "exports": exports,
        "digests": [
            *({"what": f"weights of {row['name']}", "sha256": row["sha256"]} for row in checkpoints),
            *({"what": what, "sha256": value} for what, value in _roots(consumption, checkpoint).items()),
            *({"what": f"manifest of {stage}", "sha256": _sha256(root / f"data/{stage}/manifest.json")} for stage in manifests),
        ],
    }
    made = {name: pa.Table.from_pylist(found, schema=_schema(_COLUMNS[name])) for name, found in rows.items()}
    return made | {"shown": ledger.documents(checkpoint)}


_COLUMNS = {
    "model": "key value",
    "sources": " ".join(_SOURCE) + " documents:n bytes:n",
    "packages": " ".join(_PACKAGE) + " samples:n",
    "origins": "id origin licence rights sha256 public:b",
    "mix": "name lang task available:n samples:n overlapping:n",
    "settings": "stage key value number:f",
    "counts": "stage key value number:f",
    "metrics": "stage key value number:f",
    "segments": "segment:n parent first_step:n last_step:n first_sample:n last_sample:n skipped status checkpoint hash",
    "checkpoints": "name sha256 bytes:n parameters:n steps:n samples:n",
    "exports": "scheme bytes:n parent sha256",
    "digests": "what sha256",
}


def labelled_packages(registry: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The packages and files that the instruction mix reads beside the corpus, each once, with the samples taken from it."""
    found: dict[str, dict[str, Any]] = {}
    for data_set in registry:
        package = data_set.get("package")
        if package is None and not data_set.get("files_read"):
            continue  # made from documents of the corpus
        origin = package or {"kind": "local", "name": data_set["name"]}
        name = str(origin["name"])
        entry = found.setdefault(name, {**origin, "id": name, "licence": data_set["licence"], "samples": 0, "datasets": []})
        entry.setdefault("rights", data_set.get("rights") or "")
        entry["samples"] += data_set["samples"]
        entry["datasets"].append(data_set["name"])
        if entry.get("sha256") is None:
            entry["sha256"] = data_set["files_read"][0]["sha256"]
    return [found[name] for name in sorted(found)]


def weights_size(weights: Path) -> tuple[int, int]:
    """Parameters and bytes of a checkpoint's weights: a safetensors file, or the index of a model spread over several.

    Raises:
        LedgerError: a header cannot be read.
    """
    files = [weights]
    if weights.name.endswith(".index.json"):
        files = [weights.parent / name for name in sorted(_json(weights)["shards"])]
    return sum(map(count_parameters, files)), sum(file.stat().st_size for file in files)


def count_parameters(file: Path) -> int:
    """Numbers in a safetensors file, from its header.

    Raises:
        LedgerError: the header cannot be read.
    """
    with file.open("rb") as stream:
        try:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
            return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
        except (struct.error, ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError) as error:
            raise LedgerError(f"{file.name}: not a safetensors file: {error}") from error


def _picked(row: dict[str, Any], texts: tuple[str, ...], numbers: tuple[str, ...]) -> dict[str, Any]:
    return {name: _plain(row.get(name)) for name in texts} | {name: row.get(name) for name in numbers}


def _roots(consumption: Consumption, checkpoint: str) -> dict[str, str]:
    """The hashes that sum up a checkpoint's data."""
    ledger, segment = consumption.ledger, consumption.ledger.journal.path_to(checkpoint)[-1]
    return {
        "Merkle root of the train documents": MerkleTree.of_set(consumption.training_set()).root.hex(),
        f"Merkle root of the documents that {checkpoint} consumed": MerkleTree.of_set(
            consumption.documents(segment)
        ).root.hex(),
        f"Merkle root over the order in which {checkpoint} consumed them": consumption.tree(segment).root.hex(),
        "head of the training journal": ledger.journal.head,
        "data plan": ledger.plan.digest,
    }


def _origins(sources: list[dict[str, Any]], packages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where everything came from, corpus and labelled packages alike; files of one's own are not public."""
    rows = []
    for entry in [*sources, *packages]:
        name, version = entry.get("package") or entry.get("name"), entry.get("version")
        address = f"{entry['kind']}: {name} {version}" if version else entry.get("url") or entry.get("path") or entry["kind"]
        facts = {key: _plain(entry.get(key)) for key in ("id", "licence", "rights", "sha256")}
        rows.append({**facts, "origin": str(address), "public": entry["kind"] != "local"})
    return rows


def _plain(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _pairs(stage: str, value: dict[str, Any], prefix: str = "") -> list[dict[str, Any]]:
    """Nested values as rows of dotted keys."""
    rows = []
    for key, item in value.items():
        if isinstance(item, dict):
            rows += _pairs(stage, item, f"{prefix}{key}.")
        else:
            number = float(item) if isinstance(item, int | float) and not isinstance(item, bool) else None
            rows.append({"stage": stage, "key": f"{prefix}{key}", "value": _plain(item), "number": number})
    return rows


def _segment(segment: Segment) -> dict[str, Any]:
    skipped = ", ".join(f"{first}-{last}" if first < last else str(first) for first, last in segment.skipped)
    steps = {name: getattr(segment, name) for name in ("first_step", "last_step", "first_sample", "last_sample")}
    facts = {name: getattr(segment, name) for name in ("parent", "status", "checkpoint", "hash")}
    return {"segment": segment.index, "skipped": skipped, **steps, **facts}


def _weights(root: Path, segment: Segment) -> Path:
    return weights_file(root / f"data/pretrain/checkpoints/{segment.checkpoint}")


def _checkpoint(root: Path, segment: Segment) -> dict[str, Any]:
    parameters, size = weights_size(_weights(root, segment))
    facts = {"name": segment.checkpoint, "sha256": segment.weights_sha256, "bytes": size, "parameters": parameters}
    return facts | {"steps": segment.last_step + 1, "samples": segment.last_sample + 1}


def _schema(columns: str) -> pa.Schema:
    kinds = {"": pa.string(), "n": pa.int64(), "f": pa.float64(), "b": pa.bool_()}
    return pa.schema([(name, kinds[kind]) for name, _, kind in (column.partition(":") for column in columns.split())])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LedgerError(f"{path}: no such file. Remedy: `dvc repro` or `dvc pull`") from error
    except ValueError as error:
        raise LedgerError(f"{path}: not JSON: {error}. Remedy: run `dvc checkout`") from error

"""Everything that the attestation quotes, read once from the outputs of the stages before and checked for contradictions."""

from __future__ import annotations

import csv
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ledger import LedgerError
from ledger.journal import Segment
from ledger.merkle import MerkleTree
from ledger.plan import DataPlan
from ledger.query import Ledger
from stages._documents import document_files
from stages._manifest import MANIFEST, sha256_file
from stages._runner import StageError, StageIO

WEIGHTS = "model.safetensors"
_INDEX = ".index.json"  # behind that name, where the model was spread over processes: the SHA-256 of each shard


@dataclass(frozen=True)
class Params:
    """Section `attest`.

    Attributes:
        name: name of the model in every document.
        version: version of the model and of its data set, three numbers with dots.
        creator: who answers for both.
        namespace: URI in front of everything that the documents name, without a slash at its end.
        homepage: page of the project; null for none.
        timestamp: the time that the documents state, as UTC ending in Z. Outputs know no clock: whoever publishes sets it.
    """

    name: str
    version: str
    creator: str
    namespace: str
    timestamp: str
    homepage: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version):
            raise ValueError(f"version: {self.version!r}; expected three numbers such as 0.1.0")
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*:\S*[^/\s]", self.namespace):
            raise ValueError(f"namespace: {self.namespace!r}; expected a URI such as https://example.org/glm")
        if not self.timestamp.endswith("Z"):
            raise ValueError(f"timestamp: {self.timestamp!r}; expected UTC such as 2026-01-31T00:00:00Z")
        datetime.fromisoformat(self.timestamp)


@dataclass(frozen=True)
class Checkpoint:
    """A training checkpoint that lies in data/pretrain."""

    name: str
    path: str
    sha256: str
    bytes: int
    parameters: int
    segment: Segment


@dataclass(frozen=True)
class Export:
    """A quantized export; `parent` is the checkpoint that it was made from."""

    scheme: str
    path: str
    sha256: str
    bytes: int
    parent: Checkpoint


@dataclass(frozen=True)
class Evidence:
    """What the documents quote.

    Attributes:
        manifests, digests: each stage's manifest and the SHA-256 of its bytes, in the order of the graph.
        sources: the register of sources.
        documents, merkle_root: number of train documents and labelled rows; root over the sorted set of their raw_sha256.
        plan, segments, head: data plan and journal.
        checkpoints, exports: what the statement is about; the last checkpoint is the model.
        train: rows of source, lang, licence, documents, tokens, bytes: the training set.
        shown: the same of what the model was trained on: documents, exposures, tokens.
        dropped, duplicates, hits: documents by reason, by kind of duplicate, by evaluation that they overlap with.
        heldout: documents held out.
        losses: first and last row of the loss table.
        errors: rows of scheme and of each error measure, its mean and its maximum over the layers.
        metrics: results of the evaluation by name.
    """

    manifests: dict[str, dict[str, Any]]
    digests: dict[str, str]
    sources: list[dict[str, Any]]
    documents: int
    merkle_root: str
    plan: DataPlan
    segments: tuple[Segment, ...]
    head: str
    checkpoints: tuple[Checkpoint, ...]
    exports: tuple[Export, ...]
    train: list[dict[str, Any]]
    shown: list[dict[str, Any]]
    dropped: dict[str, int]
    duplicates: dict[str, int]
    hits: dict[str, int]
    heldout: int
    losses: tuple[dict[str, str], dict[str, str]] | None
    errors: list[dict[str, Any]]
    metrics: dict[str, float]

    @property
    def model(self) -> Checkpoint:
        """The newest checkpoint of the main line that lies in data/pretrain."""
        return self.checkpoints[-1]


def gather(io: StageIO) -> Evidence:
    """Read the evidence.

    Raises:
        StageError: a file is absent or damaged, or two of them contradict each other.
    """
    manifests, digests = _manifests(io)
    try:
        ledger = Ledger(io.root)
        checkpoints = _checkpoints(io, ledger, manifests["pretrain"])
        shown = ledger.documents(checkpoints[-1].sha256)
    except LedgerError as error:
        raise StageError(str(error)) from error
    hashes = [
        digest
        for file in [*document_files(io.input("data/decontaminate/train")), io.input("data/instruct/documents.parquet")]
        for digest in pq.read_table(file, columns=["raw_sha256"])["raw_sha256"].to_pylist()
    ]
    tables = ("data/encode/train.documents.parquet", "data/instruct/documents.parquet")
    columns = ["doc_id", "source", "lang", "licence", "length", "bytes"]
    train = pa.concat_tables([_table(io, table).select(columns) for table in tables])
    return Evidence(
        manifests=manifests,
        digests=digests,
        sources=_json(io, "data/corpus/sources.json"),
        documents=len(hashes),
        merkle_root=MerkleTree.of_set(hashes).root.hex(),
        plan=ledger.plan,
        segments=ledger.journal.segments,
        head=ledger.journal.head,
        checkpoints=checkpoints,
        exports=tuple(_exports(io, checkpoints, manifests["quantize"])),
        train=_by_source(train, {"doc_id": "count", "length": "sum", "bytes": "sum"}, ("documents", "tokens", "bytes")),
        shown=_by_source(shown, {"doc_id": "count", "exposures": "sum", "tokens": "sum"}, ("documents", "exposures", "tokens")),
        dropped=_count(_table(io, "data/clean/drops.parquet"), "reason"),
        duplicates=_duplicates(_table(io, "data/dedup/clusters.parquet")),
        hits=_count(_table(io, "data/decontaminate/hits.parquet"), "evaluation"),
        heldout=_table(io, "data/encode/heldout.documents.parquet").num_rows,
        losses=_losses(io.input("data/pretrain/loss.csv")),
        errors=_errors(io.input("data/quantize/errors.csv")),
        metrics=_json(io, "data/evaluate/metrics.json"),
    )


def _manifests(io: StageIO) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The manifest of every declared stage; each has to have been made from those that lie here."""
    folders = [dep for dep in io.deps if dep.startswith("data/")]
    manifests = {Path(folder).name: _json(io, f"{folder}/{MANIFEST}") for folder in folders}
    digests = {Path(folder).name: sha256_file(io.input(f"{folder}/{MANIFEST}")) for folder in folders}
    for stage, manifest in manifests.items():
        for dep, digest in manifest["inputs"].items():
            if digests.get(Path(dep).name, digest) != digest:
                raise StageError(
                    f"stage {stage} was made from another {dep} than the one that lies here",
                    file=f"data/{stage}/{MANIFEST}",
                    remedy=f"bring them to one version: `dvc repro {stage}`, or `dvc checkout`",
                )
    return manifests, digests


def _checkpoints(io: StageIO, ledger: Ledger, manifest: dict[str, Any]) -> tuple[Checkpoint, ...]:
    """The checkpoints of the main line that lie in data/pretrain, oldest first."""
    found = []
    for segment in ledger.journal.main_line():
        path = f"checkpoints/{segment.checkpoint}/{WEIGHTS}"
        entry = manifest["files"].get(path) or manifest["files"].get(f"{path}{_INDEX}")
        if entry is None:
            continue  # the run keeps some checkpoints only
        if entry["sha256"] != segment.weights_sha256:
            raise StageError(
                f"checkpoint {segment.checkpoint} has other weights than the journal names",
                file=f"data/pretrain/{path}",
                remedy="run `dvc checkout data/pretrain`, or train again",
            )
        path = f"data/pretrain/{path}" if path in manifest["files"] else f"data/pretrain/{path}{_INDEX}"
        files = _tensor_files(io.input(path))
        parameters, size = sum(map(count_parameters, files)), sum(file.stat().st_size for file in files)
        found.append(Checkpoint(str(segment.checkpoint), path, entry["sha256"], size, parameters, segment))
    if not found:
        raise StageError("no checkpoint of the journal lies here", file="data/pretrain", remedy="run `dvc repro pretrain`")
    return tuple(found)


def _exports(io: StageIO, checkpoints: tuple[Checkpoint, ...], manifest: dict[str, Any]) -> Iterator[Export]:
    for path, entry in sorted(manifest["files"].items()):
        scheme, _, name = path.partition("/")
        if name != WEIGHTS:
            continue
        config = f"data/quantize/{scheme}/config.json"
        text = io.input(config).read_text(encoding="utf-8")
        parent = next((checkpoint for checkpoint in checkpoints if checkpoint.sha256 in text), None)
        if parent is None:
            raise StageError("names no checkpoint of data/pretrain by the SHA-256 of its weights", file=config)
        yield Export(scheme, f"data/quantize/{path}", entry["sha256"], entry["bytes"], parent)


def _tensor_files(weights: Path) -> list[Path]:
    """The files that hold a checkpoint's tensors: itself, or what the index of a spread model names."""
    if not weights.name.endswith(_INDEX):
        return [weights]
    return [weights.parent / file for file in sorted(json.loads(weights.read_text(encoding="utf-8"))["shards"])]


def count_parameters(file: Path) -> int:
    """Numbers in a safetensors file, from its header.

    Raises:
        StageError: the header cannot be read.
    """
    with file.open("rb") as stream:
        try:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
            return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
        except (struct.error, ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError) as error:
            raise StageError(f"not a safetensors file: {error}", file=file.name) from error


def _by_source(table: pa.Table, sums: dict[str, str], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Totals by source, language and licence, in the order of their names."""
    keys = ["source", "lang", "licence"]
    grouped = table.group_by(keys, use_threads=False).aggregate(list(sums.items())).rename_columns([*keys, *names])
    rows: list[dict[str, Any]] = grouped.sort_by([(key, "ascending") for key in keys]).to_pylist()
    return rows


def _count(table: pa.Table, column: str) -> dict[str, int]:
    return dict(sorted(Counter(table[column].to_pylist()).items()))


def _duplicates(clusters: pa.Table) -> dict[str, int]:
    return _count(clusters.filter(pc.invert(clusters["survivor"])), "kind")


def _losses(file: Path) -> tuple[dict[str, str], dict[str, str]] | None:
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return (rows[0], rows[-1]) if rows else None


def _errors(file: Path) -> list[dict[str, Any]]:
    """Mean and maximum over the layers of every error measure, by scheme."""
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = []
    for scheme in sorted({row["scheme"] for row in rows}):
        layers = [row for row in rows if row["scheme"] == scheme]
        summary: dict[str, Any] = {"scheme": scheme, "layers": len(layers)}
        for measure in [name for name in layers[0] if name not in ("scheme", "layer")]:
            values = [float(row[measure]) for row in layers]
            summary |= {f"mean {measure}": math.fsum(values) / len(values), f"max {measure}": max(values)}
        found.append(summary)
    return found


def _table(io: StageIO, path: str) -> pa.Table:
    return pq.read_table(io.input(path))


def _json(io: StageIO, path: str) -> Any:
    try:
        return json.loads(io.input(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"not JSON: {error}", file=path, remedy="run `dvc checkout`") from error

"""Everything that the attestation quotes, read once from the outputs of the stages before and checked for contradictions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ledger import LedgerError
from ledger.export.tables import labelled_packages, weights_size
from ledger.journal import Segment
from ledger.lineage.weights import damage
from ledger.plan import DataPlan
from ledger.proof.consumption import TRAINED_TABLES, Consumption
from ledger.proof.merkle import MerkleTree
from ledger.query import Ledger
from stages._manifest import MANIFEST, sha256_file
from stages._runner import StageError, StageIO

WEIGHTS = "model.safetensors"
_INDEX = ".index.json"  # behind that name, where the model was spread over processes


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
class SetRoot:
    """A set of documents: how many, how many different digests they have, and the Merkle root over these, sorted."""

    documents: int
    size: int
    root: str

    @classmethod
    def of(cls, digests: list[str]) -> SetRoot:
        """The root over the digests of documents, hexadecimal."""
        tree = MerkleTree.of_set(digests)
        return cls(len(digests), len(tree.leaves), tree.root.hex())


@dataclass(frozen=True)
class Consumed:
    """What a checkpoint was trained on: the set of documents, the number of steps, and the root over their order."""

    documents: SetRoot
    steps: int
    order: str


@dataclass(frozen=True)
class Evidence:
    """What the documents quote.

    Attributes:
        consumption: what the project's checkpoints consumed.
        manifests, digests: each stage's manifest and the SHA-256 of its bytes, in the order of the graph.
        sources: the register of sources.
        packages: labelled packages of the instruction mix.
        training, ids: the set of train documents and labelled rows, by raw_sha256 and by the SHA-256 of their ids.
        consumed: what each checkpoint was trained on, by its name.
        plan, segments, head: data plan and journal.
        checkpoints, exports: what the statement is about; the last checkpoint is the model.
        train: rows of source, lang, licence, documents, tokens, bytes: the training set.
        metrics: results of the evaluation by name.
    """

    consumption: Consumption
    manifests: dict[str, dict[str, Any]]
    digests: dict[str, str]
    sources: list[dict[str, Any]]
    packages: list[dict[str, Any]]
    training: SetRoot
    ids: SetRoot
    consumed: dict[str, Consumed]
    plan: DataPlan
    segments: tuple[Segment, ...]
    head: str
    checkpoints: tuple[Checkpoint, ...]
    exports: tuple[Export, ...]
    train: list[dict[str, Any]]
    metrics: dict[str, Any]

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
        consumption = Consumption(ledger)
        training = SetRoot.of(consumption.training_set())
        ids = SetRoot.of(consumption.training_ids())
        consumed = {item.name: _consumed(consumption, item.segment) for item in checkpoints}
    except LedgerError as error:
        raise StageError(str(error)) from error
    columns = ["source", "lang", "licence", "length", "bytes"]
    train = pa.concat_tables([pq.read_table(io.input(table), columns=columns) for table in TRAINED_TABLES])
    return Evidence(
        consumption=consumption,
        manifests=manifests,
        digests=digests,
        sources=_json(io, "data/corpus/sources.json"),
        packages=labelled_packages(_json(io, "data/instruct/registry.json")),
        training=training,
        ids=ids,
        consumed=consumed,
        plan=ledger.plan,
        segments=ledger.journal.segments,
        head=ledger.journal.head,
        checkpoints=checkpoints,
        exports=tuple(_exports(io, checkpoints, manifests["quantize"])),
        train=_by_source(train),
        metrics=_json(io, "data/evaluate/metrics.json"),
    )


def _consumed(consumption: Consumption, segment: Segment) -> Consumed:
    tree = consumption.tree(segment)
    return Consumed(SetRoot.of(consumption.documents(segment)), len(tree.leaves), tree.root.hex())


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
        path = path if path in manifest["files"] else f"{path}{_INDEX}"
        entry = manifest["files"].get(path)
        if entry is None:
            continue  # the run keeps some checkpoints only
        path = f"data/pretrain/{path}"
        wrong = damage(io.input(path).parent, segment.weights_sha256)
        if wrong or entry["sha256"] != segment.weights_sha256:
            raise StageError(
                f"checkpoint {segment.checkpoint} has other weights than the journal names"
                + (f": {'; '.join(wrong)}" if wrong else ""),
                file=path,
                remedy="run `dvc checkout data/pretrain`, or train again",
            )
        parameters, size = weights_size(io.input(path))
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


def _by_source(table: pa.Table) -> list[dict[str, Any]]:
    """Documents, tokens and bytes by source, language and licence, in the order of their names."""
    keys = ["source", "lang", "licence"]
    sums = [("source", "count"), ("length", "sum"), ("bytes", "sum")]
    grouped = table.group_by(keys, use_threads=False).aggregate(sums).rename_columns([*keys, "documents", "tokens", "bytes"])
    rows: list[dict[str, Any]] = grouped.sort_by([(key, "ascending") for key in keys]).to_pylist()
    return rows


def _json(io: StageIO, path: str) -> Any:
    try:
        return json.loads(io.input(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"not JSON: {error}", file=path, remedy="run `dvc checkout`") from error

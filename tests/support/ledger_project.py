"""A small, valid project folder: every stage's output with true manifests, and a training with a branch and a skip.

Nothing is trained and no text is tokenized, but all numbers agree: pieces cut the documents' tokens into rows, the journal
follows the batch ramp, manifests carry real digests. `Project.rows_of` replays the training the slow way, for tests to
compare with.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from ledger.journal import Journal, Segment
from ledger.lineage.weights import INDEX, WEIGHTS, weights_file
from ledger.order import Order
from ledger.plan import DataPlan
from ledger.schedule import BatchRamp
from stages import _manifest
from stages._documents import write_shard, write_table

REPOSITORY = Path(__file__).parents[2]
STAGES = (
    "corpus",
    "clean",
    "dedup",
    "decontaminate",
    "tokenizer",
    "encode",
    "instruct",
    "pack",
    "validate",
    "pretrain",
    "quantize",
    "evaluate",
)
ROW = 16  # tokens per packed row
EPOCHS = 2  # masking epochs
SCHEMES = ("int4", "int4-group", "int8")
_SOURCES = [
    ("plays", "en", "LicenseRef-PublicDomain", 6),
    ("wiki", "en", "CC-BY-SA-3.0", 2),
    ("poems", "zh", "LicenseRef-PublicDomain", 6),
]


@dataclass(frozen=True)
class Project:
    """The folder and what a test needs to know of it."""

    root: Path
    plan: DataPlan
    journal: Journal
    documents: list[dict[str, Any]]
    pieces: list[tuple[int, int, int, int]]  # sample, doc_index, doc_offset, length

    def rows_of(self, checkpoint: str) -> list[tuple[int, int]]:
        """(step, row) of every sample that a checkpoint was trained on, in order, found by walking through the training."""
        found = []
        for segment in self.journal.path_to(checkpoint):
            for step in range(segment.first_step, segment.last_step + 1):
                if not segment.skips(step):
                    found += [(step, int(row)) for row in self.plan.rows(step)]
        return found

    def document_row(self, doc_id: str) -> dict[str, Any]:
        """The row of the train documents table."""
        return next(row for row in self.documents if row["doc_id"] == doc_id)


def make_project(root: Path, seed: int = 0, *, sharded: bool = False) -> Project:
    """Write the project below `root`; `sharded` checkpoints are those of a model that was spread over processes."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    (root / "dvc.yaml").write_bytes((REPOSITORY / "dvc.yaml").read_bytes())
    train, heldout, dropped, duplicate = _documents()
    _write_corpus(root, [*train, *heldout, dropped, duplicate])
    _write_filters(root, train, heldout, dropped, duplicate)
    documents = _write_encode(root, train, heldout, rng)
    pieces, samples = _write_pack(root, documents, rng)
    plan = DataPlan(
        order=Order(seed=1234, samples=samples // EPOCHS, epochs=EPOCHS),
        ramp=BatchRamp(start=2, end=4, increment=1, ramp_samples=12),
        steps=18,
        pack_manifest_sha256=_manifest.sha256_file(root / "data/pack/manifest.json"),
    )
    journal = _write_pretrain(root, plan, sharded)
    _write_results(root)
    return Project(root, plan, journal, documents, pieces)


def seal(root: Path, stage: str, counts: dict[str, Any] | None = None, params: dict[str, Any] | None = None) -> None:
    """Write the manifest of a stage's output, as the runner does."""
    deps = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["deps"]
    manifest = {
        "schema": _manifest.SCHEMA,
        "stage": stage,
        "params": params or {"seed": 1},
        "inputs": {dep: _manifest.input_digest(root / dep) for dep in deps if dep.startswith("data/")},
        "counts": counts or {},
        "files": _manifest.describe_folder(root / "data" / stage),
    }
    (root / "data" / stage / _manifest.MANIFEST).write_text(_manifest.canonical(manifest), encoding="utf-8")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _document(source: str, lang: str, licence: str, number: int, text: str) -> dict[str, Any]:
    return {
        "doc_id": f"{source}/{number:02d}.txt",
        "source": source,
        "path": f"{number:02d}.txt",
        "licence": licence,
        "lang": lang,
        "title": f"Title {number}",
        "author": None,
        "date": None,
        "raw_sha256": _digest(text),
        "text": text,
    }


def _documents() -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Train documents, held-out documents, one that clean drops, one that dedup finds to be a copy."""
    train = []
    for source, lang, licence, count in _SOURCES:
        line = "床前明月光，疑是地上霜。" if lang == "zh" else "The quality of mercy is not strained. "
        train += [_document(source, lang, licence, n, f"{source} {n}\n" + line * (n + 1)) for n in range(count)]
    heldout = [_document("plays", "en", "LicenseRef-PublicDomain", 90, "If music be the food of love, play on.\n")]
    dropped = _document("wiki", "en", "CC-BY-SA-3.0", 91, "#REDIRECT\n")
    duplicate = _document("plays", "en", "LicenseRef-PublicDomain", 92, train[3]["text"] + "Exeunt.\n")
    return train, heldout, dropped, duplicate


def _shards(folder: Path, documents: list[dict[str, Any]]) -> None:
    for source in sorted({document["source"] for document in documents}):
        rows = [document for document in documents if document["source"] == source]
        write_shard(folder / "documents" / f"{source}-00000.parquet", rows)


def _write_corpus(root: Path, documents: list[dict[str, Any]]) -> None:
    _shards(root / "data/corpus", documents)
    origins: dict[str, dict[str, Any]] = {
        "plays": {
            "kind": "pypi",
            "package": "old-plays",
            "version": "1.0",
            "file": "old-plays-1.0.tar.gz",
            "url": None,
            "path": None,
        },
        "wiki": {
            "kind": "http",
            "package": None,
            "version": None,
            "file": "w.xml.bz2",
            "url": "https://example.org/w.xml.bz2",
            "path": None,
        },
        "poems": {"kind": "local", "package": None, "version": None, "file": None, "url": None, "path": "corpora/poems"},
    }
    register = []
    for source, lang, licence, _ in _SOURCES:
        rows = [document for document in documents if document["source"] == source]
        register.append(
            {
                **origins[source],
                "id": source,
                "reader": "text",
                "members": ["*.txt"],
                "lang": lang,
                "licence": licence,
                "rights": f"rights of {source}",
                "folder": "",
                "author": None,
                "max_bytes": None,
                "sha256": _digest(f"archive of {source}"),
                "documents": len(rows),
                "bytes": sum(len(row["text"].encode()) for row in rows),
                "skipped": {},
                "capped": False,
            }
        )
    (root / "data/corpus/sources.json").write_text(_manifest.canonical(register), encoding="utf-8")
    seal(root, "corpus", {"documents": len(documents)})


def _write_filters(
    root: Path, train: list[dict[str, Any]], heldout: list[dict[str, Any]], dropped: dict[str, Any], duplicate: dict[str, Any]
) -> None:
    strings = pa.string()
    _shards(root / "data/clean", [*train, *heldout, duplicate])
    drops = pa.schema([(name, strings) for name in ("doc_id", "source", "lang", "reason", "detail")])
    drop = {"doc_id": dropped["doc_id"], "source": "wiki", "lang": "en", "reason": "short", "detail": "10 characters"}
    write_table(root / "data/clean/drops.parquet", drops, [drop])
    seal(root, "clean")

    _shards(root / "data/dedup", [*train, *heldout])
    clusters = pa.schema(
        [("doc_id", strings), ("cluster", strings), ("survivor", pa.bool_()), ("kind", strings), ("jaccard", pa.float64())]
    )
    survivor = train[3]["doc_id"]
    rows = [
        {"doc_id": survivor, "cluster": survivor, "survivor": True, "kind": "near", "jaccard": 1.0},
        {"doc_id": duplicate["doc_id"], "cluster": survivor, "survivor": False, "kind": "near", "jaccard": 0.93},
    ]
    write_table(root / "data/dedup/clusters.parquet", clusters, rows)
    seal(root, "dedup")

    _shards(root / "data/decontaminate/train", train)
    _shards(root / "data/decontaminate/heldout", heldout)
    hits = pa.schema([(name, strings) for name in ("doc_id", "evaluation", "item", "ngram", "action")])
    write_table(root / "data/decontaminate/hits.parquet", hits, [])
    seal(root, "decontaminate")

    (root / "data/tokenizer").mkdir(parents=True)
    (root / "data/tokenizer/tokenizer.model").write_bytes(b"pieces")
    _write_json(root / "data/tokenizer/tokenizer.json", {"pieces": 60, "padded_size": 64})
    seal(root, "tokenizer")


def _write_encode(
    root: Path, train: list[dict[str, Any]], heldout: list[dict[str, Any]], rng: np.random.Generator
) -> list[dict[str, Any]]:
    schema = pa.schema(
        [(name, pa.string()) for name in ("doc_id", "source", "lang", "licence")]
        + [
            ("doc_index", pa.int64()),
            ("shard", pa.int32()),
            ("offset", pa.int64()),
            ("length", pa.int32()),
            ("bytes", pa.int64()),
        ]
    )
    tables = {}
    for split, documents in (("train", train), ("heldout", heldout)):
        rows, offset = [], 0
        for index, document in enumerate(documents):
            length = int(rng.integers(5, 60))
            row = {name: document[name] for name in ("doc_id", "source", "lang", "licence")}
            row |= {"doc_index": index, "shard": 0, "offset": offset, "length": length, "bytes": len(document["text"].encode())}
            rows.append(row)
            offset += length
        tables[split] = rows
        write_table(root / f"data/encode/{split}.documents.parquet", schema, rows)
        tokens = pa.record_batch([pa.array(rng.integers(8, 60, offset), pa.int32())], ["token"])
        with pa.ipc.new_file(root / f"data/encode/{split}-00000.arrow", tokens.schema) as writer:
            writer.write_batch(tokens)
    seal(root, "encode")
    (root / "data/instruct").mkdir(parents=True)
    pq.write_table(
        pa.table({"sample_id": ["titles#0"], "doc_id": [train[1]["doc_id"]]}), root / "data/instruct/samples.parquet"
    )
    labelled = pa.schema([*(field for field in schema if field.name not in ("shard", "offset")), ("raw_sha256", pa.string())])
    pq.write_table(labelled.empty_table(), root / "data/instruct/documents.parquet")
    _write_json(root / "data/instruct/registry.json", _registry())
    seal(root, "instruct")
    return tables["train"]


def _registry() -> list[dict[str, Any]]:
    """The instruction mix: a data set made from documents, and one of a labelled package that gave no row."""
    titles = {
        "name": "en-titles",
        "lang": "en",
        "task": "title",
        "licence": None,
        "rights": "",
        "package": None,
        "files_read": [],
    }
    package = {"kind": "npm", "name": "old-sayings", "version": "2.1.0", "file": "old-sayings-2.1.0.tgz"}
    sayings = {**titles, "name": "zh-sayings", "lang": "zh", "task": "saying", "licence": "MIT", "rights": "of the people"}
    sayings |= {"package": {**package, "sha256": _digest("archive of sayings")}}
    sayings |= {"files_read": [{"file": "sayings.json", "bytes": 10, "sha256": _digest("sayings.json")}]}
    counts: dict[str, Any] = {"available": 4, "overlapping": 0, "licences": ["MIT"]}
    return [{**titles, **counts, "samples": 1}, {**sayings, **counts, "samples": 0}]


def _write_pack(
    root: Path, documents: list[dict[str, Any]], rng: np.random.Generator
) -> tuple[list[tuple[int, int, int, int]], int]:
    """Each masking epoch turns the ring of tokens elsewhere; two instruction samples end it, one with a document twice."""
    owner = np.concatenate([np.full(row["length"], row["doc_index"]) for row in documents])
    inside = np.concatenate([np.arange(row["length"]) for row in documents])
    text_rows = len(owner) // ROW
    pieces: list[tuple[int, int, int, int]] = []
    for epoch in range(EPOCHS):
        turn = int(rng.integers(0, len(owner)))
        ring = np.arange(turn, turn + text_rows * ROW).reshape(text_rows, ROW) % len(owner)
        for number, positions in enumerate(ring):
            cuts = np.flatnonzero((np.diff(owner[positions]) != 0) | (np.diff(inside[positions]) != 1)) + 1
            for part in np.split(positions, cuts):
                pieces.append((epoch * (text_rows + 2) + number, int(owner[part[0]]), int(inside[part[0]]), len(part)))
        for number, chosen in ((text_rows, (1, 7)), (text_rows + 1, (4, 2, 4))):
            pieces += [(epoch * (text_rows + 2) + number, index, 0, 5) for index in chosen]
    folder = root / "data/pack"
    folder.mkdir(parents=True)
    columns = np.array(pieces, np.int64).T
    names = {"sample": pa.int64(), "doc_index": pa.int64(), "doc_offset": pa.int32(), "length": pa.int32()}
    table = pa.table({name: pa.array(column).cast(names[name]) for name, column in zip(names, columns, strict=True)})
    samples = (text_rows + 2) * EPOCHS
    size = samples // 2 + 1
    for shard in range(2):
        part = table.filter(pc.equal(pc.divide(table["sample"], size), shard))
        pq.write_table(part, folder / f"pieces-{shard:05d}.parquet")
    facts = {"samples_per_epoch": text_rows + 2, "epochs": EPOCHS, "sequence_length": ROW, "blocks": 1, "seed": 1}
    facts["shard_samples"] = size
    _write_json(folder / "pack.json", facts)
    (folder / "samples-00000.arrow").write_bytes(b"the ledger never opens the samples")
    seal(root, "pack")
    _write_json(root / "data/validate/report.json", {"expectations": [{"name": "ids are unique", "success": True}]})
    seal(root, "validate")
    return pieces, samples


def _write_pretrain(root: Path, plan: DataPlan, sharded: bool) -> Journal:
    """Steps 0-5, 6-11, a branch 12-13 that was given up, 12-17 with step 13 passed over."""
    folder = root / "data/pretrain"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    journal = Journal.open(folder / "journal.jsonl")
    for parent, first, end, kept, skipped in (
        (None, 0, 6, True, ()),
        ("step-000006", 6, 12, True, ()),
        ("step-000012", 12, 14, False, ()),
        ("step-000012", 12, 18, True, ((13, 13),)),
    ):
        samples = plan.ramp.consumed([first, end]).tolist()
        name = f"step-{end:06d}"
        weights = _sharded(name) if sharded else {WEIGHTS: _safetensors(name)}
        segment = journal.append(
            Segment(
                parent=parent,
                first_step=first,
                last_step=end - 1,
                first_sample=samples[0],
                last_sample=samples[1] - 1,
                plan=plan.digest,
                status="kept" if kept else "abandoned",
                checkpoint=name if kept else None,
                weights_sha256=hashlib.sha256(next(iter(weights.values()))).hexdigest() if kept else None,
                skipped=skipped,
                settings={} if kept else {"cause": "loss spike"},
            )
        )
        if kept:
            checkpoint = folder / "checkpoints" / name
            checkpoint.mkdir(parents=True)
            for file, content in weights.items():
                (checkpoint / file).write_bytes(content)
            (checkpoint / "tokenizer.model").write_bytes(b"pieces")
            _write_json(checkpoint / "config.json", {"model": {"layers": 2, "hidden": 8}})
            _write_json(checkpoint / "manifest.json", segment.checkpoint_manifest())
    header = "step,samples,tokens,batch_size,lr,loss,gmask_loss,mask_loss,instruction_loss,grad_norm\n"
    consumed = plan.ramp.boundaries(plan.steps)
    lines = [f"{t},{consumed[t]},{consumed[t] * ROW},2,1e-3,{5 - t / 10:.6f},5,5,,1.0\n" for t in range(1, plan.steps + 1)]
    (folder / "loss.csv").write_text(header + "".join(lines), encoding="utf-8")
    params = {"seed": 1234, "steps": plan.steps, "model": {"layers": 2, "hidden": 8}}
    seal(root, "pretrain", {"parameters": 1234, "steps": plan.steps}, params)
    return journal


def _write_results(root: Path) -> None:
    parent = root / "data/pretrain/checkpoints/step-000018"
    for scheme in SCHEMES:
        folder = root / "data/quantize" / scheme
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(_safetensors(scheme))
        (folder / "tokenizer.model").write_bytes(b"pieces")
        origin = {"parent": parent.name, "parent_sha256": _manifest.sha256_file(weights_file(parent))}
        _write_json(folder / "config.json", {"model": {"layers": 2, "hidden": 8}, "scheme": scheme, **origin})
    lines = [f"{scheme},layers.0.dense,0.05,0.001,0.2\n" for scheme in SCHEMES]
    header = "scheme,layer,relative_error,one_minus_cosine,max_abs_error\n"
    (root / "data/quantize/errors.csv").write_text(header + "".join(lines), encoding="utf-8")
    seal(root, "quantize")
    folder = root / "data/evaluate"
    folder.mkdir(parents=True)
    _write_json(folder / "metrics.json", {"fp32.bpb.plays.en": 2.5, "int4.bpb.plays.en": 2.75, "fp32.cloze.accuracy": 0.125})
    _write_json(folder / "results.json", {"models": ["fp32", "int4"]})
    pq.write_table(pa.table({"item": [1, 2], "correct": [True, False]}), folder / "items.parquet")
    seal(root, "evaluate")


def _safetensors(name: str) -> bytes:
    """A file of one tensor of 3 x 4 numbers that depend on the name."""
    data = np.frombuffer(hashlib.sha256(name.encode()).digest()[:12], np.uint8).astype("<f4").tobytes()
    header = json.dumps(
        {"__metadata__": {"format": "pt"}, "weight": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}
    )
    return struct.pack("<Q", len(header)) + header.encode() + data


def _sharded(name: str) -> dict[str, bytes]:
    """Files of two parts of a tensor, the index first."""
    files = {f"model-{rank}-00001.safetensors": _safetensors(f"{name}@{rank}") for rank in range(2)}
    shards = {file: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for file, content in files.items()}
    where = {f"weight@{rank}/2": file for rank, file in enumerate(files)}
    index = {"metadata": {"total_size": sum(map(len, files.values()))}, "shards": shards, "weight_map": where}
    return {INDEX: json.dumps(index).encode(), **files}


def _write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")

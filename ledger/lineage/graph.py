"""The stages between raw bytes and a checkpoint, from the files that the build leaves: `dvc.lock`, manifests, run records.

No build tool is asked. A stage whose output has another manifest than the one a later stage was made from is an error:
the chain then does not lead to the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ledger import LedgerError, canonical_json

LOCK = "dvc.lock"
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("stage", "artifact", "role", "md5", "sha256", "params", "commit", "started")]
    + [("bytes", pa.int64()), ("wall_seconds", pa.float64())]
)


@dataclass(frozen=True)
class Stage:
    """One stage as it was built: command, dependencies and outputs as `dvc.lock` records them, and its parameters."""

    name: str
    command: str
    deps: tuple[dict[str, Any], ...]
    outs: tuple[dict[str, Any], ...]
    params: dict[str, Any]


def lock(root: Path) -> dict[str, Stage]:
    """The stages of `dvc.lock`.

    Raises:
        LedgerError: it is absent or not a lock file.
    """
    import yaml

    file = root / LOCK
    try:
        stages = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
        return {name: _stage(name, entry) for name, entry in stages.items()}
    except FileNotFoundError as error:
        raise LedgerError(f"{file}: no such file. Remedy: run `dvc repro`, which writes it, or `git checkout`") from error
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise LedgerError(f"{file}: not a lock file: {error}. Remedy: `git checkout {LOCK}`") from error


def ancestors(stages: dict[str, Stage], last: str) -> list[str]:
    """`last` and every stage that it rests on, each behind those that it was made from.

    Raises:
        LedgerError: there is no such stage.
    """
    if last not in stages:
        raise LedgerError(f"{LOCK}: stage {last!r} was not built. Built: {', '.join(sorted(stages)) or 'none'}")
    producer = {out["path"]: name for name, stage in stages.items() for out in stage.outs}
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        for dep in stages[name].deps:
            path = dep["path"]
            for out, other in sorted(producer.items()):
                if path == out or path.startswith(out + "/"):
                    visit(other)
        order.append(name)

    visit(last)
    return order


def artifacts(root: Path, weights: str | None, last: str = "pretrain") -> pa.Table:
    """Every artifact from raw bytes to a checkpoint, one row each, stage by stage in the order of making.

    Args:
        root: the project's folder.
        weights: SHA-256 of the checkpoint's weights, the last row; None for none.
        last: the stage that left it.

    Returns:
        Columns stage; artifact (path, or address of a raw file); role (`raw`, `code`, `input`, `output`, `checkpoint`); md5 (as
        `dvc.lock` has it), sha256 (of raw bytes, of an output's manifest, of weights); params (canonical JSON, on outputs);
        commit (that was checked out when the output was made), started and wall_seconds (of the run record, where the one
        of this output lies here); bytes.

    Raises:
        LedgerError: a file is missing or damaged, or an output that lies here is not the one that a later stage was made from.
    """
    stages = lock(root)
    rows: list[dict[str, Any]] = _raw(root)
    order = ancestors(stages, last)
    manifests = {name: _manifest(root, name) for name in order}
    for name in order:
        stage, run = stages[name], _run(root, name, manifests[name][1])
        _check(root, name, manifests)
        for dep in sorted(stage.deps, key=lambda dep: str(dep["path"])):
            role = "input" if str(dep["path"]).startswith("data/") else "code"
            rows.append({"stage": name, "artifact": dep["path"], "role": role, "md5": dep.get("md5"), "bytes": dep.get("size")})
        for out in stage.outs:
            row = {"stage": name, "artifact": out["path"], "role": "output", "md5": out.get("md5"), "bytes": out.get("size")}
            row |= {"sha256": manifests[name][1], "params": canonical_json(stage.params)}
            rows.append(row | {key: run[key] for key in ("commit", "started", "wall_seconds") if key in run})
    if weights is not None:
        rows.append({"stage": last, "artifact": "weights", "role": "checkpoint", "sha256": weights})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def commit_of(root: Path) -> str | None:
    """The git commit that is checked out, from git's own files; None where the project is no repository."""
    folder = root / ".git"
    if folder.is_file():  # a work tree: it names the folder that it belongs to
        folder = root / folder.read_text(encoding="utf-8").partition(":")[2].strip()
    if not (folder / "HEAD").is_file():
        return None
    head = (folder / "HEAD").read_text(encoding="utf-8").strip()
    name = head.removeprefix("ref: ")
    if name == head:
        return head
    common = folder / "commondir"
    base = folder / common.read_text(encoding="utf-8").strip() if common.is_file() else folder
    if (base / name).is_file():
        return (base / name).read_text(encoding="utf-8").strip()
    packed = (base / "packed-refs").read_text(encoding="utf-8").splitlines() if (base / "packed-refs").is_file() else []
    return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)


def _stage(name: str, entry: dict[str, Any]) -> Stage:
    deps, outs = tuple(entry.get("deps", ())), tuple(entry.get("outs", ()))
    if any("path" not in item for item in (*deps, *outs)):
        raise ValueError(f"stage {name}: an entry without a path")
    sections = [section for values in entry.get("params", {}).values() for section in [values]]
    return Stage(name, entry["cmd"], deps, outs, {key: value for section in sections for key, value in section.items()})


def _raw(root: Path) -> list[dict[str, Any]]:
    """Files of the sources, as they were fetched."""
    import pyarrow.parquet as pq

    file = root / "data/corpus/files.parquet"
    if not file.is_file():
        raise LedgerError(f"{file}: no such file. Remedy: run `dvc repro` or `dvc pull`")
    table = pq.read_table(file, columns=["file", "url", "sha256", "bytes"])
    facts = {"stage": "corpus", "role": "raw"}
    return [
        {**facts, "artifact": row["url"] or row["file"], "sha256": row["sha256"], "bytes": row["bytes"]}
        for row in table.to_pylist()
    ]


def _manifest(root: Path, stage: str) -> tuple[dict[str, Any], str]:
    """A stage's manifest and its SHA-256, which stands for the whole output."""
    file = root / "data" / stage / "manifest.json"
    try:
        data = file.read_bytes()
        return dict(json.loads(data)), hashlib.sha256(data).hexdigest()
    except FileNotFoundError as error:
        raise LedgerError(f"{file}: no such file. Remedy: run `dvc repro {stage}` or `dvc pull`") from error
    except (ValueError, TypeError) as error:
        raise LedgerError(f"{file}: not a manifest: {error}. Remedy: run `dvc checkout data/{stage}`") from error


def _check(root: Path, stage: str, manifests: dict[str, tuple[dict[str, Any], str]]) -> None:
    """That a stage was made from the outputs that lie here."""
    for path, digest in sorted(manifests[stage][0].get("inputs", {}).items()):
        source = Path(path).name
        if source in manifests and path == f"data/{source}" and manifests[source][1] != digest:
            raise LedgerError(
                f"{root / 'data' / stage}: made from another {path} than lies here. Remedy: bring both to one version "
                f"(`dvc checkout`, or `dvc repro {stage}`)"
            )


def _run(root: Path, stage: str, manifest: str) -> dict[str, Any]:
    """The run record of an output; of another one, or of none that it names, nothing is told."""
    file = root / "runs" / stage / "run.json"
    record = dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    return record if record.get("manifest_sha256") == manifest else {}

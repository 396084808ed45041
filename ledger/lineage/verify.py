"""Checks that a project folder is what its records say: files against manifests, manifests against each other, journal, plan.

Needs no build tool and trusts none: every digest is computed again from the bytes that lie there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger import LedgerError
from ledger.lineage.weights import damage
from ledger.proof.merkle import MerkleTree
from ledger.query import Ledger

_SHOWN = 3  # findings named in one line


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: its name, whether it holds, and what was found."""

    name: str
    ok: bool
    detail: str


def verify(root: Path) -> Iterator[Check]:
    """Check everything below `root`/data, yielding each result as it is known."""
    manifests = {path.parent.name: path for path in sorted((root / "data").glob("*/manifest.json"))}
    if not manifests:
        yield Check("stages", False, f"{root / 'data'} holds no stage output. Remedy: run `dvc repro` or `dvc pull`")
        return
    digests = {stage: _sha256(path) for stage, path in manifests.items()}
    for stage, path in manifests.items():
        yield _check_stage(stage, path, digests)
    try:
        ledger = Ledger(root)
    except LedgerError as error:
        yield Check("ledger", False, str(error))
        return
    segments = ledger.journal.segments
    yield Check("journal", True, f"{len(segments)} segments, chain unbroken, head {ledger.journal.head[:12]}")
    yield _check_plan(ledger)
    for folder in sorted((root / "data/pretrain/checkpoints").glob("*/manifest.json")):
        yield _check_checkpoint(ledger, folder.parent)
    if (root / "data/attest/statement.json").is_file():
        try:
            yield from _check_statement(root, ledger, digests)
        except (ValueError, LookupError, TypeError) as error:
            yield Check("statement", False, f"data/attest/statement.json is not the attest stage's: {error!r}")


def _check_stage(stage: str, path: Path, digests: dict[str, str]) -> Check:
    """A stage's files against its manifest, and its inputs against the outputs that lie beside it."""
    folder, name = path.parent, f"stage {stage}"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        listed, inputs = dict(manifest["files"]), dict(manifest["inputs"])
        recorded = {file: entry["sha256"] for file, entry in listed.items()}
    except (ValueError, KeyError, TypeError) as error:
        return Check(name, False, f"{path} is not a manifest: {error}")
    present = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {path.name}
    wrong = [f"missing {file}" for file in sorted(recorded.keys() - present)]
    wrong += [f"not in the manifest: {file}" for file in sorted(present - recorded.keys())]
    wrong += [f"changed {file}" for file in sorted(present & recorded.keys()) if _sha256(folder / file) != recorded[file]]
    for dep, digest in sorted(inputs.items()):
        source = Path(dep).name
        if source in digests and digests[source] != digest:
            wrong.append(f"made from another {dep}")
    size = sum(entry["bytes"] for entry in listed.values())
    return Check(name, not wrong, _summary(wrong) or f"{len(recorded)} files, {size:,} bytes, {len(inputs)} inputs")


def _check_plan(ledger: Ledger) -> Check:
    """Every segment that the plan has to explain follows it, sample for sample."""
    foreign = [segment.index for segment in ledger.journal.segments if segment.plan != ledger.plan.digest]
    own = [segment for segment in ledger.journal.segments if segment.plan == ledger.plan.digest]
    try:
        ledger.trained(own)
    except LedgerError as error:
        return Check("data plan", False, str(error))
    note = f"; {len(foreign)} segments followed another plan: {foreign}" if foreign else ""
    return Check("data plan", True, f"digest {ledger.plan.digest[:12]}, followed by {len(own)} segments{note}")


def _check_checkpoint(ledger: Ledger, folder: Path) -> Check:
    """A checkpoint's manifest and weights against the journal."""
    name = f"checkpoint {folder.name}"
    segment = ledger.journal.checkpoints().get(folder.name)
    if segment is None:
        return Check(name, False, "the journal does not know it")
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except ValueError as error:
        return Check(name, False, f"its manifest is not JSON: {error}")
    if manifest != segment.checkpoint_manifest():
        return Check(name, False, "its manifest is not what the journal says of it")
    wrong = damage(folder, segment.weights_sha256)
    if wrong:
        return Check(name, False, _summary(wrong))
    return Check(name, True, f"step {segment.last_step + 1}, weights {str(segment.weights_sha256)[:12]}")


def _check_statement(root: Path, ledger: Ledger, digests: dict[str, str]) -> Iterator[Check]:
    """The attestation against the files: subjects, manifests, journal, and the Merkle root over the documents."""
    import pyarrow.dataset as ds

    statement = json.loads((root / "data/attest/statement.json").read_text(encoding="utf-8"))
    predicate: dict[str, Any] = statement["predicate"]
    wrong = [
        f"subject {subject['name']}"
        for subject in statement["subject"]
        if not (root / subject["name"]).is_file() or _sha256(root / subject["name"]) != subject["digest"]["sha256"]
    ]
    wrong += [f"manifest of {stage}" for stage, digest in predicate["manifests"].items() if digests.get(stage) != digest]
    if predicate["journal"]["head"] != ledger.journal.head:
        wrong.append("journal head")
    yield Check("statement", not wrong, _summary(wrong, "differs: ") or f"{len(statement['subject'])} subjects")
    trained = sorted((root / "data/decontaminate/train/documents").glob("*.parquet"))
    files = [*trained, root / "data/instruct/documents.parquet"]
    leaves = ds.dataset(files).to_table(columns=["raw_sha256"])["raw_sha256"].to_pylist()
    documents = predicate["documents"]
    ok = len(leaves) == documents["count"] and MerkleTree.of_set(leaves).root.hex() == documents["merkleRoot"]
    detail = f"{len(leaves)} documents below {documents['merkleRoot'][:12]}" if ok else "the documents have another Merkle root"
    yield Check("documents", ok, detail)


def _summary(findings: list[str], prefix: str = "") -> str:
    more = f" and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
    return prefix + ", ".join(findings[:_SHOWN]) + more if findings else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

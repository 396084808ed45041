"""Takedowns: what a request means for the corpus and every checkpoint, the tombstones that carry it out, the proof that it was.

A request means the documents that match it (`ledger.query.match`), every copy of these that deduplication dropped, and the
survivor that was trained on in their place: of a cluster of duplicates either all go, or the next build keeps another member.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ledger.journal import Segment
from ledger.lineage import cost
from ledger.query.ledger import Ledger, Sighting
from ledger.query.match import CORPUS, LABELLED, Match, Request, find
from ledger.query.trace import Fate
from ledger.tombstones import Document, Holder, Tombstone

_CLUSTERS = "data/dedup/clusters.parquet"


@dataclass(frozen=True)
class Finding:
    """What one request means: the documents that match it, and all that go with them."""

    request: Request
    matches: tuple[Match, ...]
    documents: tuple[Document, ...]


@dataclass(frozen=True)
class Plan:
    """The answer to `glm takedown plan`.

    Attributes:
        findings: one for each request, those without a match too.
        fates: what became of each document; see `ledger.query.trace.Fate`.
        exposures: what each segment of the journal was shown of all of them together.
        clean: newest checkpoint of the main line before its first exposure; None where there is none.
        retrain: cost of the segments behind it.
        rebuild: cost of the stages that `dvc repro` does again, the training counted whole.
        derived: (path, what of the documents is in it), for all that was made from them.
        unaddressed: documents of the corpus that state no address.
    """

    findings: tuple[Finding, ...]
    fates: dict[str, str]
    exposures: tuple[Sighting, ...]
    clean: str | None
    retrain: cost.Cost
    rebuild: cost.Cost
    derived: tuple[tuple[str, str], ...]
    unaddressed: int

    @property
    def documents(self) -> list[Document]:
        """Every document once, by id."""
        found = {document.doc_id: document for finding in self.findings for document in finding.documents}
        return [found[doc_id] for doc_id in sorted(found)]


def findings(root: Path, requests: Sequence[Request], least: float = 0.5) -> tuple[Finding, ...]:
    """The documents that requests mean, with all their copies; see `ledger.query.match.find`."""
    matches = find(root, requests, least)
    wanted = {match.doc_id for found in matches for match in found}
    members = _clusters(root, wanted)
    of_cluster: dict[str, list[str]] = {}
    for doc_id, (cluster, _) in members.items():
        of_cluster.setdefault(cluster, []).append(doc_id)
    hashes = _hashes(root, wanted | members.keys())
    shared = _shared(root, hashes)
    labelled = {match.doc_id for found in matches for match in found} - _ids(root / CORPUS, wanted)

    def document(doc_id: str) -> Document:
        role = "labelled row" if doc_id in labelled else "single"
        if doc_id in members:
            role = "survivor" if members[doc_id][1] else "copy"
        return Document(doc_id, hashes[doc_id], role, hashes[doc_id] not in shared)

    found = []
    for request, own in zip(requests, matches, strict=True):
        names = {match.doc_id for match in own}
        names |= {copy for doc_id in names & members.keys() for copy in of_cluster[members[doc_id][0]]}
        found.append(Finding(request, tuple(own), tuple(map(document, sorted(names)))))
    return tuple(found)


def plan(ledger: Ledger, requests: Sequence[Request], power: cost.Power | None = None, least: float = 0.5) -> Plan:
    """What taking down would mean.

    Raises:
        LedgerError: the project is incomplete, or an artifact does not belong to the others.
    """
    root, segments = ledger.root, ledger.journal.segments
    found = findings(root, requests, least)
    fates = ledger.fates(_names(found))
    shown = _shown(ledger, fates.values())
    line = ledger.journal.main_line()
    touched = {sighting.segment for sighting in shown if sighting.exposures}
    clean = [segment for segment in line if segment.index not in touched and segment.checkpoint]
    behind = [segment for segment in segments if segment.index in touched]
    path = {segment.index for segment in line}
    redone = sorted({"decontaminate", "instruct", *cost.descendants(root, "decontaminate")})
    power = power or cost.Power()
    return Plan(
        findings=found,
        fates={name: str(fate) for name, fate in fates.items()},
        exposures=shown,
        clean=clean[-1].checkpoint if clean else None,
        retrain=cost.total(cost.of_segments(ledger, [s for s in behind if s.index in path], path, power)),
        rebuild=cost.total(cost.of_stages(root, redone, power)),
        derived=tuple(derived(root, list(fates), behind, redone)),
        unaddressed=unaddressed(root),
    )


def stones(root: Path, found: Iterable[Finding], date: str) -> list[Tombstone]:
    """A tombstone for each request that means any document, with the checkpoints that were shown them, if any was trained.

    Raises:
        LedgerError: there is a training, but the project is incomplete.
    """
    found = [finding for finding in found if finding.documents]
    ledger = Ledger(root) if (root / "data/pretrain/journal.jsonl").is_file() else None
    fates = ledger.fates(_names(found)) if ledger is not None else {}
    entries = []
    for finding in found:
        held_by = _holders(ledger, [fates[d.doc_id] for d in finding.documents]) if ledger is not None else ()
        entries.append(Tombstone(finding.request.kind, finding.request.label, date, finding.documents, held_by))
    return entries


def _shown(ledger: Ledger, fates: Iterable[Fate]) -> tuple[Sighting, ...]:
    return ledger.sightings([fate.doc_index for fate in fates if fate.doc_index is not None])


def _holders(ledger: Ledger, fates: Iterable[Fate]) -> tuple[Holder, ...]:
    """The checkpoints that were shown any of the documents."""
    weights = {segment.index: str(segment.weights_sha256) for segment in ledger.journal.segments}
    return tuple(
        Holder(line.checkpoint, weights[line.segment], line.exposures, line.tokens, line.first_step)
        for line in _shown(ledger, fates)
        if line.checkpoint is not None and line.first_step is not None
    )


def _names(found: Iterable[Finding]) -> list[str]:
    return sorted({document.doc_id for finding in found for document in finding.documents})


def derived(root: Path, doc_ids: Sequence[str], touched: Sequence[Segment], redone: Sequence[str]) -> list[tuple[str, str]]:
    """Everything made from the documents that lies in the project, with what of them is in it."""
    found = [(f"data/{stage}", "their text") for stage in ("corpus", "clean", "dedup") if _present(root, stage)]
    found += [(f"data/{stage}", "their text, or what was made from it") for stage in redone if stage != cost.TRAINING]
    weights = {segment.weights_sha256: segment.checkpoint for segment in touched if segment.weights_sha256}
    for digest, name in weights.items():
        there = (root / "data/pretrain/checkpoints" / str(name)).is_dir()
        found.append(
            (f"data/pretrain/checkpoints/{name}", f"trained on them; weights {digest[:12]}" + ("" if there else "; gone"))
        )
    for file in sorted((root / "data/quantize").glob("*/config.json")):
        text = file.read_text(encoding="utf-8")
        parents = [name for digest, name in weights.items() if digest in text]
        found += [(file.parent.relative_to(root).as_posix(), f"quantized from {parent}") for parent in parents]
    return found if doc_ids else []


# --- tables ----------------------------------------------------------------------------------------------------------------


def _clusters(root: Path, wanted: set[str]) -> dict[str, tuple[str, bool]]:
    """(cluster, survivor) of every member of every cluster that holds one of the documents."""
    if not (root / _CLUSTERS).is_file():
        return {}
    table = _read(root / _CLUSTERS, ["doc_id", "cluster", "survivor"])
    names = table.filter(_among("doc_id", wanted) | _among("cluster", wanted))["cluster"]
    members = table.filter(_among("cluster", pc.unique(names).to_pylist()))
    return {row["doc_id"]: (row["cluster"], row["survivor"]) for row in members.to_pylist()}


def _hashes(root: Path, doc_ids: Iterable[str]) -> dict[str, str]:
    """raw_sha256 of documents and labelled rows."""
    wanted = _among("doc_id", doc_ids)
    tables = [_read(path, ["doc_id", "raw_sha256"], wanted) for path in (root / CORPUS, root / LABELLED) if path.exists()]
    return {row["doc_id"]: row["raw_sha256"] for table in tables for row in table.to_pylist()}


def _shared(root: Path, hashes: dict[str, str]) -> set[str]:
    """Those of the hashes that documents bear which are not among these."""
    wanted = _among("raw_sha256", set(hashes.values()))
    holders = Counter(_read(root / CORPUS, ["raw_sha256"], wanted)["raw_sha256"].to_pylist())
    own = Counter(hashes.values())
    return {digest for digest, count in holders.items() if count > own[digest]}


def _ids(path: Path, doc_ids: set[str]) -> set[str]:
    return set(_read(path, ["doc_id"], _among("doc_id", doc_ids))["doc_id"].to_pylist())


def unaddressed(root: Path) -> int:
    """Documents of the corpus that state no address."""
    return int(_read(root / CORPUS, ["url"])["url"].null_count)


def _present(root: Path, stage: str) -> bool:
    return (root / "data" / stage / "manifest.json").is_file()


def _among(column: str, values: Iterable[str]) -> pc.Expression:
    return pc.field(column).isin(pa.array(sorted(values), pa.string()))


def _read(path: Path, columns: list[str], filters: pc.Expression | None = None) -> pa.Table:
    import pyarrow.dataset as ds

    return ds.dataset(path, format="parquet").to_table(columns=columns, filter=filters)

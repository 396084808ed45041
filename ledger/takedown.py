"""Takedowns: what a request means for the corpus and every checkpoint, the tombstones that carry it out, the proof that it was.

A request means the documents that match it (`ledger.match`), every copy of these that deduplication dropped, and the survivor
that was trained on in their place: of a cluster of duplicates either all go, or the next build keeps another member.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ledger import cost
from ledger.journal import Segment
from ledger.match import CORPUS, LABELLED, Match, Request, find
from ledger.query import Ledger
from ledger.tombstones import Document, Holder, Tombstone

_CLUSTERS = "data/dedup/clusters.parquet"
_TRAIN, _HELDOUT = "data/encode/train.documents.parquet", "data/encode/heldout.documents.parquet"


@dataclass(frozen=True)
class Finding:
    """What one request means: the documents that match it, and all that go with them."""

    request: Request
    matches: tuple[Match, ...]
    documents: tuple[Document, ...]


@dataclass(frozen=True)
class Exposure:
    """What a checkpoint (or an abandoned segment that left none) was shown of the documents; steps None where of nothing."""

    checkpoint: str | None
    segment: int
    status: str
    documents: int
    exposures: int
    tokens: int
    first_step: int | None
    last_step: int | None


@dataclass(frozen=True)
class Plan:
    """The answer to `glm takedown plan`.

    Attributes:
        findings: one for each request, those without a match too.
        fates: what became of each document: `trained on`, `labelled row`, `held out`, or why it is in neither side.
        exposures: one for each segment of the journal.
        clean: newest checkpoint of the main line before its first exposure; None where there is none.
        retrain: cost of the segments behind it.
        rebuild: cost of the stages that `dvc repro` does again, the training counted whole.
        derived: (path, what of the documents is in it), for all that was made from them.
        unaddressed: documents of the corpus that state no address, where one was asked for.
    """

    findings: tuple[Finding, ...]
    fates: dict[str, str]
    exposures: tuple[Exposure, ...]
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
    """The documents that requests mean, with all their copies; see `ledger.match.find`."""
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
    root = ledger.root
    found = findings(root, requests, least)
    names = _names(found)
    exposed = Shown(ledger, names).exposures()
    segments = ledger.journal.segments
    line = ledger.journal.main_line()
    touched = {line.segment for line in exposed if line.exposures}
    clean = [segment for segment in line if segment.index not in touched and segment.checkpoint]
    behind = [segment for segment in segments if segment.index in touched]
    path = {segment.index for segment in line}
    redone = sorted({"decontaminate", "instruct", *cost.descendants(root, "decontaminate")})
    power = power or cost.Power()
    return Plan(
        findings=found,
        fates=fates(root, names),
        exposures=tuple(exposed),
        clean=clean[-1].checkpoint if clean else None,
        retrain=cost.total(cost.of_segments(ledger, [s for s in behind if s.index in path], path, power)),
        rebuild=cost.total(cost.of_stages(root, redone, power)),
        derived=tuple(derived(root, names, [s for s in segments if s.index in touched], redone)),
        unaddressed=_unaddressed(root) if any(request.kind in ("url", "domain") for request in requests) else 0,
    )


def stones(root: Path, found: Iterable[Finding], date: str) -> list[Tombstone]:
    """A tombstone for each request that means any document, with the checkpoints that were shown them, if any was trained.

    Raises:
        LedgerError: there is a training, but the project is incomplete.
    """
    found = [finding for finding in found if finding.documents]
    shown = Shown(Ledger(root), _names(found)) if (root / "data/pretrain/journal.jsonl").is_file() else None
    entries = []
    for finding in found:
        documents = finding.documents
        held_by = () if shown is None else shown.holders({document.doc_id for document in documents})
        entries.append(Tombstone(finding.request.kind, finding.request.label, date, documents, held_by))
    return entries


def _names(found: Iterable[Finding]) -> list[str]:
    return sorted({document.doc_id for finding in found for document in finding.documents})


# --- what the training saw -------------------------------------------------------------------------------------------------


class Shown:
    """What the segments of a journal, and the checkpoints they left, were shown of some documents."""

    def __init__(self, ledger: Ledger, doc_ids: Sequence[str]) -> None:
        tables = [_read(ledger.root / path, ["doc_id", "doc_index"]) for path in (_TRAIN, LABELLED)]
        known = pa.concat_tables(tables, promote_options="permissive").filter(_among("doc_id", doc_ids))
        self._index = dict(zip(known["doc_id"].to_pylist(), known["doc_index"].to_pylist(), strict=True))
        pieces = ledger.pieces(["sample", "doc_index", "length"])
        pieces = pieces.filter(pc.is_in(pieces["doc_index"], known["doc_index"].combine_chunks()))
        sample, document, length = (pieces[name].to_numpy() for name in ("sample", "doc_index", "length"))
        self._ledger, segments = ledger, ledger.journal.segments
        until = max((segment.last_sample + 1 for segment in segments), default=0)
        which, self._consumption = ledger.plan.order.consumptions(sample, until)  # a row for each piece, each time it is read
        self._row, self._document, self._length = sample[which], document[which], length[which].astype(np.int64)
        self._within = {s.index: _within(self._consumption, ledger.trained([s])) for s in segments}

    def exposures(self, doc_ids: Iterable[str] | None = None) -> list[Exposure]:
        """One for each segment, of all the documents or of some of them together."""
        wanted = np.ones(len(self._row), np.bool_)
        if doc_ids is not None:
            wanted = np.isin(self._document, [self._index[doc_id] for doc_id in doc_ids if doc_id in self._index])
        return [self._exposure(segment, wanted) for segment in self._ledger.journal.segments]

    def holders(self, doc_ids: Iterable[str]) -> tuple[Holder, ...]:
        """The checkpoints that were shown any of the documents."""
        weights = {segment.index: segment.weights_sha256 for segment in self._ledger.journal.segments}
        return tuple(
            Holder(line.checkpoint, str(weights[line.segment]), line.exposures, line.tokens, line.first_step)
            for line in self.exposures(doc_ids)
            if line.checkpoint is not None and line.first_step is not None
        )

    def _exposure(self, segment: Segment, wanted: npt.NDArray[np.bool_]) -> Exposure:
        journal = self._ledger.journal
        ancestry = journal.ancestry(segment) if segment.checkpoint else [segment]
        shown = wanted & np.logical_or.reduce([self._within[ancestor.index] for ancestor in ancestry])
        steps = self._ledger.plan.ramp.step_of(self._consumption[shown])
        left = segment.status == "kept" and segment.index not in {other.index for other in journal.main_line()}
        return Exposure(
            checkpoint=segment.checkpoint,
            segment=segment.index,
            status="left behind" if left else segment.status,
            documents=len(np.unique(self._document[shown])),
            exposures=len(np.unique(self._consumption[shown])),
            tokens=int(self._length[shown].sum()),
            first_step=int(steps.min()) if len(steps) else None,
            last_step=int(steps.max()) if len(steps) else None,
        )


def fates(root: Path, doc_ids: Sequence[str]) -> dict[str, str]:
    """What became of each document."""
    found = dict.fromkeys(doc_ids, "unknown")
    tables = [
        ("data/clean/drops.parquet", ["doc_id", "reason"], lambda row: f"dropped by clean: {row['reason']}"),
        (_CLUSTERS, ["doc_id", "cluster", "kind", "survivor"], _duplicate),
        ("data/decontaminate/hits.parquet", ["doc_id", "evaluation"], lambda row: f"overlaps with {row['evaluation']}"),
        ("data/decontaminate/takedowns.parquet", ["doc_id"], lambda row: "taken down"),
        (_HELDOUT, ["doc_id"], lambda row: "held out"),
        (_TRAIN, ["doc_id"], lambda row: "trained on"),
        (LABELLED, ["doc_id"], lambda row: "trained on, labelled row"),
    ]
    for path, columns, says in tables:
        if (root / path).is_file():
            for row in _read(root / path, columns, _among("doc_id", doc_ids)).to_pylist():
                found[row["doc_id"]] = says(row) or found[row["doc_id"]]
    return found


def _duplicate(row: dict[str, Any]) -> str:
    return "" if row["survivor"] else f"{row['kind']} duplicate of {row['cluster']}"


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


def _unaddressed(root: Path) -> int:
    return int(_read(root / CORPUS, ["url"])["url"].null_count)


def _present(root: Path, stage: str) -> bool:
    return (root / "data" / stage / "manifest.json").is_file()


def _among(column: str, values: Iterable[str]) -> pc.Expression:
    return pc.field(column).isin(pa.array(sorted(values), pa.string()))


def _read(path: Path, columns: list[str], filters: pc.Expression | None = None) -> pa.Table:
    import pyarrow.dataset as ds

    return ds.dataset(path, format="parquet").to_table(columns=columns, filter=filters)


def _within(values: Any, ranges: Any) -> Any:
    """Which of `values` lie in one of the ascending half-open `ranges`."""
    return np.searchsorted(ranges.ravel(), values, side="right") % 2 == 1

"""The stage's steps: measure, split, index what is evaluated, scan what is trained on, name the owners, write both sides."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages import _documents, _manifest, _takedowns
from stages._runner import StageError, StageIO
from stages.decontaminate import hits, scan
from stages.decontaminate.evaluations import EVALUATED, Evidence, find_files, read_evidence
from stages.decontaminate.hashes import HashSet, distinct, ngram_hashes
from stages.decontaminate.params import HELDOUT, Params
from stages.decontaminate.scan import HELDOUT_SIDE, REMOVED, TAKEN_DOWN, TRAIN
from stages.decontaminate.split import split

Counts = dict[str, dict[str, int]]  # of documents and bytes, by source
TAKEDOWNS = pa.schema([("doc_id", pa.string()), ("raw_sha256", pa.string())])
_ENTRIES = pa.schema([("doc_id", pa.large_string()), ("source", pa.string()), ("bytes", pa.int64())])


@dataclass(frozen=True)
class Sources:
    """The evaluation sets as read, by name or all together.

    Attributes:
        tables: addresses of the `EVALUATED` rows.
        templates: passages that are the prompt's own words.
        record: what goes into the counts.
        passages: every passage to look for, with its language, sorted.
        hashes: of every n-gram, sorted.
    """

    tables: dict[str, str]
    templates: dict[str, set[str]]
    record: dict[str, dict[str, Any]]
    passages: list[tuple[str, str]]
    hashes: NDArray[np.uint64]


@dataclass(frozen=True)
class Part:
    """One shard of the input, and where something made of it goes."""

    shard: str
    output: str
    hashes: str = ""
    side: str = ""
    ngram: dict[str, int] = field(default_factory=dict)


# --- what workers do -------------------------------------------------------------------------------------------------------


def measure(task: Part) -> int:
    """Write doc_id, source and bytes of every document of a shard.

    Raises:
        StageError: a language without a length.
    """
    parts = []
    for batch in _documents.read_batches(task.shard, ["doc_id", "source", "lang", "text"]):
        for lang, rows in scan.by_language(batch):
            if lang not in task.ngram:
                remedy = "add it to decontaminate.ngram"
                name = task.shard.rpartition("/")[2]
                raise StageError(f"no n-gram length for language {lang!r}", file=name, row=rows["doc_id"][0], remedy=remedy)
        size = pc.cast(pc.binary_length(batch["text"]), pa.int64())
        names = batch["doc_id"].cast(pa.large_string())  # all of them together may have more than 2 GiB
        parts.append(pa.record_batch([names, batch["source"], size], schema=_ENTRIES))
    return _documents.write_batches(task.output, _ENTRIES, parts)


def take_heldout(task: Part) -> dict[str, Any]:
    """Write a shard's held-out documents, and the hashes of their n-grams beside.

    Gives the number of hashes, that of documents shorter than an n-gram, and documents and bytes by source.
    """
    found = [np.zeros(0, np.uint64)]
    too_short = 0
    counts: Counts = {}

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal too_short
        for batch in scan.side_batches(task.shard, scan.load_array(task.side), HELDOUT_SIDE, None):
            _count(batch, counts)
            for lang, rows in scan.by_language(batch):
                hashes, splits = ngram_hashes(rows["text"], task.ngram[lang])
                found.append(distinct(hashes))
                too_short += int((np.diff(splits) == 0).sum())
            yield batch

    _documents.write_batches(task.output, _documents.SCHEMA, batches())
    ordered = distinct(np.concatenate(found))
    scan.save_array(task.hashes, ordered)
    return {"hashes": len(ordered), "too_short": too_short, "sources": counts}


def write_train(task: Part) -> Counts:
    """Write the training documents of a shard; documents and bytes by source."""
    counts: Counts = {}

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in scan.side_batches(task.shard, scan.load_array(task.side), TRAIN, None):
            _count(batch, counts)
            yield batch

    _documents.write_batches(task.output, _documents.SCHEMA, batches())
    return counts


def _count(batch: pa.RecordBatch, counts: Counts) -> None:
    for source in pc.unique(batch["source"]).to_pylist():
        texts = batch.filter(pc.equal(batch["source"], source))["text"]
        size = pc.sum(pc.cast(pc.binary_length(texts), pa.int64())).as_py()
        counter = counts.setdefault(source, {"documents": 0, "bytes": 0})
        counter["documents"] += len(texts)
        counter["bytes"] += size


# --- the stage -------------------------------------------------------------------------------------------------------------


def build(params: Params, io: StageIO) -> dict[str, Any]:
    """Split, look for overlaps, write both sides."""
    shards = io.shards("data/dedup", "documents/*.parquet")
    entries, bounds = _entries(shards, params, io)
    side = np.where(split(entries, params.heldout_share, params.seed), HELDOUT_SIDE, TRAIN).astype(np.int8)
    taken_down = _take_down(shards, side, io)  # after the split, so that the others stand where they stood
    sides = [io.work(f"side/{Path(shard).name}.npy") for shard in shards]
    _save_sides(sides, side, bounds)
    sets = _read_sets(params, io)
    heldout, taken = _take_heldout(shards, sides, params, io)
    scan.save_array(io.work("evaluated.npy"), sets.hashes)
    hashes = {task.hashes: counts["hashes"] for task, counts in zip(heldout, taken, strict=True)}
    hashes[io.work("evaluated.npy")] = len(sets.hashes)
    candidates = _scan(shards, sides, sets, hashes, params, io)
    owned = [task.output for task in heldout]
    found, formulas, matched = _hits(owned, sides, candidates, sets, params, io)
    _must_match(params, side, matched)
    rows = np.unique(np.array([hit.row for hit in found], np.int64))
    if params.action == "remove":
        side[rows] = REMOVED
        _save_sides(sides, side, bounds)
    names = entries["doc_id"]
    table = ({**hit._asdict(), "doc_id": names[hit.row].as_py(), "action": params.action} for hit in found)
    _documents.write_table(io.output / "hits.parquet", hits.HITS, ({n: row[n] for n in hits.HITS.names} for row in table))
    tasks = [
        Part(shard, io.target(f"train/documents/{Path(shard).name}"), side=side)
        for shard, side in zip(shards, sides, strict=True)
    ]
    train = _added(io.map(write_train, tasks, "writing", key="train"))
    if not train:
        raise StageError("no training document is left", file="data/dedup/documents", remedy="see decontaminate in params.yaml")
    for name, record in sets.record.items():
        record["matched"] = len(matched.get(name, ()))
    return {
        "documents_in": len(entries),
        "train": train,
        HELDOUT: _added([counts["sources"] for counts in taken]),
        "contaminated": _by_source(entries.take(pa.array(rows))),
        "removed": int((side == REMOVED).sum()),
        "hits": dict(Counter(hit.evaluation for hit in found)),
        "hits_by_method": dict(Counter(hit.method for hit in found)),
        "formulas": formulas,
        "evaluations": sets.record,
        "heldout_too_short": sum(counts["too_short"] for counts in taken),
        **taken_down,
    }


def _entries(shards: list[str], params: Params, io: StageIO) -> tuple[pa.Table, NDArray[np.int64]]:
    """doc_id, source, bytes and group of every document in the order of the shards, and where each shard begins and ends."""
    tasks = [Part(shard, io.work(f"entries/{Path(shard).name}"), ngram=params.ngram) for shard in shards]
    numbers = io.map(measure, tasks, "measuring", key="measure")
    batches = [batch for task in tasks for batch in _documents.read_batches(task.output)]
    if not batches:
        raise StageError("no document to split", file="data/dedup/documents", remedy="look at the counts of the stages before")
    entries = pa.Table.from_batches(batches)
    clusters = pq.read_table(io.input("data/dedup/clusters.parquet"), columns=["doc_id", "group"])
    members, groups = (clusters[name].cast(pa.large_string()).combine_chunks() for name in ("doc_id", "group"))
    names = entries["doc_id"].combine_chunks()
    group = pc.coalesce(groups.take(pc.index_in(names, members)), names)
    return entries.append_column("group", group), np.cumsum([0, *numbers])


def _take_down(shards: list[str], side: NDArray[np.int8], io: StageIO) -> dict[str, int]:
    """Put what the tombstones name on no side, and write down what that is; counts nothing where there are no tombstones."""
    stones = _takedowns.of_stage(io)
    if not stones:
        return {}
    columns = TAKEDOWNS.names

    def names() -> Iterator[pa.RecordBatch]:
        return (batch for shard in shards for batch in _documents.read_batches(shard, columns))

    mask = _takedowns.named(names(), stones)
    side[mask] = TAKEN_DOWN
    rows = pa.Table.from_batches(names()).filter(pa.array(mask))
    _documents.write_table(io.output / "takedowns.parquet", TAKEDOWNS, rows.to_pylist())
    return {"taken_down": len(rows)}


def _save_sides(addresses: list[str], side: NDArray[np.int8], bounds: NDArray[np.int64]) -> None:
    for address, start, end in zip(addresses, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        scan.save_array(address, side[start:end])


def _read_sets(params: Params, io: StageIO) -> Sources:
    """Read the evaluation sets: once here, by their own readers; what comes after reads the tables that are left."""
    sets = Sources({}, {}, {}, [], np.zeros(0, np.uint64))
    passages: set[tuple[str, str]] = set()
    hashes = [sets.hashes]
    for evaluation in params.evaluations:
        name = evaluation.name
        files = find_files(evaluation, io)
        items: Counter[str] = Counter()
        spread: Counter[tuple[str, str]] = Counter()
        sets.tables[name] = io.work(f"evaluated/{name}.parquet")
        entries = io.track(read_evidence(evaluation, files, params), name)
        _documents.write_table(sets.tables[name], EVALUATED, _counted(entries, items, spread))
        if items["items"] == items["too_short"]:
            raise StageError(f"evaluation set {name!r} has no item of n-gram length", file=files[0])
        for batch in _documents.read_batches(sets.tables[name], ["n", "text"]):
            for n in pc.unique(pc.drop_null(batch["n"])).to_pylist():
                hashes.append(distinct(ngram_hashes(batch.filter(pc.equal(batch["n"], n))["text"], n)[0]))
        sets.templates[name] = {passage for (passage, _), number in spread.items() if number > params.max_documents}
        passages |= {key for key in spread if key[0] not in sets.templates[name]}
        digests = {file.name: _manifest.sha256_file(file) for file in files}
        sets.record[name] = {**items, "templates": len(sets.templates[name]), "sha256": digests}
    return replace(sets, passages=sorted(passages), hashes=distinct(np.concatenate(hashes)))


def _counted(entries: Iterable[Evidence], items: Counter[str], spread: Counter[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """The rows of all entries; on the way entries are counted, and in how many of them each passage stands."""
    for entry in entries:
        items.update(items=1, too_short=not entry.texts and not entry.passages)
        spread.update(set(entry.passages))
        yield from entry.rows()


def _take_heldout(shards: list[str], sides: list[str], params: Params, io: StageIO) -> tuple[list[Part], list[dict[str, Any]]]:
    tasks = [
        Part(shard, io.target(f"{HELDOUT}/documents/{name}"), io.work(f"heldout/{name}.npy"), side, params.ngram)
        for shard, side, name in zip(shards, sides, [Path(shard).name for shard in shards], strict=True)
    ]
    return tasks, io.map(take_heldout, tasks, "taking held-out documents", key="heldout")


def _scan(
    shards: list[str], sides: list[str], sets: Sources, hashes: dict[str, int], params: Params, io: StageIO
) -> list[list[str]]:
    """Look through every shard; the addresses of the candidates by shard, one for each part of the index.

    The index, of all `hashes` (addresses, and how many stand there), is cut by their values into parts that fit every worker's
    share of the memory, and the shards are read once for each part.
    """
    room = io.settings.max_memory // io.settings.processes
    parts = max(1, math.ceil(sum(hashes.values()) * HashSet.BYTES / room))
    substring = {lang: min(n, params.ngram[lang]) for lang, n in (params.substring or {}).items()}
    passages = None
    if sets.passages:
        passages = io.work("passages.parquet")
        _documents.write_batches(passages, scan.PASSAGES, scan.passage_table(sets.passages, substring).to_batches())
    scans = []
    for part in range(parts):
        address = io.work(f"index/{part:04d}-of-{parts:04d}.npy")
        mine = [array[array % parts == part] for array in map(scan.load_array, hashes)]
        scan.save_array(address, distinct(np.concatenate(mine)))
        for shard, side in zip(shards, sides, strict=True):
            output = io.work(f"candidates/{part:04d}-of-{parts:04d}/{Path(shard).name}")
            scans.append(scan.Scan(shard, side, address, passages if part == 0 else None, output, params.ngram, substring))
    io.map(scan.scan, scans, "looking for overlaps", key=f"scan-{parts}")
    return [[task.output for task in scans[number :: len(shards)]] for number in range(len(shards))]


def _hits(
    heldout: list[str], sides: list[str], candidates: list[list[str]], sets: Sources, params: Params, io: StageIO
) -> tuple[list[hits.Hit], int, dict[str, set[str]]]:
    """All hits with rows counted over the corpus, the number of formulas, and the matched items of every evaluation."""
    documents, hashes = hits.spread(candidates)
    owners = hits.Owners(documents)
    if documents:
        wanted = io.work("wanted.npy")
        scan.save_array(wanted, hashes)
        tasks = [hits.Naming(shard, wanted, io.work(f"owners/{Path(shard).name}"), params.ngram) for shard in heldout]
        io.map(hits.name_owners, tasks, "naming what was matched", key="owners")
        owners.add_documents(task.output for task in tasks)
        for name, table in sets.tables.items():
            owners.add_set(name, table, HashSet(hashes), sets.templates[name])
    formulas = {text for text, number in documents.items() if number > params.max_documents and owners.items(text)}
    found, start = [], 0
    for files, address in zip(candidates, sides, strict=True):
        found += [hit._replace(row=start + hit.row) for hit in hits.find_hits(files, owners, formulas)]
        start += len(scan.load_array(address))
    return found, len(formulas), owners.matched


def _must_match(params: Params, side: NDArray[np.int8], matched: dict[str, set[str]]) -> None:
    """Refuse an evaluation that overlaps with nothing at all: more often a broken rule than a clean corpus."""
    evaluated = [evaluation.name for evaluation in params.evaluations]
    if (side == HELDOUT_SIDE).any():
        evaluated.append(HELDOUT)
    for name in evaluated:
        if name not in matched and name not in params.may_match_nothing:
            raise StageError(
                f"no training document overlaps with anything of {name!r}",
                file="data/dedup/documents",
                remedy="look at its form and language; name it in decontaminate.may_match_nothing if that is to be expected",
            )


def _added(parts: Iterable[Counts]) -> Counts:
    total: dict[str, Counter[str]] = {}
    for counts in parts:
        for source, counter in counts.items():
            total.setdefault(source, Counter()).update(counter)
    return {source: dict(counter) for source, counter in total.items()}


def _by_source(entries: pa.Table) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for source, size in zip(entries["source"].to_pylist(), entries["bytes"].to_pylist(), strict=True):
        counts.setdefault(source, Counter()).update(documents=1, bytes=size)
    return {source: dict(counter) for source, counter in counts.items()}

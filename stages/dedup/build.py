"""The steps of dedup in order: maps over shards, bands and parts, with files between them."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages import _documents, _storage
from stages._errors import StageError
from stages._params import to_plain
from stages._runner import StageIO
from stages.dedup import components, tables
from stages.dedup.candidates import (
    COPIES,
    MOST_DOCUMENTS,
    BandTask,
    CopyTask,
    ScreenTask,
    band_groups,
    find_copies,
    find_pairs,
    ranges,
    screen,
)
from stages.dedup.gather import GatherTask, gather
from stages.dedup.output import (
    REMOVED,
    IndexBandsTask,
    IndexTask,
    WriteTask,
    index_bands,
    index_shard,
    write_survivors,
)
from stages.dedup.params import CLUSTERS, Params
from stages.dedup.passages import PASSAGES, CutTask, MarkTask, MatchTask, cut_passages, mark_passages, match_passages
from stages.dedup.signatures import SignTask, sign_shard
from stages.dedup.verify import MEMBERS, SettleTask, settle

_SORTED_AT_ONCE = 2**22  # fingerprints that are brought into order by one task


class Clusters(NamedTuple):
    """All documents that resemble another (MEMBERS, in the order of clusters.parquet), where signatures stand, and counts."""

    members: pa.Table
    layout: tables.Layout
    counts: dict[str, int]


def build(params: Params, io: StageIO) -> dict[str, Any]:
    """Cluster all documents, then write the survivors shard by shard.

    Raises:
        StageError: there is nothing to compare, or nothing was found and `may_match_nothing` does not allow it.
    """
    shards = io.shards("data/clean", "documents/*.parquet")
    names = [shard.rpartition("/")[2] for shard in shards]
    if not shards:
        raise StageError("no documents", file="data/clean/documents", remedy="see what clean dropped, and why")
    counts: dict[str, Any] = {}
    if params.passages:
        shards, counts = remove_passages(shards, params, io)
    found = find_clusters(shards, params, io)
    documents = found.layout.documents
    if not len(found.members) and not counts.get("passages_removed") and not params.may_match_nothing:
        raise StageError(
            f"none of {documents} documents resembles another: as a rule that is a mistake in parameters or input",
            remedy="check dedup in params.yaml, or set dedup.may_match_nothing",
        )
    removed = _write_removed(found.members, io)
    starts = found.layout.starts
    writes = [
        WriteTask(shard, start, removed, io.target(f"documents/{name}"))
        for shard, start, name in zip(shards, starts, names, strict=False)
    ]
    written = io.map(write_survivors, writes, "writing", key="documents")
    _documents.write_batches(io.output / "clusters.parquet", CLUSTERS, found.members.select(CLUSTERS.names).to_batches(4096))
    if params.index:
        _write_index(found, removed, names, params, io)
    lost, kept = Counter[str](), Counter[str]()
    for result in written:
        lost.update(result["lost"])
        kept.update(result["kept"])
    return {
        "documents_in": documents + counts.get("documents_emptied", 0),
        "documents": kept.total(),
        "removed": lost.total(),
        "removed_by_kind": dict(Counter(kind.rpartition(": ")[2] for kind in lost.elements())),
        "removed_by_source": dict(lost),
        "languages": dict(kept),
        **_cluster_counts(found.members),
        **found.counts,
        **counts,
    }


def find_clusters(shards: list[str], params: Params, io: StageIO) -> Clusters:
    """From the addresses of document shards (Parquet with doc_id, lang, text) to clusters."""
    signs = [SignTask(shard, io.work(f"signatures/{number:05d}.arrow"), params) for number, shard in enumerate(shards)]
    signed = io.map(sign_shard, signs, "signing", key="signatures")
    layout = tables.Layout(tuple(task.target for task in signs), _starts([result["documents"] for result in signed]))
    if layout.documents >= MOST_DOCUMENTS:
        raise StageError(f"{layout.documents} documents are too many for one run", remedy="dedup each language by itself")
    copies, copies_at = _find_copies(layout, io)
    screened, counts = _find_pairs(layout, copies_at, params, io)
    near = [tables.column(tables.open_table(address).get_batch(0), "pair") for address in screened]
    members = components.share_out(layout, copies, near, None if params.verify == "exact" else params.permutations)
    parts = components.count(members)
    tables.write(io.work("members.arrow"), components.MEMBERS, list(members))
    with tables.writer(io.work("edges.arrow"), components.PAIRS) as output:
        for batch in components.edges(members, near):
            output.write_batch(batch)
    gathers = [
        GatherTask(
            shards[number],
            layout.tables[number],
            layout.starts[number],
            io.work("members.arrow"),
            parts,
            io.work(f"gathered/{number:05d}.arrow"),
            params,
        )
        for number, _ in layout.inside(members.document)
    ]
    io.map(gather, gathers, "making sets", key="gathered")
    gathered = tuple(task.target for task in gathers)
    settles = [
        SettleTask(gathered, io.work("edges.arrow"), part, io.work(f"clusters/{part:05d}.arrow"), params)
        for part in range(parts)
    ]
    io.map(settle, settles, "comparing", unit="parts", key="clusters")
    read = [tables.open_table(task.target).get_batch(0) for task in settles]
    order = [("group", "ascending"), ("cluster", "ascending"), ("survivor", "descending"), ("doc_id", "ascending")]
    clusters = pa.Table.from_batches(read, MEMBERS).sort_by(order)
    counts |= {"capped": sum(result["capped"] for result in signed)}
    return Clusters(clusters, layout, counts)


def _find_copies(layout: tables.Layout, io: StageIO) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], str]:
    bits = _bits(layout.documents)
    tasks = [CopyTask(layout, part, bits, io.work(f"copies/{part:05d}.arrow")) for part in range(1 << bits)]
    io.map(find_copies, tasks, "finding copies", unit="parts", key="copies")
    read = [tables.open_table(task.target).get_batch(0) for task in tasks]
    document, head = (np.concatenate([tables.column(batch, name) for batch in read]) for name in ("document", "head"))
    order = np.argsort(document)
    copies = document[order], head[order]
    tables.write(io.work("copies.arrow"), COPIES, list(copies))
    return copies, io.work("copies.arrow")


def _find_pairs(layout: tables.Layout, copies: str, params: Params, io: StageIO) -> tuple[list[str], dict[str, int]]:
    memory = io.settings.max_memory // io.settings.processes
    groups = band_groups(layout, params)
    bands = [BandTask(layout, group, copies, memory, io.work(f"pairs/{group[0]:03d}.arrow"), params) for group in groups]
    found = io.map(find_pairs, bands, "finding pairs", unit="groups of bands", key="pairs")
    targets = tuple(task.target for task in bands)
    screens = [ScreenTask(layout, targets, part, io.work(f"near/{part:05d}.arrow"), params) for part in range(ranges(layout))]
    screened = io.map(screen, screens, "comparing signatures", unit="parts", key="near")
    counts = {
        "candidate_pairs": sum(result["candidates"] for result in screened),
        "screened_pairs": sum(result["screened"] for result in screened),
        "largest_bucket": max(result["largest_bucket"] for result in found),
    }
    return [task.target for task in screens], counts


def remove_passages(shards: list[str], params: Params, io: StageIO) -> tuple[list[str], dict[str, int]]:
    """The addresses of shards without copied lines or paragraphs, and counts; writes passages.parquet."""
    marks = [MarkTask(shard, io.work(f"marks/{number:05d}.arrow"), params) for number, shard in enumerate(shards)]
    marked = io.map(mark_passages, marks, "marking passages", key="marks")
    layout = tables.Layout(tuple(task.target for task in marks), _starts([result["documents"] for result in marked]))
    bits = _bits(sum(result["marked"] for result in marked))
    matches = [MatchTask(layout, part, bits, io.work(f"copied/{part:05d}.arrow")) for part in range(1 << bits)]
    io.map(match_passages, matches, "matching passages", unit="parts", key="copied")
    copied = tuple(task.target for task in matches)
    cuts = [
        CutTask(shard, number, copied, io.work(f"cut/{number:05d}.parquet"), io.work(f"cuts/{number:05d}.parquet"), params)
        for number, shard in enumerate(shards)
    ]
    cut = io.map(cut_passages, cuts, "cutting passages", key="cut")
    records = (batch for task in cuts for batch in _documents.read_batches(task.record))
    _documents.write_batches(io.output / "passages.parquet", PASSAGES, records)
    return [task.target for task in cuts], {
        "passages": sum(result["passages"] for result in marked),
        "passages_removed": sum(result["removed"] for result in cut),
        "documents_emptied": sum(result["emptied"] for result in cut),
    }


def _write_removed(members: pa.Table, io: StageIO) -> str:
    gone = members.filter(pc.invert(members["survivor"])).sort_by("document")
    exact = pc.equal(gone["kind"], "exact").combine_chunks()
    tables.write(io.work("removed.arrow"), REMOVED, [gone["document"].combine_chunks(), exact])
    return io.work("removed.arrow")


def _write_index(found: Clusters, removed: str, names: list[str], params: Params, io: StageIO) -> None:
    stems = [name.removesuffix(".parquet") for name in names]
    shards = [
        IndexTask(table, start, removed, io.target(f"index/signatures/{stem}.arrow"), params)
        for table, start, stem in zip(found.layout.tables, found.layout.starts, stems, strict=False)
    ]
    rows = io.map(index_shard, shards, "indexing", key="index")
    memory = io.settings.max_memory // io.settings.processes
    bands = [
        IndexBandsTask(
            found.layout, group, removed, memory, tuple(io.target(f"index/bands/{band:03d}.arrow") for band in group), params
        )
        for group in band_groups(found.layout, params)
    ]
    io.map(index_bands, bands, "indexing", unit="groups of bands", key="index_bands")
    index = {
        "params": to_plain(params),
        "shards": [{"name": stem, "rows": count} for stem, count in zip(stems, rows, strict=True)],
    }
    with _storage.atomic_output(io.output / "index" / "index.json") as stream:
        stream.write((json.dumps(index, indent=1, sort_keys=True) + "\n").encode())


def _cluster_counts(members: pa.Table) -> dict[str, int]:
    sizes = pc.value_counts(members["cluster"])
    return {
        "clusters": len(sizes),
        "groups": len(pc.unique(members["group"])),
        "largest_cluster": pc.max(sizes.field("counts")).as_py() or 0 if len(sizes) else 0,
    }


def _starts(lengths: list[int]) -> tuple[int, ...]:
    return tuple(int(start) for start in np.cumsum([0, *lengths]))


def _bits(rows: int) -> int:
    return max(0, (rows - 1) // _SORTED_AT_ONCE).bit_length()

"""Plans what is read, has it read by the workers, and puts documents, quarantine and register in their places."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pyarrow as pa

from stages import _storage
from stages._documents import read_shard, write_table
from stages._errors import StageError
from stages._manifest import canonical, sha256_json, write_atomic
from stages._params import to_plain
from stages._runner import StageIO
from stages.corpus.download import of_stage
from stages.corpus.params import Origin, Params, Source
from stages.corpus.plan import Task, plan
from stages.corpus.reading import read_units
from stages.corpus.remote import public
from stages.corpus.repeats import without_repeats
from stages.corpus.shelf import QUARANTINE, Tally

FILES = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
_ORIGINS = "corpus.origins"


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Write every source's documents, `quarantine.parquet`, `files.parquet` and `sources.json`; return counts by source."""
    tasks, matched = plan(params, io)
    results = io.map(read_units, tasks, "reading", "groups of files", key="read")
    results, repeated, replaced = without_repeats(tasks, results, params)
    register: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    for origin in params.origins:
        mine = [(task, result) for task, result in zip(tasks, results, strict=True) if task.origin == origin]
        read = {file["file"]: file for _, result in mine for file in result["files"]}
        sha256 = _digest(origin, read)
        files += [{"source": source.id, **read[name]} for source in origin.sources for name in sorted(read)]
        for source in origin.sources:
            tally = Tally(matched=matched[source.id])
            for task, result in mine:
                for shard in range(result["sources"][source.id]["shards"]):
                    made = task.shard(source, shard)
                    name = f"{source.id}-{tally.shards + shard:05d}.parquet"  # its number in the source
                    _storage.copy(replaced.get(made, made), io.output / "documents" / name)
                tally.add(result["sources"][source.id])
            _check(source, origin, tally, params)
            register.append(_entry(source, origin, tally, sha256, len(read)))
    write_table(io.output / "quarantine.parquet", QUARANTINE, chain(_quarantined(tasks, results), repeated))
    write_table(io.output / "files.parquet", FILES, files)
    write_atomic(io.output / "sources.json", canonical(register))
    io.notes["retrieved"] = of_stage(io).records()
    _report(register, io)
    return {
        "documents": sum(entry["documents"] for entry in register),
        "bytes": sum(entry["bytes"] for entry in register),
        "quarantined": sum(sum(entry["quarantined"].values()) for entry in register),
        "sources": {
            entry["id"]: {key: entry[key] for key in ("documents", "bytes", "quarantined", "passed")} for entry in register
        },
    }


def _digest(origin: Origin, read: dict[str, dict[str, Any]]) -> str:
    """The checksum of an origin: of its one file, or of the names and checksums of the files that were read.

    Raises:
        StageError: another one is pinned.
    """
    sums = {name: file["sha256"] for name, file in read.items()}
    single = origin.kind in ("pypi", "npm", "http") or (len(sums) == 1 and not origin.checksums)
    found = next(iter(sums.values()), "") if single else sha256_json(sums)
    if origin.kind == "local" and origin.sha256 not in (None, found):
        raise StageError(
            f"sources {', '.join(source.id for source in origin.sources)}: SHA-256 differs: "
            f"expected {origin.sha256}, found {found}",
            file=origin.path,
            remedy="if the files were changed on purpose, pin the new checksum in corpus.origins",
        )
    return found


def _check(source: Source, origin: Origin, tally: Tally, params: Params) -> None:
    """Whether what a source gave can be what was meant.

    Raises:
        StageError: a pattern found no file, no document was read, too many records were bad, or the size is not the expected.
    """
    file, folder = origin.file or origin.path or public(origin.name), source.folder or "/"
    missing = sorted(set(source.members) - tally.matched)
    if missing and not tally.capped:
        raise StageError(
            f"source {source.id}: no file matches {', '.join(missing)} below {folder}",
            file=file,
            remedy=f"correct folder and members in {_ORIGINS}",
        )
    bad = tally.quarantined.total()
    if bad > params.max_quarantine_share * (bad + tally.documents):
        reason, count = min(tally.quarantined.items(), key=lambda item: (-item[1], item[0]))
        raise StageError(
            f"source {source.id}: {bad} of {bad + tally.documents} records cannot be used, most of them ({count}): {reason}",
            file=file,
            remedy="check the reader, or raise corpus.max_quarantine_share; run with on_bad_document: stop to see the first",
        )
    if tally.documents == 0:
        raise StageError(f"source {source.id}: no document was read", file=file)
    for name, expected in (("documents", source.expected_documents), ("bytes", source.expected_bytes)):
        found = getattr(tally, name)
        if expected is not None and abs(found - expected) > params.tolerance * expected:
            raise StageError(
                f"source {source.id}: {found} {name} were read, {expected} expected",
                file=file,
                remedy=f"find out what changed, then correct expected_{name} in {_ORIGINS}",
            )


def _entry(source: Source, origin: Origin, tally: Tally, sha256: str, files: int) -> dict[str, Any]:
    """The register's entry."""
    address = origin.url or origin.listing or next(iter(origin.files), None)
    described = {key: value for key, value in to_plain(origin).items() if key not in ("sources", "keep")}
    return {
        **described,
        **to_plain(source),
        "url": public(address) if address else None,
        "sha256": sha256,
        "files_read": files,
        "documents": tally.documents,
        "bytes": tally.bytes,
        "quarantined": dict(tally.quarantined),
        "passed": dict(tally.passed),
        "parts": {name: dict(counts) for name, counts in tally.parts.items()},
        "capped": tally.capped,
    }


def _quarantined(tasks: list[Task], results: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task, result in zip(tasks, results, strict=True):
        if result["refused"]:
            yield from read_shard(task.quarantine)


def _report(register: list[dict[str, Any]], io: StageIO) -> None:
    reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for entry in register:
        for reason, count in entry["quarantined"].items():
            reasons[reason][entry["id"]] += count
    for reason, counts in sorted(reasons.items()):
        worst = ", ".join(f"{count} of {source}" for source, count in sorted(counts.items()))
        io.log(f"quarantined: {reason}: {worst}")

"""The stage: two maps over shards, one exchange of line counts between them, and what comes of their counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stages import _documents
from stages._runner import StageError, StageIO
from stages.clean import boilerplate
from stages.clean.params import Params
from stages.clean.samples import SCHEMA, Samples
from stages.clean.shard import CHARACTERS, DROPS, CleanTask, CountTask, RangeTask, clean_shard, count_lines, find_recurring


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Clean every shard of the corpus."""
    shards = io.shards("data/corpus", "documents/*.parquet")
    recurring = _boilerplate(params, io, shards)
    names = [shard.rpartition("/")[2] for shard in shards]
    tasks = [
        CleanTask(
            shard=shard,
            recurring=recurring,
            documents=io.target(f"documents/{name}"),
            drops=io.work(f"drops/{name}"),
            samples=io.work(f"samples/{name}"),
            params=params,
        )
        for shard, name in zip(shards, names, strict=True)
    ]
    counts = _summary(io.map(clean_shard, tasks, "cleaning", key="clean"))
    if not counts["documents"]:
        raise StageError(
            f"no document is left of {counts['documents_in']}", file="data/corpus/documents", remedy="see the limits of clean"
        )
    idle = params.idle(set(counts["matched"]))
    if idle:
        raise StageError(
            f"matched nothing in the whole corpus: {', '.join(idle)}",
            file="data/corpus/documents",
            remedy="switch them off (null), or name them in clean.rules_may_be_idle if that is to be expected",
        )
    drops = (row for task in tasks for row in _documents.read_shard(task.drops))
    _documents.write_table(io.output / "drops.parquet", DROPS, drops)
    _documents.write_table(io.output / "samples.parquet", SCHEMA, _samples(params, tasks))
    return counts


def _boilerplate(params: Params, io: StageIO, shards: list[str]) -> tuple[str, ...]:
    """Addresses of the hashes of recurring lines, ascending; none where the step is switched off."""
    if params.boilerplate is None:
        return ()
    names = [shard.rpartition("/")[2] for shard in shards]
    counting = [CountTask(shard, io.work(f"lines/{name}"), params) for shard, name in zip(shards, names, strict=True)]
    rows = sum(io.map(count_lines, counting, "counting lines", key="lines"))
    counted = tuple(task.counts for task in counting)
    memory = io.settings.max_memory // (2 * io.settings.processes)  # workers add at once, and the program itself needs some
    adding = [
        RangeTask(counted, first, last, params.boilerplate.min_documents, io.work(f"recurring/{index:05d}.parquet"))
        for index, (first, last) in enumerate(boilerplate.ranges(rows, memory))
    ]
    io.map(find_recurring, adding, "adding up lines", "ranges", key=f"recurring-{len(adding)}")
    return tuple(task.recurring for task in adding)


def _samples(params: Params, tasks: list[CleanTask]) -> Iterator[dict[str, Any]]:
    samples = Samples(params.samples)
    for task in tasks:
        samples.extend(_documents.read_shard(task.samples))
    yield from samples.table()


def _summary(shards: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of all shards together, as the manifest holds them."""
    total: dict[str, dict[str, dict[str, int]]] = {}
    for shard in shards:
        for what, names in shard.items():
            for name, langs in names.items():
                entry = total.setdefault(what, {}).setdefault(name, {})
                for lang, number in langs.items():
                    entry[lang] = entry.get(lang, 0) + number
    kept, characters, drops = total.get("kept", {}), total.get("characters", {}), total.get("drops", {})
    documents = kept.get("documents", {})
    return {
        "documents_in": sum(total.get("seen", {}).get("documents", {}).values()),
        "documents": sum(documents.values()),
        "dropped": sum(sum(langs.values()) for langs in drops.values()),
        "drops": drops,  # by the first rule that failed
        "matched": total.get("matched", {}),  # by every rule that failed, lines repaired and removed, data masked
        "languages": {
            lang: {
                "documents": documents[lang],
                "bytes": kept["bytes"][lang],
                "characters": {name: characters.get(name, {}).get(lang, 0) for name in CHARACTERS},
            }
            for lang in sorted(documents)
        },
        "relabelled": kept.get("relabelled", {}),
    }

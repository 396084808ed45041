"""The stage: a map over token shards, and a table of what lies where in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from stages import _texts
from stages._runner import StageError, StageIO
from stages.encode.params import Params
from stages.encode.shard import ShardTask, encode_shard
from stages.encode.table import write_table

SPLITS = ("train", "heldout")


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Encode both splits."""
    tasks = {split: _tasks(split, params, io) for split in SPLITS}
    results = iter(io.map(encode_shard, [task for split in SPLITS for task in tasks[split]], "encoding", key="shards"))
    counts = {}
    for split in SPLITS:
        write_table(io.output / f"{split}.documents.parquet", [task.documents for task in tasks[split]])
        by_language = _sum(next(results) for _ in tasks[split])
        tokens = sum(total["tokens"] for total in by_language.values())
        counts[split] = {"shards": len(tasks[split]), "tokens": tokens, "by_language": by_language}
    return counts


def _tasks(split: str, params: Params, io: StageIO) -> list[ShardTask]:
    """The shards of a split, in the order of its documents.

    Raises:
        StageError: it holds no document, a shard of it is damaged, or there is no tokenizer.
    """
    folder = f"data/decontaminate/{split}/documents"
    parts = _texts.parts(io.shards(f"data/decontaminate/{split}", "documents/*.parquet"), folder)
    if not parts:
        raise StageError(f"the {split} split holds no document", file=folder, remedy="look at the counts of the stages before")
    io.input(_texts.MODEL)
    (tokenizer,) = io.shards("data/tokenizer", "tokenizer.model")
    groups = {f"{split}-{number:05d}.arrow": group for number, group in enumerate(grouped(parts, params.shard_bytes))}
    return [ShardTask(tuple(group), tokenizer, io.target(name), io.work(f"documents/{name}")) for name, group in groups.items()]


def grouped(parts: Iterable[_texts.Part], most: int) -> list[list[_texts.Part]]:
    """Consecutive parts of at most `most` bytes of text together, or of a single part."""
    groups: list[list[_texts.Part]] = []
    held = 0
    for part in parts:
        if not groups or held + part.bytes > most:
            groups.append([])
            held = 0
        groups[-1].append(part)
        held += part.bytes
    return groups


def _sum(results: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    totals: dict[str, Counter[str]] = {}
    for result in results:
        for lang, counts in result.items():
            totals.setdefault(lang, Counter()).update(counts)
    return {lang: dict(total) for lang, total in sorted(totals.items())}

"""What sets two checkpoints apart: code, parameters, data by source, order, journal, and then scores.

The checkpoints may be of one build or of two. Items that both were asked are compared in pairs: McNemar's exact test over those
that one of them got right and the other wrong, which chance alone would spread evenly.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ledger import LedgerError, canonical_json
from ledger.journal import Segment
from ledger.lineage.graph import Stage, ancestors, commit_of, lock
from ledger.query import Ledger

SCHEMA = pa.schema([(name, pa.string()) for name in ("part", "what", "a", "b", "note")])
Row = tuple[str, str, Any, Any, str]  # as in SCHEMA
_MODEL = "fp32"  # the checkpoint itself among the models that items name


@dataclass(frozen=True)
class Side:
    """One checkpoint: the ledger of its project, and the segment that left it."""

    ledger: Ledger
    segment: Segment

    @classmethod
    def of(cls, name: str, project: Path) -> Side:
        """From `CHECKPOINT`, of `project`, or `FOLDER:CHECKPOINT`, of another one.

        Raises:
            LedgerError: no such project or checkpoint.
        """
        folder, colon, checkpoint = name.rpartition(":")
        ledger = Ledger(Path(folder) if colon else project)
        return cls(ledger, ledger.resolve(checkpoint))

    @property
    def root(self) -> Path:
        """Its project's folder."""
        return self.ledger.root

    def stages(self) -> dict[str, Stage]:
        """The stages that it rests on, and those of its scores."""
        stages = lock(self.root)
        return {name: stages[name] for name in ancestors(stages, "evaluate" if "evaluate" in stages else "pretrain")}


def diff(a: Side, b: Side) -> pa.Table:
    """What differs, one row each: part (`code`, `params`, `data`, `order`, `journal`, `scores`), what, value in a, in b, note.

    Equal things are left out, but for scores.

    Raises:
        LedgerError: a file of either build is missing or damaged.
    """
    rows: list[Row] = []
    if a.root.resolve() != b.root.resolve():
        mine, yours = a.stages(), b.stages()
        rows += [*_code(a, b, mine, yours), *_params(mine, yours)]
    rows += [*_data(a, b), *_order(a, b), *_journal(a, b), *_scores(a, b)]
    names = SCHEMA.names
    return pa.Table.from_pylist([dict(zip(names, map(_text, row), strict=True)) for row in rows], schema=SCHEMA)


def mcnemar(only_a: int, only_b: int) -> float:
    """Probability, if both are equally good, of a split at least as uneven: two-sided exact binomial test."""
    total = only_a + only_b
    tail: int = sum(math.comb(total, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**total)


def _code(a: Side, b: Side, mine: dict[str, Stage], yours: dict[str, Stage]) -> Iterator[Row]:
    here, there = commit_of(a.root), commit_of(b.root)
    if here != there:
        yield "code", "git commit", here, there, "of what is checked out"
    files = [_files(stages) for stages in (mine, yours)]
    users: dict[str, list[str]] = {}
    for stages in (mine, yours):
        for name, stage in stages.items():
            for dep in stage.deps:
                users.setdefault(dep["path"], []).append(name)
    for path in sorted({*files[0], *files[1]}):
        if files[0].get(path) != files[1].get(path):
            yield "code", path, files[0].get(path), files[1].get(path), "used by " + ", ".join(sorted(set(users[path])))


def _files(stages: dict[str, Stage]) -> dict[str, str]:
    """Digests of dependencies that are no stage's output."""
    return {d["path"]: d.get("md5", "") for s in stages.values() for d in s.deps if not str(d["path"]).startswith("data/")}


def _params(mine: dict[str, Stage], yours: dict[str, Stage]) -> Iterator[Row]:
    flat = [{k: v for name, s in stages.items() for k, v in _leaves(s.params, "")} for stages in (mine, yours)]
    for key in sorted({*flat[0], *flat[1]}):
        if flat[0].get(key) != flat[1].get(key):
            yield "params", key, flat[0].get(key), flat[1].get(key), ""


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}".lstrip("."))
    else:
        yield name, value


def _data(a: Side, b: Side) -> Iterator[Row]:
    """Documents, tokens and exposures by source, as each checkpoint was shown them."""
    sums = [_by_source(side) for side in (a, b)]
    for source in sorted({*sums[0], *sums[1]}):
        counts = [found.get(source, Counter()) for found in sums]
        for what in ("documents", "tokens", "exposures"):
            if counts[0][what] != counts[1][what]:
                yield "data", f"{source}: {what}", counts[0][what], counts[1][what], f"{counts[1][what] - counts[0][what]:+,}"


def _by_source(side: Side) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for batch in side.ledger.stream(side.segment.weights_sha256 or str(side.segment.checkpoint), names=False):
        table = pa.table({name: batch[name].cast(pa.string()) if name == "source" else batch[name] for name in _SUMMED})
        grouped = table.group_by("source").aggregate([("tokens", "sum"), ("exposures", "sum"), ("tokens", "count")])
        for row in grouped.to_pylist():
            sums = {"documents": row["tokens_count"], "tokens": row["tokens_sum"], "exposures": row["exposures_sum"]}
            found.setdefault(row["source"], Counter()).update(sums)
    return found


_SUMMED = ("source", "tokens", "exposures")


def _order(a: Side, b: Side) -> Iterator[Row]:
    plans = [dict(_leaves(json.loads(side.ledger.plan.to_json()), "")) for side in (a, b)]
    for key in sorted({*plans[0], *plans[1]}):
        if plans[0].get(key) != plans[1].get(key):
            yield "order", key, plans[0].get(key), plans[1].get(key), "decides what a step takes" * (key != "steps")


def _journal(a: Side, b: Side) -> Iterator[Row]:
    paths = [side.ledger.journal.ancestry(side.segment) for side in (a, b)]
    shared = 0
    for one, other in zip(*paths, strict=False):
        if one.hash != other.hash:
            break
        shared += 1
    if shared:
        name = paths[0][shared - 1].checkpoint
        yield "journal", "last common checkpoint", name, name, f"{shared} segments in common"
    for number in range(shared, max(map(len, paths))):
        mine, yours = (_segment(path[number]) if number < len(path) else None for path in paths)
        yield "journal", f"segment {number} of the path", mine, yours, ""


def _segment(segment: Segment | None) -> str | None:
    if segment is None:
        return None
    skipped = "".join(f", without {first}-{last}" for first, last in segment.skipped)
    settings = f", {canonical_json(dict(segment.settings))}" if segment.settings else ""
    return f"{segment.checkpoint}: steps {segment.first_step}-{segment.last_step}{skipped}{settings}"


def _scores(a: Side, b: Side) -> Iterator[Row]:
    results = [_bits(side) for side in (a, b)]
    for lang in sorted({*results[0], *results[1]}):
        yield "scores", f"bits per byte, {lang}", results[0].get(lang), results[1].get(lang), "held-out text; lower is better"
    items = [_items(side) for side in (a, b)]
    if any(found is None for found in items):
        without = " and ".join(name for name, found in zip("ab", items, strict=True) if found is None)
        yield "scores", "items", None, None, f"no paired test: {without} has no results for single items"
        return
    mine, yours = (found or {} for found in items)
    common = sorted(mine.keys() & yours.keys())
    for lang in sorted({lang for lang, _ in common}):
        pairs = [(mine[key], yours[key]) for key in common if key[0] == lang]
        right = [sum(pair[side] for pair in pairs) for side in (0, 1)]
        only = [sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs)]
        note = f"{len(pairs)} pairs; right in a alone {only[0]}, in b alone {only[1]}; McNemar p = {mcnemar(*only):.3g}"
        yield "scores", f"accuracy, {lang}", f"{right[0] / len(pairs):.4f}", f"{right[1] / len(pairs):.4f}", note
    if not common:
        yield "scores", "items", len(mine), len(yours), "no paired test: not one item in common"


def _bits(side: Side) -> dict[str, float]:
    """Bits per byte of held-out text by language; none for a checkpoint that was not evaluated."""
    file = side.root / "data/evaluate/results.json"
    if not file.is_file():
        return {}
    try:
        for entry in json.loads(file.read_text(encoding="utf-8")).get("checkpoints", ()):
            if entry["checkpoint"] == side.segment.checkpoint:
                return dict(entry["bpb"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LedgerError(f"{file}: not the evaluate stage's: {error!r}. Remedy: run `dvc checkout data/evaluate`") from error
    return {}


def _items(side: Side) -> dict[tuple[str, str], bool] | None:
    """Whether each item (language, name) was answered right; None for a checkpoint whose items were not kept."""
    import pyarrow.parquet as pq

    file, results = side.root / "data/evaluate/items.parquet", side.root / "data/evaluate/results.json"
    if not (file.is_file() and results.is_file()):
        return None
    if json.loads(results.read_text(encoding="utf-8")).get("checkpoint") != side.segment.checkpoint:
        return None
    table = pq.read_table(file, columns=["item", "lang", "label", "prediction", "model"], filters=pc.field("model") == _MODEL)
    return {(row["lang"], row["item"]): row["label"] == row["prediction"] for row in table.to_pylist()}


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else canonical_json(value)

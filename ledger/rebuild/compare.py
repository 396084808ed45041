"""Compares two builds of one project, stage by stage: the same bytes, the same content, close numbers, or different, and where.

The verdicts, from best to worst:

- `identical`: the same bytes;
- `canonical`: other bytes that say the same: order of keys and blanks in JSON, compression and row groups in Parquet, record
  batches in Arrow, padding and order in safetensors, line ends and quotes in CSV and text;
- `close`: numbers apart by no more than a relative and an absolute tolerance, all else equal;
- `different`, and `missing` where one build lacks the file.

A digest that stands in a file for another file (a manifest's, a journal's, a checkpoint's) differs wherever that file's bytes
do. Where that file was compared before, its digest counts as what the file was found to be, so one cause is told once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ledger import LedgerError
from ledger.lineage.cost import ancestors
from ledger.rebuild.formats import CANONICAL, DIFFERENT, IDENTICAL, MISSING, Difference, Known, Tolerance, compare_values, worst
from ledger.rebuild.formats import compare as compare_content

__all__ = ["StageVerdict", "Tolerance", "compare"]

_LINKS = ("inputs", "files")  # of a manifest: digests of other files, which are compared themselves


@dataclass(frozen=True)
class StageVerdict:
    """What became of a stage's output.

    Attributes:
        stage: its name.
        verdict: the worst of its files'.
        files: how many there are.
        file: the first of the worst files, below the project; None where all are identical.
        place: row, field or byte at which it first differs, and how; empty where it does not.
    """

    stage: str
    verdict: str
    files: int
    file: str | None = None
    place: str = ""


def compare(left: Path, right: Path, tolerance: Tolerance | None = None) -> Iterator[StageVerdict]:
    """One verdict for each stage that either project holds, parents first.

    Raises:
        LedgerError: neither holds a build.
    """
    stages = _stages(left, right)
    if not stages:
        raise LedgerError(f"neither {left / 'data'} nor {right / 'data'} holds a build. Remedy: run `dvc repro`")
    known = Known()
    for stage in stages:
        yield _compare_stage(stage, left, right, tolerance or Tolerance(), known)


def _stages(left: Path, right: Path) -> list[str]:
    present = {path.parent.name: root for root in (right, left) for path in sorted((root / "data").glob("*/manifest.json"))}
    ordered: dict[str, None] = {}
    for stage, root in sorted(present.items()):
        ordered.update(dict.fromkeys([*_known_ancestors(root, stage), stage]))
    return list(ordered)


def _known_ancestors(root: Path, stage: str) -> list[str]:
    try:
        return ancestors(root, stage)
    except LedgerError:  # a manifest is missing or damaged: that is a finding about its own stage
        return []


def _compare_stage(stage: str, left: Path, right: Path, tolerance: Tolerance, known: Known) -> StageVerdict:
    roots = [root / "data" / stage for root in (left, right)]
    names = {path.relative_to(root).as_posix() for root in roots for path in root.rglob("*") if path.is_file()}
    found: list[tuple[str, Difference]] = []
    for name in sorted(names, key=_order):
        found.append((name, _compare_file(roots[0] / name, roots[1] / name, tolerance, known)))
    verdict = worst(difference.verdict for _, difference in found)
    if verdict == IDENTICAL:
        return StageVerdict(stage, verdict, len(names))
    name, difference = next(entry for entry in found if entry[1].verdict == verdict)
    return StageVerdict(stage, verdict, len(names), f"data/{stage}/{name}", difference.place)


def _order(name: str) -> tuple[int, str]:
    """Files that carry digests of others come behind these: journals, then manifests and other JSON, the stage's own last."""
    if name == "manifest.json":
        return 4, name
    rank = {"journal.jsonl": 1, "plan.json": 0}.get(name.rpartition("/")[2], 0)
    if name.endswith((".json", ".html", ".md")) and rank == 0:
        rank = 3 if name.endswith("manifest.json") else 2
    return rank, name


def _compare_file(left: Path, right: Path, tolerance: Tolerance, known: Known) -> Difference:
    for side, path in (("first", left), ("second", right)):
        if not path.is_file():
            return Difference(MISSING, f"the {side} build lacks it")
    digests = [_sha256(path) for path in (left, right)]
    if digests[0] == digests[1]:
        return Difference(IDENTICAL)
    if left.name == "manifest.json" and _is_stage_manifest(left):
        difference = _compare_manifest(left, right, tolerance, known)
    else:
        difference = compare_content(left, right, tolerance, known)
    known.add(digests[0], digests[1], difference.verdict)
    return difference


def _compare_manifest(left: Path, right: Path, tolerance: Tolerance, known: Known) -> Difference:
    """Parameters and counts; the digests in it belong to files that have verdicts of their own."""
    data = [json.loads(path.read_text(encoding="utf-8")) for path in (left, right)]
    plain = [{key: value for key, value in manifest.items() if key not in _LINKS} for manifest in data]
    difference = compare_values(plain[0], plain[1], "", tolerance, known)
    listed = [manifest["files"] for manifest in data]
    pairs = [(listed[0][name], listed[1][name]) for name in sorted(listed[0].keys() & listed[1].keys())]
    linked = worst(known.verdict(a["sha256"], b["sha256"]) or DIFFERENT for a, b in pairs if a["sha256"] != b["sha256"])
    found = [Difference(CANONICAL, "digests of inputs"), difference, Difference(linked, "digests of the files")]
    return max(found, key=lambda one: one.rank)


def _is_stage_manifest(path: Path) -> bool:
    data = json.loads(path.read_text(encoding="utf-8"))
    return isinstance(data, dict) and set(_LINKS) <= data.keys()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

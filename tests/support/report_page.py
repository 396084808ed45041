"""The report of a small project: run, sealed again after a change, and its index as the page reads it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from ledger.journal import Journal
from ledger.plan import DataPlan
from stages._manifest import sha256_file
from stages._runner import StageIO, stage_entry
from stages.report import Params, run
from tests.support.ledger_project import seal

PARAMS = Params(samples=2, indexed_documents=1000, max_bytes=2_000_000, explorer_documents=1000)


def stage_io(root: Path) -> StageIO:
    deps, out = stage_entry(root, "report")
    return StageIO("report", root, deps, out)


def report(root: Path, params: Params = PARAMS) -> str:
    """Run the stage without its sandbox, which would bind the test process for good; returns the page."""
    io = stage_io(root)
    shutil.rmtree(io.output, ignore_errors=True)
    io.output.mkdir(parents=True)
    run(params, io)
    return (io.output / "index.html").read_text(encoding="utf-8")


def reseal(root: Path) -> None:
    """Make manifests and statement those of the files that lie here: a whole project that is wrong, not a damaged one."""
    for stage in [Path(dep).name for dep in stage_io(root).deps if dep.startswith("data/")]:
        folder = root / "data" / stage
        if stage == "pretrain":
            replan(root)
        statement = folder / "statement.json"
        if stage == "attest" and statement.read_text(encoding="utf-8").startswith("{"):
            content = json.loads(statement.read_text(encoding="utf-8"))
            names = content["predicate"]["manifests"]
            content["predicate"]["manifests"] = {name: sha256_file(root / f"data/{name}/manifest.json") for name in names}
            statement.write_text(json.dumps(content), encoding="utf-8")
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        seal(root, stage, manifest["counts"], manifest["params"])


def replan(root: Path) -> None:
    """Where the packed samples have another manifest now, bind plan and journal to it."""
    plan, journal = root / "data/pretrain/plan.json", root / "data/pretrain/journal.jsonl"
    digest = sha256_file(root / "data/pack/manifest.json")
    if plan.is_file() and digest not in plan.read_text(encoding="utf-8"):
        bound = replace(DataPlan.read(plan), pack_manifest_sha256=digest)
        plan.write_text(bound.to_json(), encoding="utf-8")
        segments = Journal.read(journal).segments
        journal.unlink()
        fresh = Journal.open(journal)
        for segment in segments:
            fresh.append(replace(segment, plan=bound.digest))


def decoded(index: dict[str, Any]) -> dict[str, Any]:
    """What search.js makes of the index: by document id its steps and tokens, or why it was not trained on."""
    found: dict[str, Any] = {}
    before = ""
    steps, tokens = iter(index["steps"].split(",")), iter(index["tokens"].split(","))
    for line, fate in zip(index["ids"].split("\n"), index["fate"], strict=True):
        before = before[: int(line[0], 36)] + line[1:]
        if fate == 0:
            parts = next(steps)
            differences = [int(part, 36) for part in parts.split(".")] if parts else []
            found[before] = (list(accumulate(differences)), int(next(tokens), 36))
        else:
            found[before] = tuple(index["fates"][fate])
    return found

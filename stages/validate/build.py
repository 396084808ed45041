"""Runs every suite, writes the report, and stops the build where an expectation does not hold."""

from __future__ import annotations

import json
from typing import Any

from model.tokenizer import Tokenizer
from stages import _manifest, _takedowns
from stages._runner import StageError, StageIO
from stages.validate import contracts, counts, documents, instructions, packed, pages, takedowns, tokens
from stages.validate.expect import Suite, Validator, complaint
from stages.validate.params import Params
from stages.validate.store import Store

_SHOWN = 5  # failed expectations that the error itself tells


def suites(params: Params, io: StageIO, store: Store) -> list[Suite]:
    """All suites but the contracts', in the order in which they are checked."""
    register = json.loads(io.input("data/corpus/sources.json").read_text(encoding="utf-8"))
    licences = {f"{source['id']}: {source['licence']}" for source in register}
    tokenizer = Tokenizer(io.input("data/tokenizer/tokenizer.model"))
    stones = _takedowns.of_stage(io)
    return [
        documents.suite(params, io, store, licences),
        counts.suite(params, io, store),
        tokens.suite(params, io, tokenizer),
        instructions.suite(params, io, tokenizer, store),
        packed.suite(params, io, tokenizer),
        *([takedowns.suite(io, stones)] if stones else []),
    ]


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Check everything; write the report and the pages; fail where an expectation does not hold."""
    validator = Validator()
    results = validator.validate(contracts.suite(io))
    if all(result["success"] for result in results):  # else the tables have not the columns that the others read
        with Store(io.settings.max_memory) as store:
            for suite in io.track(suites(params, io, store), "checking", unit="suites"):
                results += validator.validate(suite)
    failed = [result for result in results if not result["success"]]
    pages.write(io.runs / "data_docs", results)
    report = _manifest.canonical({"success": not failed, "expectations": results})
    if failed:
        _manifest.write_atomic(io.runs / "report.json", report)
        more = f" | and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
        remedy = "see runs/validate/report.json; repair the source or the stage before, or change validate in params.yaml"
        raise StageError(" | ".join(map(complaint, failed[:_SHOWN])) + more, file=_place(failed[0]["suite"]), remedy=remedy)
    _manifest.write_atomic(io.output / "report.json", report)
    names = dict.fromkeys(result["suite"] for result in results)
    by_suite = {name: sum(result["suite"] == name for result in results) for name in names}
    rows = {f"{result['suite']}.{result['table']}": result["rows"] for result in results}
    return {"expectations": len(results), "suites": by_suite, "rows": rows}


def _place(suite: str) -> str:
    """Where the artifact of a suite lies."""
    folders = {"contracts": "data", "tokens": "data/encode", "instructions": "data/instruct", "packed": "data/pack"}
    return folders.get(suite, "data/decontaminate")

"""Running the gate's suites over a tampered project, and what of them failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from stages import validate
from stages.validate import build, contracts, expect
from stages.validate.expect import Validator
from stages.validate.params import Length
from stages.validate.store import Store
from tests.support.gate_project import (
    section,
    stage_io,
)

SMALL: dict[str, Any] = {
    "lengths": {"en": (Length(0.5, 1000, 3000),)},
    "min_language_bytes": 1000,
    "min_heldout_bytes": 10,
    "min_language_share": 0.3,
    "max_language_share": 0.7,
    "max_byte_share": 0.4,
    "max_left_over_share": 0.1,
}
EN, ZH = "data/decontaminate/train/documents/tales-00000.parquet", "data/decontaminate/train/documents/poems-00000.parquet"
HELDOUT = "data/decontaminate/heldout/documents/tales-00000.parquet"
ENCODED, TOKENS = "data/encode/train.documents.parquet", "data/encode/train-00000.arrow"
INSTRUCTIONS, PIECES = "data/instruct/samples.parquet", "data/pack/pieces-00000.parquet"
SAMPLES = "data/pack/samples-00000.arrow"


def check(root: Path, validator: Validator, suite: str, only: str | None = None, **changes: Any) -> list[dict[str, Any]]:
    """The results of one suite, and of those before it on which it rests; with `only`, of its checks of one `table.column`."""
    io = stage_io(root, "validate")
    if suite == "contracts":
        return validator.validate(contracts.suite(io))
    with Store(2**28) as store:
        wanted = {suite, "documents"} if suite == "counts" else {suite}
        every = build.suites(section(validate, **{**SMALL, **changes}), io, store)
        suites = [one for one in every if one.name in wanted]
        if only is not None:
            suites = [replace(one, checks=[each for each in one.checks if column(each) == only]) for one in suites]
        return [result for one in suites for result in validator.validate(one)]


def column(check: expect.Check) -> str:
    return f"{check.table}.{check.arguments['column']}"


def failures(results: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """`table.column` of each failed expectation, with the rows that it names."""
    found: dict[str, list[Any]] = {}
    for result in results:
        if not result["success"]:
            assert result["error"] is None, result["error"]
            found[f"{result['table']}.{result['arguments']['column']}"] = [example["row"] for example in result["examples"]]
    return found


def name_of(root: Path, file: str, row: int, column: str = "doc_id") -> str:
    return str(pq.read_table(root / file)[column][row].as_py())

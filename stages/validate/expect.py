"""Great Expectations over tables that arrive in parts: suites, their tables, and one result for each expectation.

A table is a stream of frames of measures, one row for each thing that is checked and a key that names it, so that memory
does not grow with the corpus. Every frame is checked by Great Expectations; the results of a table's frames are added up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

EXAMPLES = 20  # unexpected rows that the report names for each expectation
FRAME = 65_536  # rows that are checked together


class Check(NamedTuple):
    """One expectation: table, snake-case name of the Great Expectations expectation, and its arguments."""

    table: str
    expectation: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows to check. `frames` gives them in parts when the table's turn comes; `key` is the column that names a row."""

    name: str
    key: str
    frames: Callable[[], Iterable[pa.Table]]


@dataclass(frozen=True)
class Suite:
    """What must hold of one artifact. Tables are read in this order, so a later one may rest on what an earlier one counted."""

    name: str
    tables: list[Table]
    checks: list[Check]


@dataclass
class Tally:
    """What the frames of a table said so far of one expectation."""

    check: Check
    rows: int = 0
    unexpected: int = 0
    low: Any = None
    high: Any = None
    success: bool = True
    examples: list[dict[str, Any]] = field(default_factory=list)
    errors: set[str] = field(default_factory=set)

    def add(self, key: str, column: pa.ChunkedArray | None, outcome: dict[str, Any]) -> None:
        """Add the outcome for one frame. It can fail with nothing unexpected in it: then an exception is its reason."""
        found = outcome["result"]
        self.success &= bool(outcome["success"])
        self.rows += found.get("element_count", 0)
        self.unexpected += found.get("unexpected_count", 0)
        self.errors |= set(_exceptions(outcome.get("exception_info") or {}))
        rows = (found.get("unexpected_index_list") or [])[: EXAMPLES - len(self.examples)]
        name = self.check.arguments["column"]
        self.examples += ({"row": row[key], "value": row.get(name)} for row in rows)
        if column is not None and len(column) > column.null_count and not pa.types.is_null(column.type):
            extent = pc.min_max(column)
            low, high = extent["min"].as_py(), extent["max"].as_py()
            self.low = low if self.low is None else min(self.low, low)
            self.high = high if self.high is None else max(self.high, high)

    def result(self, suite: str) -> dict[str, Any]:
        """One entry of the report."""
        return {
            "suite": suite,
            "table": self.check.table,
            "expectation": self.check.expectation,
            "arguments": self.check.arguments,
            "success": self.success and not self.errors,
            "rows": self.rows,
            "unexpected": self.unexpected,
            "observed": {"low": self.low, "high": self.high},
            "examples": self.examples,
            "error": "; ".join(sorted(self.errors)) or None,
        }


def between(table: str, column: str, low: float | None, high: float | None) -> Check:
    """Every value lies in [low, high]; None leaves an end open."""
    return Check(table, "expect_column_values_to_be_between", {"column": column, "min_value": low, "max_value": high})


def zero(table: str, *columns: str) -> list[Check]:
    """Columns that count what is wrong with a row."""
    return [between(table, column, 0, 0) for column in columns]


def in_set(table: str, column: str, values: Iterable[Any]) -> Check:
    """Every value is one of `values`."""
    return Check(table, "expect_column_values_to_be_in_set", {"column": column, "value_set": list(values)})


def not_null(table: str, *columns: str) -> list[Check]:
    """No value is absent."""
    return [Check(table, "expect_column_values_to_not_be_null", {"column": column}) for column in columns]


def frames(rows: Iterable[pa.Table], limit: int = FRAME) -> Iterator[pa.Table]:
    """The same rows in tables of `limit` rows, the last one shorter; one empty table where there are none but the schema."""
    waiting: list[pa.Table] = []
    number = 0
    for table in rows:
        waiting.append(table)
        number += len(table)
        if number >= limit:
            joined = pa.concat_tables(waiting)
            for start in range(0, number - limit + 1, limit):
                yield joined.slice(start, limit)
            waiting = [joined.slice(number - number % limit)]
            number %= limit
    if waiting:
        yield pa.concat_tables(waiting)


class Validator:
    """Great Expectations, loaded once."""

    def __init__(self) -> None:
        os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read at import
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        self._gx = gx
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        asset = context.data_sources.add_pandas("tables").add_dataframe_asset("frame")
        self._frame = asset.add_batch_definition_whole_dataframe("whole")

    def validate(self, suite: Suite) -> list[dict[str, Any]]:
        """The result of every check of a suite, in order; free of times and random ids."""
        tallies = [Tally(check) for check in suite.checks]
        for table in suite.tables:
            numbers = [number for number, check in enumerate(suite.checks) if check.table == table.name]
            for frame in frames(table.frames()):
                for number, outcome in self._outcomes(frame, table, tallies, numbers):
                    column = tallies[number].check.arguments["column"]
                    known = frame[column] if column in frame.column_names else None
                    tallies[number].add(table.key, known, outcome)
        return [tally.result(suite.name) for tally in tallies]

    def _outcomes(
        self, frame: pa.Table, table: Table, tallies: list[Tally], numbers: list[int]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number of the check, outcome) for one frame."""
        batch = self._frame.get_batch(batch_parameters={"dataframe": frame.to_pandas()})
        checks = [(number, tallies[number].check) for number in numbers]
        suite = self._gx.ExpectationSuite(
            table.name,
            expectations=[
                getattr(self._gx.expectations, class_name(check.expectation))(**check.arguments, meta={"number": number})
                for number, check in checks
            ],
        )
        form = {"result_format": "COMPLETE", "unexpected_index_column_names": [table.key]}
        for outcome in batch.validate(suite, result_format=form).to_json_dict()["results"]:
            yield outcome["expectation_config"]["meta"]["number"], outcome


def class_name(expectation: str) -> str:
    """`ExpectColumn...` for `expect_column_...`."""
    return "".join(part.capitalize() for part in expectation.split("_"))


def _exceptions(info: dict[str, Any]) -> list[str]:
    entries = [info] if "raised_exception" in info else list(info.values())  # one exception, or one for each metric
    return [str(entry["exception_message"]) for entry in entries if entry.get("raised_exception")]


def complaint(result: dict[str, Any]) -> str:
    """A failed expectation in one line: suite, table, column, expectation, how many rows, which."""
    arguments = {name: value for name, value in result["arguments"].items() if name != "column" and value is not None}
    place = f"{result['suite']}: {result['table']}.{result['arguments']['column']}"
    text = f"{place}: {result['expectation']}({arguments or ''})"
    if result["error"]:
        return f"{text} raised {result['error']}"
    named = ", ".join(f"{example['row']} ({example['value']!r})" for example in result["examples"][:5])
    return f"{text} fails for {result['unexpected']} of {result['rows']} rows, such as {named}"

"""The gate: good artifacts pass, and a failure says what it is; Great Expectations and the store behind it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import validate
from stages._params import ParamsError, parse, to_plain
from stages._runner import StageError, StageIO
from stages.validate import contracts, expect
from stages.validate.expect import Suite, Table, Validator, between, in_set
from stages.validate.store import Store
from tests.support.gate_checks import (
    EN,
    ENCODED,
    INSTRUCTIONS,
    PIECES,
    SMALL,
    check,
    name_of,
)
from tests.support.gate_project import (
    DEPENDENCIES,
    put,
    section,
    stage_io,
)


@pytest.fixture
def project(gate_project: Path, tmp_path: Path) -> Path:
    shutil.copytree(gate_project, tmp_path / "project")
    return tmp_path / "project"


def outcome(root: Path, **changes: Any) -> tuple[Path, dict[str, Any]]:
    io = stage_io(root, "validate")
    io.output.mkdir(parents=True)
    io.runs.mkdir(parents=True, exist_ok=True)
    return io.output, validate.run(section(validate, **{**SMALL, **changes}), io)


def test_good_data_passes_and_the_report_says_so(project: Path) -> None:
    output, counts = outcome(project)
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert report["success"] is True
    assert all(result["success"] and result["error"] is None for result in report["expectations"])
    assert counts["expectations"] == len(report["expectations"]) > 50
    assert list(counts["suites"]) == ["contracts", "documents", "counts", "tokens", "instructions", "packed"]
    assert counts["rows"]["counts.fates"] == 50
    assert counts["rows"]["packed.samples"] == 540
    lengths = next(result for result in report["expectations"] if result["table"] == "lengths")
    assert 1000 < lengths["observed"]["low"] == lengths["observed"]["high"] < 3000
    pages = {path.name for path in (project / "runs/validate/data_docs").iterdir()}
    assert pages == {"index.html", *(f"{name}.html" for name in counts["suites"])}
    assert not (project / "runs/validate/report.json").exists()


def test_the_report_has_the_same_bytes_again_and_knows_no_time(project: Path) -> None:
    first, _ = outcome(project)
    before = (first / "report.json").read_bytes()
    shutil.rmtree(first)
    second, _ = outcome(project)
    assert before == (second / "report.json").read_bytes()
    assert not any(
        word in before.decode() for word in ("run_time", "validation_time", "ge_load_time", "batch_id", str(project))
    )


def test_a_failure_names_suite_table_column_and_rows(project: Path) -> None:
    put(project / EN, 2, "licence", "LicenseRef-unknown")
    name = name_of(project, EN, 2)
    with pytest.raises(StageError, match=rf"documents: documents\.source_licence: expect_.* fails for 1 of .*{name}") as error:
        outcome(project)
    assert "tokens: documents.as_in_split" in str(error.value), "what was encoded is no longer what stands in the split"
    report = json.loads((project / "runs/validate/report.json").read_text(encoding="utf-8"))
    assert report["success"] is False
    assert "tales: LicenseRef-unknown" in (project / "runs/validate/data_docs/documents.html").read_text(encoding="utf-8")


def test_without_its_columns_a_table_is_not_read(project: Path) -> None:
    table = pq.read_table(project / PIECES)
    pq.write_table(table.rename_columns(["sample", "doc", "doc_offset", "length"]), project / PIECES)
    with pytest.raises(StageError, match=rf"contracts: files.difference.*{PIECES} \('no doc_index'\)"):
        outcome(project)


@pytest.mark.parametrize(
    ("file", "column", "difference"),
    [
        (PIECES, "doc_offset", "doc_offset is int64"),
        (ENCODED, "length", "length is int64"),
        (INSTRUCTIONS, "doc_id", "no doc_id"),
        ("data/clean/drops.parquet", "reason", "no reason"),
        (EN, "text", "text is string"),
    ],
)
def test_columns_of_the_contract(project: Path, validator: Validator, file: str, column: str, difference: str) -> None:
    table = pq.read_table(project / file)
    place = table.schema.get_field_index(column)
    if difference.startswith("no "):
        table = table.drop_columns([column])
    else:
        kind = pa.string() if column == "text" else pa.int64()
        table = table.set_column(place, column, table[column].cast(kind))
    pq.write_table(table, project / file)
    [result] = check(project, validator, "contracts")
    assert result["examples"] == [{"row": file, "value": difference}]


def suite_of(rows: pa.Table, *checks: expect.Check) -> Suite:
    return Suite("made", [Table("rows", "name", lambda: [rows])], list(checks))


def test_an_expectation_that_raises_does_not_pass(validator: Validator) -> None:
    rows = pa.table({"name": ["a"], "value": ["none"]})
    [result] = validator.validate(suite_of(rows, between("rows", "value", 0, 0)))
    assert result["success"] is False
    assert "same type" in result["error"]
    assert "raised" in expect.complaint(result)


def test_an_absent_column_does_not_pass(validator: Validator) -> None:
    [result] = validator.validate(suite_of(pa.table({"name": ["a"]}), in_set("rows", "value", [1])))
    assert result["success"] is False
    assert "does not exist" in result["error"]


def test_parts_are_added_up(validator: Validator, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pa.table({"name": [f"r{number}" for number in range(250)], "value": list(range(250))})
    [whole] = validator.validate(suite_of(rows, between("rows", "value", 0, 199)))
    monkeypatch.setattr(expect.frames, "__defaults__", (100,))
    [parts] = validator.validate(suite_of(rows, between("rows", "value", 0, 199)))
    assert parts == whole
    assert (parts["rows"], parts["unexpected"], parts["observed"]) == (250, 50, {"low": 0, "high": 249})
    assert [example["row"] for example in parts["examples"]] == [f"r{number}" for number in range(200, 220)]


@pytest.mark.parametrize("sizes", [[], [0], [5], [3, 4], [10, 1], [2, 2, 2, 2, 2], [25]])
def test_frames_keep_every_row_in_order(sizes: list[int]) -> None:
    parts = [pa.table({"n": pa.array(range(size), pa.int64())}) for size in sizes]
    found = list(expect.frames(parts, 5))
    assert all(len(frame) == 5 for frame in found[:-1])
    assert [value for frame in found for value in frame["n"].to_pylist()] == [n for size in sizes for n in range(size)]


def test_the_store_counts_what_it_never_saw(tmp_path: Path) -> None:
    with Store(2**28) as store:
        assert store.count("nothing") == 0
        store.add("facts", pa.table({"n": [1, 2, 3]}))
        store.add("facts", pa.table({"n": [4]}))
        assert store.count("facts", "n > 2") == 2
        assert [row for part in store.ask("SELECT n FROM facts ORDER BY n DESC") for row in part["n"].to_pylist()] == [
            4,
            3,
            2,
            1,
        ]


def test_lengths_are_checked_where_they_are_written() -> None:
    plain = to_plain(section(validate))
    with pytest.raises(ParamsError, match="low 9 is over high 5"):
        parse(validate.Params, plain | {"lengths": {"en": [{"quantile": 0.5, "low": 9, "high": 5}]}}, "validate")
    with pytest.raises(ParamsError, match="which languages does not"):
        parse(validate.Params, plain | {"lengths": {"de": []}}, "validate")


def test_every_artifact_is_an_input() -> None:
    io = StageIO("validate", Path("nowhere"), [f"data/{name}" for name in DEPENDENCIES], "data/validate")
    assert {dependency for dependency, _, _ in contracts.TABLES} <= set(io.deps)

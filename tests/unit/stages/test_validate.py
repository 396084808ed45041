"""The gate: good artifacts pass; for each expectation there is a tampered artifact that it, by name, refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.masking import GMASK_KIND, INSTRUCTION_KIND, MASK_KIND
from model.tokenizer import SPECIAL
from stages import validate
from stages._params import ParamsError, parse, to_plain
from stages._runner import StageError, StageIO
from stages.validate import build, contracts, expect
from stages.validate.expect import Suite, Table, Validator, between, in_set
from stages.validate.params import Length
from stages.validate.store import Store
from tests.support.gate_project import (
    DEPENDENCIES,
    edit,
    edit_arrow,
    gate_project,
    packed_column,
    put,
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
INSTRUCTIONS, PIECES = "data/instruct/samples.parquet", "data/pack/pieces.parquet"
SAMPLES = "data/pack/samples-00000.arrow"


@pytest.fixture(scope="module")
def validator() -> Validator:
    return Validator()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gate_project(tmp_path_factory.mktemp("gate") / "project")


@pytest.fixture
def project(good: Path, tmp_path: Path) -> Path:
    shutil.copytree(good, tmp_path / "project")
    return tmp_path / "project"


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


def outcome(root: Path, **changes: Any) -> tuple[Path, dict[str, Any]]:
    io = stage_io(root, "validate")
    io.output.mkdir(parents=True)
    io.runs.mkdir(parents=True, exist_ok=True)
    return io.output, validate.run(section(validate, **{**SMALL, **changes}), io)


# --- the stage -------------------------------------------------------------------------------------------------------------


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


# --- documents and counts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "broken"),
    [
        ("doc_id", None, "documents.doc_id"),
        ("source", None, "documents.source"),
        ("lang", None, "documents.lang"),
        ("lang", "fr", "documents.lang"),
        ("licence", None, "documents.licence"),
        ("licence", "LicenseRef-unknown", "documents.source_licence"),
        ("text", "short", "documents.characters"),
        ("text", "", "documents.characters"),
        ("text", " \n\t " * 20, "documents.blank"),
        ("text", "a\ufffd" * 60, "documents.replacement_share"),
        ("text", "a bell\x07 rings in the old tower", "documents.control_characters"),
        ("text", "a next line\x85 of a terminal", "documents.control_characters"),
    ],
)
def test_a_bad_field_names_column_and_document(
    project: Path, validator: Validator, field: str, value: str | None, broken: str
) -> None:
    name = None if field == "doc_id" else name_of(project, EN, 2)
    put(project / EN, 2, field, value)
    assert failures(check(project, validator, "documents", broken))[broken] == [name]


def test_invalid_utf8_is_found(project: Path, validator: Validator) -> None:
    table = pq.read_table(project / EN)
    texts = [text.encode() for text in table["text"].to_pylist()]
    texts[1] = texts[1][:50] + "三".encode()[:2] + texts[1][50:]
    broken = pa.array(texts, pa.large_binary()).view(pa.large_string())
    place = table.schema.get_field_index("text")
    pq.write_table(table.set_column(place, table.schema.field("text"), broken), project / EN)
    assert failures(check(project, validator, "documents")) == {"documents.valid_utf8": [name_of(project, EN, 1)]}


def test_one_text_twice(project: Path, validator: Validator) -> None:
    put(project / EN, 2, "text", pq.read_table(project / HELDOUT)["text"][0].as_py())
    names = sorted([name_of(project, EN, 2), name_of(project, HELDOUT, 0)])
    assert failures(check(project, validator, "documents")) == {"texts.documents": names[:1]}


@pytest.mark.parametrize(
    ("changes", "broken", "rows"),
    [
        ({"min_language_bytes": 10**6}, "languages.bytes", ["en", "zh"]),
        ({"min_heldout_bytes": 10**6}, "languages.heldout_bytes", ["en", "zh"]),
        ({"max_language_share": 0.5}, "languages.share", ["en"]),
        ({"lengths": {"zh": (Length(0.9, 10, 20),)}}, "lengths.zh 0.9", ["train"]),
        ({"languages": ("en", "zh", "de"), "lengths": {"de": (Length(0.5, 0, 10**9),)}}, "lengths.de 0.5", ["train"]),
        ({"min_kept_share": 0.99}, "steps.kept_share", ["clean", "dedup", "decontaminate"]),
        ({"max_byte_share": 0.1}, "languages.byte_share", ["train zh", "heldout zh"]),
        ({"max_left_over_share": 0.0}, "epochs.left_over_share", [0, 1]),
    ],
)
def test_limits_come_from_the_parameters(
    good: Path, validator: Validator, changes: dict[str, Any], broken: str, rows: list[Any]
) -> None:
    suite = {"steps.kept_share": "counts", "languages.byte_share": "tokens", "epochs.left_over_share": "packed"}
    assert failures(check(good, validator, suite.get(broken, "documents"), broken, **changes))[broken] == rows


def test_one_document_on_both_sides(project: Path, validator: Validator) -> None:
    row = pq.read_table(project / HELDOUT).to_pylist()[0]
    edit(project / EN, lambda rows: [*rows, row])
    found = failures(check(project, validator, "counts"))
    assert found["fates.fates"] == found["texts.documents"] == [row["doc_id"]]
    assert found["steps.difference"] == ["decontaminate", "encode train"]


def test_a_lost_document_is_named(project: Path, validator: Validator) -> None:
    lost = name_of(project, ZH, 3)
    edit(project / ZH, lambda rows: [row for row in rows if row["doc_id"] != lost])
    assert failures(check(project, validator, "counts"))["fates.fates"] == [lost]


def test_an_invented_document_is_named(project: Path, validator: Validator) -> None:
    def invent(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [*rows, {**rows[0], "doc_id": "poems/ghost", "text": "鬼" * 300}]

    edit(project / ZH, invent)
    assert failures(check(project, validator, "counts"))["fates.in_corpus"] == ["poems/ghost"]


def test_a_group_on_both_sides(project: Path, validator: Validator) -> None:
    names = [name_of(project, file, 0) for file in (EN, HELDOUT)]
    rows = [{"doc_id": name, "cluster": name, "survivor": True, "kind": "near", "jaccard": 1.0, "group": "g"} for name in names]
    edit(project / "data/dedup/clusters.parquet", lambda old: [*old, *rows])
    assert failures(check(project, validator, "counts")) == {"groups.sides": ["g"]}


def test_a_document_of_which_only_copies_were_left_is_counted(project: Path, validator: Validator) -> None:
    name = name_of(project, ZH, 0)
    for file in ("data/dedup/documents/poems-00000.parquet", ZH):
        edit(project / file, lambda rows: [row for row in rows if row["doc_id"] != name])
    assert failures(check(project, validator, "counts"))["fates.fates"] == [name]
    passages = pa.table({"doc_id": [name, "poems/1"], "emptied": [True, False]})
    pq.write_table(passages, project / "data/dedup/passages.parquet")
    assert failures(check(project, validator, "counts")) == {"steps.difference": ["encode train"]}


def test_no_cluster_at_all_is_fine(project: Path, validator: Validator) -> None:
    edit(project / "data/dedup/clusters.parquet", lambda rows: [])
    assert set(failures(check(project, validator, "counts"))) == {"fates.fates", "steps.difference"}


# --- tokens and instructions -----------------------------------------------------------------------------------------------


def token(place: str, value: int) -> Callable[[Path], None]:
    """Set the first, the second or the last token of training document 3."""

    def tamper(root: Path) -> None:
        row = pq.read_table(root / ENCODED).to_pylist()[3]
        at = {"first": 0, "second": 1, "last": row["length"] - 1}[place] + row["offset"]
        edit_arrow(root / TOKENS, "token", lambda tokens: tokens.__setitem__(at, value))

    return tamper


def field(file: str, column: str, value: Any) -> Callable[[Path], None]:
    return lambda root: put(root / file, 3, column, value)


@pytest.mark.parametrize(
    ("tamper", "broken"),
    [
        (field(ENCODED, "lang", "en"), ["documents.as_in_split"]),
        (field(ENCODED, "bytes", 1), ["documents.as_in_split"]),
        (field(ENCODED, "doc_index", 7), ["documents.index_gap"]),
        (field(ENCODED, "offset", lambda old: old + 1), ["documents.offset_gap", "documents.ends_with_eod"]),
        (field(ENCODED, "length", 0), ["documents.length", "documents.ends_with_eod"]),
        (field(ENCODED, "length", 10**9), ["documents.in_named_shard", "documents.ends_with_eod"]),
        (field(ENCODED, "shard", 1), ["documents.in_named_shard"]),
        (token("first", 800), ["documents.outside_vocabulary"]),
        (token("first", -5), ["documents.outside_vocabulary"]),
        (token("second", SPECIAL.mask), ["documents.special_tokens_inside"]),
        (token("last", 50), ["documents.ends_with_eod"]),
    ],
)
def test_tampered_tokens(project: Path, validator: Validator, tamper: Callable[[Path], None], broken: list[str]) -> None:
    tamper(project)
    name = name_of(project, ENCODED, 3)
    for expectation in broken:
        assert name in failures(check(project, validator, "tokens", expectation))[expectation]


def test_tokens_without_a_document(project: Path, validator: Validator) -> None:
    edit(project / ENCODED, lambda rows: rows[:-1])
    assert failures(check(project, validator, "tokens")) == {"splits.difference": ["train"]}


@pytest.mark.parametrize(
    ("column", "value", "broken"),
    [
        ("prompt_ids", lambda ids: [800, *ids[1:]], "samples.outside_vocabulary"),
        ("target_ids", [-1], "samples.outside_vocabulary"),
        ("target_ids", [SPECIAL.eop], "samples.special_tokens"),
        ("prompt_ids", lambda ids: [SPECIAL.mask, *ids], "samples.masks"),
        ("prompt_ids", lambda ids: [SPECIAL.mask, *ids[:-1]], "samples.ends_with_mask"),
        ("prompt_ids", [], "samples.ends_with_mask"),
        ("target_ids", [], "samples.target_tokens"),
        ("doc_index", 10**6, "samples.document_known"),
        ("doc_id", "poems/other", "samples.document_known"),
        ("licence", "MIT", "samples.document_known"),
        ("lang", "fr", "samples.lang"),
    ],
)
def test_tampered_instructions(project: Path, validator: Validator, column: str, value: Any, broken: str) -> None:
    put(project / INSTRUCTIONS, 3, column, value)
    found = failures(check(project, validator, "instructions", broken))
    assert found[broken] == [name_of(project, INSTRUCTIONS, 3, "sample_id")]


def test_two_samples_of_one_name(project: Path, validator: Validator) -> None:
    name = name_of(project, INSTRUCTIONS, 0, "sample_id")
    put(project / INSTRUCTIONS, 1, "sample_id", name)
    assert failures(check(project, validator, "instructions")) == {"names.samples": [name]}


# --- packed samples --------------------------------------------------------------------------------------------------------


def at(column: str, place: str, value: Any, kind: int = MASK_KIND) -> Callable[[Path], int]:
    """Set a column of the first sample of a kind, at a place found in that sample; gives the sample."""

    def tamper(root: Path) -> int:
        row = next(number for number in range(1000) if packed_kind(root, number) == kind)
        file, first = shard_of(root, row)
        cells = {name: packed_column(file, name)[row - first] for name in ("input_ids", "block_start", "block_context")}
        end = cells["block_start"][1]
        context = cells["block_context"][0]
        where = {"first": 0, "rest": context, "second": context + 1, "last": end - 1, "behind": cells["block_start"][-1]}
        where |= (
            {"mask": int(np.flatnonzero(cells["input_ids"][: context + 1] == SPECIAL.mask)[0])} if kind == MASK_KIND else {}
        )
        index = where[place] if place in where else int(place)

        def change(values: Any) -> None:
            old = values[row - first, index] if values.ndim == 2 else values[row - first]
            new = value(old) if callable(value) else value
            if values.ndim == 2:
                values[row - first, index] = new
            else:
                values[row - first] = new

        edit_arrow(file, column, change)
        return row

    return tamper


def shard_of(root: Path, row: int) -> tuple[Path, int]:
    return root / f"data/pack/samples-{row // 100:05d}.arrow", row // 100 * 100


def packed_kind(root: Path, row: int) -> int:
    file, first = shard_of(root, row)
    return int(packed_column(file, "kind")[row - first, 0])


@pytest.mark.parametrize(
    ("tamper", "broken"),
    [
        (at("kind", "first", 3), "samples.kind"),
        (at("input_ids", "first", 800), "samples.ids_outside"),
        (at("input_ids", "first", 801, GMASK_KIND), "samples.ids_outside"),
        (at("target_ids", "rest", 800), "samples.targets_outside"),
        (at("target_ids", "first", 50), "samples.targets_misplaced"),
        (at("target_ids", "rest", -1), "samples.targets_misplaced"),
        (at("target_ids", "rest", lambda old: old + 1), "samples.targets_not_next"),
        (at("target_ids", "last", 50, INSTRUCTION_KIND), "samples.targets_not_next"),
        (at("position_ids", "rest", lambda old: old + 1), "samples.positions_wrong"),
        (at("position_ids", "first", 5), "samples.positions_wrong"),
        (at("position_ids", "last", 1, GMASK_KIND), "samples.positions_wrong"),
        (at("position_ids", "last", 1, INSTRUCTION_KIND), "samples.positions_wrong"),
        (at("input_ids", "mask", 50), "samples.positions_wrong"),
        (at("input_ids", "behind", 50), "samples.padding_wrong"),
        (at("position_ids", "behind", 9), "samples.padding_wrong"),
        (at("input_ids", "rest", 50), "samples.marks_wrong"),
        (at("input_ids", "rest", SPECIAL.eop, GMASK_KIND), "samples.marks_wrong"),
        (at("block_start", "0", 1), "samples.blocks_wrong"),
        (at("block_start", "2", 1000), "samples.blocks_wrong"),
        (at("block_context", "0", -1), "samples.blocks_wrong"),
        (at("epoch", "first", lambda old: 1 - old), "samples.epoch_wrong"),
        (at("input_ids", "first", lambda old: old + 1), "samples.text_differs"),
        (at("input_ids", "first", lambda old: old + 1, GMASK_KIND), "samples.text_differs"),
        (at("target_ids", "last", lambda old: old + 1, GMASK_KIND), "samples.text_differs"),
    ],
)
def test_tampered_samples(project: Path, validator: Validator, tamper: Callable[[Path], int], broken: str) -> None:
    row = tamper(project)
    assert failures(check(project, validator, "packed", broken))[broken] == [row]


@pytest.mark.parametrize(
    ("column", "value", "broken"),
    [
        ("doc_index", 10**6, "samples.pieces_outside"),
        ("doc_index", -1, "samples.pieces_outside"),
        ("doc_offset", 10**6, "samples.pieces_outside"),
        ("doc_offset", lambda old: old + 1, "samples.text_differs"),
        ("length", lambda old: old - 1, "samples.pieces_difference"),
    ],
)
def test_tampered_pieces(project: Path, validator: Validator, column: str, value: Any, broken: str) -> None:
    put(project / PIECES, 3, column, value)
    sample = pq.read_table(project / PIECES)["sample"][3].as_py()
    assert failures(check(project, validator, "packed", broken))[broken] == [sample]


def test_pieces_out_of_order(project: Path, validator: Validator) -> None:
    edit(project / PIECES, lambda rows: [*rows[10:], *rows[:10]])
    assert failures(check(project, validator, "packed"))["totals.stray_pieces"] == ["samples"]


def test_a_missing_shard_of_samples(project: Path, validator: Validator) -> None:
    (project / "data/pack/samples-00005.arrow").unlink()
    found = failures(check(project, validator, "packed"))
    assert found["totals.difference"] == ["samples"]
    assert found["epochs.samples_difference"] == [1]


def test_tokens_that_an_epoch_uses_twice(project: Path, validator: Validator) -> None:
    """A sample is put in the place of the next of its kind, with its pieces: it is right by itself."""
    rows = np.flatnonzero(packed_column(project / SAMPLES, "kind")[:, 0] == GMASK_KIND)[:2].tolist()
    for column in ("input_ids", "target_ids", "position_ids", "block_start", "block_context"):
        edit_arrow(project / SAMPLES, column, lambda values: values.__setitem__(rows[1], values[rows[0]]))

    def change(pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
        copies = [{**piece, "sample": rows[1]} for piece in pieces if piece["sample"] == rows[0]]
        rest = [piece for piece in pieces if piece["sample"] != rows[1]]
        return sorted([*rest, *copies], key=lambda piece: piece["sample"])

    edit(project / PIECES, change)
    assert failures(check(project, validator, "packed")) == {"epochs.repeated": [0]}


def test_kinds_in_other_shares_than_the_parameters_ask_for(project: Path, validator: Validator) -> None:
    manifest = project / "data/pack/manifest.json"
    facts = json.loads(manifest.read_text(encoding="utf-8"))
    facts["params"] |= {"gmask_probability": 0.3, "instruction_share": 0.5}
    manifest.write_text(json.dumps(facts), encoding="utf-8")
    assert failures(check(project, validator, "packed")) == {"kinds.deviation": ["gmask", "mask", "instruction"]}


# --- Great Expectations ----------------------------------------------------------------------------------------------------


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

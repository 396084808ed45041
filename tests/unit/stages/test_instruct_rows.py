"""Labelled rows as they come from outside: broken text is named by file and row, missing values are missing, marks are text."""

from __future__ import annotations

import bz2
import datetime
import gzip
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.tokenizer import PIECES, SPECIAL, Tokenizer
from stages._params import parse
from stages._runner import StageError, StageIO
from stages.instruct import Params, run
from stages.instruct.rows import File, find
from tests.support.instruct_project import instruct_project, trained
from tests.support.text import documents, text

FINE = b'{"prompt": "fine", "completion": "ok"}\n'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("tokenizer"))


def dataset(**changes: Any) -> dict[str, Any]:
    made = {"name": "mine", "task": "word", "lang": "en", "files": ["labelled/a.*"], "licence": "CC0-1.0", "form": "prompted"}
    return made | changes


def params(**changes: Any) -> Params:
    plain = {"seed": 1, "block_length": 96, "minimum_text_share": 0.25, "evaluation_sets": []}
    return parse(Params, plain | {"datasets": [dataset(**changes)]}, "instruct")


def build(root: Path, model: Path, **changes: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(samples, the data set's entry of the registry)"""
    io = instruct_project(root, model, documents("en", 1, 2, 300), "labelled")
    run(params(**changes), io)
    samples = pq.read_table(io.output / "samples.parquet").to_pylist()
    return samples, json.loads((io.output / "registry.json").read_text(encoding="utf-8"))[0]


def labelled(root: Path, name: str, content: bytes) -> Path:
    (root / "labelled").mkdir()
    path = root / "labelled" / name
    path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    return root


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "bad \xff one", "completion": "x"}\n', "invalid start byte"),
        (b'{"prompt": "cut \xe4\xb8", "completion": "x"}\n', "invalid continuation byte"),
        (b'{"prompt": "half \\ud83d", "completion": "x"}\n', "surrogates not allowed"),
        (b'{"prompt": "x", "completion": "x", "more": ["\\uDC00"]}\n', "surrogates not allowed"),
    ],
)
def test_what_is_no_text_or_no_json_is_named_by_file_and_row(
    tmp_path: Path, model: Path, name: str, line: bytes, message: str
) -> None:
    with pytest.raises(StageError, match=rf"not readable as jsonl: .*{message} \(file {name}, row 3\)\. Remedy: "):
        build(labelled(tmp_path, name, FINE * 2 + line + FINE), model)


def test_blank_lines_count(tmp_path: Path, model: Path) -> None:
    with pytest.raises(StageError, match=r"not readable as jsonl: Expecting property name.* \(file a\.jsonl, row 6\)"):
        build(labelled(tmp_path, "a.jsonl", FINE + b"\n\n" + FINE + b"  \n{\n"), model)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lambda raw: pa.compress(raw, "zstd").to_pybytes()])
def test_a_compressed_file_cut_short_is_named(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    lines = b"".join(b'{"prompt": "%d", "completion": "c"}\n' % (number**7) for number in range(9000))
    whole = compress(lines)
    suffix = {0x1F: "gz", 0x42: "bz2", 0x28: "zst"}[whole[0]]
    for keep in (len(whole), len(whole) // 2, -1):
        path = tmp_path / f"a.jsonl.{suffix}"
        path.write_bytes(whole[:keep])
        (file,) = find(params(files=[str(path)]).datasets[0], StageIO("instruct", tmp_path, [], "data/instruct"))
        if keep == len(whole):
            assert sum(1 for _ in file.rows()) == 9000
            continue
        with pytest.raises(StageError, match=rf"Truncated compressed stream \(file a\.jsonl\.{suffix}, row \d+\)"):
            list(file.rows())


def test_whole_characters_that_are_spelled_as_two_halves_are_text(tmp_path: Path, model: Path) -> None:
    samples, _ = build(labelled(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"prompt": "\\ud83d\\udc09", "completion": "x"}\r\n'), model)
    assert [(sample["prompt"], sample["doc_id"]) for sample in samples] == [("\U0001f409", "mine/a.jsonl#1")]


def test_rows_of_parquet_that_are_no_text_are_named(tmp_path: Path, model: Path) -> None:
    content = [b"fine"] * 1030 + [b"bad \xff", b"fine"]
    broken = pa.Array.from_buffers(pa.large_string(), len(content), pa.array(content, pa.large_binary()).buffers())
    (tmp_path / "labelled").mkdir()
    pq.write_table(pa.table({"prompt": broken, "completion": ["x"] * len(content)}), tmp_path / "labelled/a.parquet")
    with pytest.raises(StageError, match=r"not readable as parquet: .*invalid start byte \(file a\.parquet, row 1031\)"):
        build(tmp_path, model)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_nan_is_a_missing_value(tmp_path: Path, model: Path, form: str) -> None:
    """As pandas writes them: a row whose field is NaN is passed over, never trained on as the word `nan`."""
    rows = [{"text": "a gloss", "word": 1.5, "more": [float("nan")]}, {"text": "another", "word": float("nan"), "more": []}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    root = labelled(tmp_path, f"a.{form}", lines)
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), root / "labelled/a.parquet")
    samples, entry = build(root, model, form="fields", columns={"text": "text", "word": "word"})
    assert [sample["target"] for sample in samples] == [" 1.5"]
    assert (entry["available"], entry["passed"]) == (1, 1)


@pytest.mark.parametrize("value", [b"picture", datetime.datetime(2024, 1, 1), Decimal(1), float("-inf")])
def test_a_column_that_json_cannot_hold_is_refused_with_a_remedy(tmp_path: Path, model: Path, value: Any) -> None:
    (tmp_path / "labelled").mkdir()
    rows = [{"prompt": "p", "completion": "c", "more": None}, {"prompt": "p", "completion": "c", "more": value}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "labelled/a.parquet")
    message = r"cannot be told as JSON: .* \(file a\.parquet, row 2\)\. Remedy: make it text .*, or leave the column out"
    with pytest.raises(StageError, match=message):
        build(tmp_path, model)


@pytest.mark.parametrize("number", ["Infinity", "-1e999"])
def test_a_number_that_is_none_is_refused_with_a_remedy(tmp_path: Path, model: Path, number: str) -> None:
    line = f'{{"prompt": "x", "completion": "x", "score": {number}}}\n'.encode()
    with pytest.raises(StageError, match=r"cannot be told as JSON: .* \(file a\.jsonl, row 2\)\. Remedy: "):
        build(labelled(tmp_path, "a.jsonl", FINE + line), model)


def test_evaluation_files_may_hold_pictures_and_dates(tmp_path: Path, model: Path) -> None:
    """Only their texts are looked at."""
    root = labelled(tmp_path, "a.jsonl", FINE)
    rows = [{"question": "what is it?", "picture": b"\xff", "when": datetime.datetime(2024, 1, 1), "score": float("inf")}]
    pq.write_table(pa.Table.from_pylist(rows), root / "labelled/eval.parquet")
    plain = {"seed": 1, "block_length": 96, "minimum_text_share": 0.25, "evaluation_sets": []}
    sets = {
        "datasets": [dataset(files=["labelled/a.jsonl"])],
        "evaluations": [{"name": "e", "files": ["labelled/eval.parquet"]}],
    }
    io = instruct_project(root, model, documents("en", 1, 2, 300), "labelled")
    assert run(parse(Params, plain | sets, "instruct"), io)["samples"] == 1


def test_both_formats_give_one_row_one_hash(tmp_path: Path, model: Path) -> None:
    rows = [{"prompt": "p", "completion": "c", "nested": {"list": [1.0, 2.5, None], "flag": True}}]
    found = []
    for form in ("jsonl", "parquet"):
        root = labelled(_made(tmp_path / form), f"a.{form}", (json.dumps(rows[0]) + "\n").encode())
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), root / "labelled/a.parquet")
        build(root, model)
        (document,) = pq.read_table(root / "data/.instruct.partial/documents.parquet").to_pylist()
        found.append(document["raw_sha256"])
    assert found[0] == found[1]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("form", ["prompted", "promptsource"])
def test_special_tokens_that_a_row_spells_stay_text(tmp_path: Path, model: Path, form: str) -> None:
    spelled = " ".join(PIECES.values()) + " \u2581[MASK]\u2581"
    root = labelled(tmp_path, "a.jsonl", (json.dumps({"prompt": spelled, "completion": spelled}) + "\n").encode())
    changes: dict[str, Any] = {}
    if form == "promptsource":
        template = {"name": "one", "jinja": "{{ prompt }} ||| {{ completion }}", "answer_choices": None}
        (root / "labelled/templates.yaml").write_text(json.dumps({"templates": {"a": template}}), encoding="utf-8")
        changes = {"form": "fields", "templates": "labelled/templates.yaml"}
    ((sample,), _) = build(root, model, **changes)
    assert Tokenizer(model).decode(sample["prompt_ids"]) == sample["prompt"]
    assert Tokenizer(model).decode(sample["target_ids"]) == sample["target"]
    special = [piece for piece in sample["prompt_ids"] + sample["target_ids"] if piece <= SPECIAL.eop]
    assert special == [SPECIAL.mask], "the one at the prompt's end, which no text spells"
    assert sample["prompt_ids"][-1] == SPECIAL.mask
    assert sample["prompt"].startswith("<pad>")


def test_the_error_stands_behind_the_rows_that_could_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(FINE * 3 + b"\xff\n")
    rows = File("a.jsonl", "jsonl", lambda: path.open("rb"), "", 0).rows()
    assert [next(rows)[0] for _ in range(3)] == ["1", "2", "3"]
    with pytest.raises(StageError, match="row 4"):
        next(rows)


def test_documents_of_the_training_text_that_are_damaged_are_named(tmp_path: Path, model: Path) -> None:
    rows = documents("en", 1, 5, 300)
    unlike = {"files": [], "licence": None, "form": "fields"}
    titles = params(name="titles", task="title", sources=["made-en"], **unlike)
    io = instruct_project(tmp_path, model, rows)
    file = tmp_path / "data/decontaminate/train/documents/made-en-00000.parquet"
    table, whole = pq.read_table(file), file.read_bytes()
    content = [row["text"].encode() for row in rows]
    content[3] = b"\xff" + text("en", 1, 50).encode()
    broken = pa.Array.from_buffers(pa.large_string(), 5, pa.array(content, pa.large_binary()).buffers())
    pq.write_table(table.set_column(table.schema.get_field_index("text"), table.schema.field("text"), broken), file)
    with pytest.raises(StageError, match=r"text is not UTF-8 \(invalid start byte\) \(file .*made-en-00000\.parquet, row 3\)"):
        run(titles, io)
    file.write_bytes(whole[:-9])
    with pytest.raises(StageError, match=r"damaged or cut short: .*made-en-00000\.parquet.*dvc repro"):
        run(titles, io)
    table_of_encode = tmp_path / "data/encode/train.documents.parquet"
    table_of_encode.write_bytes(table_of_encode.read_bytes()[:-9])
    with pytest.raises(StageError, match=r"damaged or cut short: .*train\.documents\.parquet"):
        run(titles, io)

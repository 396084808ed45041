"""The evaluate stage as a whole: its tables agree with each other and with the definitions."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from model.checkpoint import CONFIG, WEIGHTS, read_model
from model.scoring import Question, score_choices, score_documents
from model.tokenizer import Tokenizer
from stages._manifest import describe_folder
from stages._params import ParamsError, load_section, parse, to_plain
from stages._runner import StageError
from stages.evaluate import Params, run
from stages.evaluate.baselines import Unigram
from stages.evaluate.build import ITEMS
from stages.evaluate.heldout import drawn
from tests.support.evaluate_project import PARAMS, ROOT, make_evaluate_project, splits, stage_io


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_evaluate_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def evaluated(project: Path) -> tuple[Path, dict[str, Any]]:
    io = stage_io(project)
    counts = run(PARAMS, io)
    output = project / "data/evaluate"
    io.output.rename(output)
    return output, counts


def load(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_the_laptop_profile_has_a_valid_section() -> None:
    params = load_section(Params, ROOT / "params.yaml", "evaluate")
    assert params.window < 256


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("context", 60, "leaves nothing to score in a window of 60"),
        ("threads", 0, "threads: 0 is not allowed"),
        ("cloze", {**to_plain(PARAMS.cloze), "min_context": 31}, "min_context 31 is over context 30"),
    ],
)
def test_wrong_params_are_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        parse(Params, {**to_plain(PARAMS), key: value}, "params.yaml: evaluate")


def test_metrics_are_numbers_for_every_model(evaluated: tuple[Path, dict[str, Any]]) -> None:
    output, counts = evaluated
    metrics, results = load(output / "metrics.json"), load(output / "results.json")
    assert counts["models"] == ["bigram", "fp32", "int4", "int8", "unigram"]
    assert set(metrics) == {"bpb", "ratio_to_unigram", "ratio_to_bigram", "cloze_accuracy"}
    for table in metrics.values():
        for row in table.values():
            assert set(row) == {"en", "zh"} and all(isinstance(value, float) for value in row.values())
    assert set(metrics["bpb"]) == set(metrics["cloze_accuracy"]) == set(counts["models"])
    for name, row in metrics["ratio_to_bigram"].items():
        for lang, ratio in row.items():
            assert ratio == pytest.approx(metrics["bpb"][name][lang] / metrics["bpb"]["bigram"][lang], abs=1e-5)
    assert metrics["bpb"]["bigram"]["en"] < metrics["bpb"]["unigram"]["en"] < metrics["bpb"]["fp32"]["en"]  # untrained
    assert results["bits_per_byte"]["fp32"]["language"] == metrics["bpb"]["fp32"]


def test_bits_per_byte_are_those_of_the_definition(project: Path, evaluated: tuple[Path, dict[str, Any]]) -> None:
    results = load(evaluated[0] / "results.json")
    train, heldout, tokenizer = splits(project)
    model = read_model(project / "data/pretrain/checkpoints/step-000010")
    unigram = Unigram.fit(train.tokens, tokenizer.piece_count, 1.0)
    for lang in ("en", "zh"):
        texts = [tokenizer.decode(heldout.text_tokens(n)) for n in range(len(heldout)) if heldout.lang[n] == lang]
        ids = [np.array(tokenizer.encode(text), dtype=np.int32) for text in texts]
        size = sum(len(text.encode()) for text in texts)
        found = results["bits_per_byte"]
        expected = score_documents(model, ids, 60, 20).sum() / math.log(2) / size
        assert found["fp32"]["language"][lang] == pytest.approx(expected, abs=1e-5)
        expected = sum(unigram.nats(one) for one in ids) / math.log(2) / size
        assert found["unigram"]["language"][lang] == pytest.approx(expected, abs=1e-6)
        assert results["heldout"]["language"][lang] == {"documents": len(ids), "tokens": sum(map(len, ids)), "bytes": size}
    assert set(found["fp32"]["source"]) == {"made-en", "made-zh"}


def test_differences_name_both_models(evaluated: tuple[Path, dict[str, Any]]) -> None:
    results = load(evaluated[0] / "results.json")
    bits = {name: row["language"] for name, row in results["bits_per_byte"].items()}
    pairs = {(row["model"], row["reference"]) for row in results["differences"]}
    assert pairs == {("fp32", "unigram"), ("fp32", "bigram"), ("int4", "fp32"), ("int8", "fp32")}
    for row in results["differences"]:
        value = bits[row["model"]][row["lang"]] - bits[row["reference"]][row["lang"]]
        assert row["value"] == pytest.approx(value, abs=3e-6)
        assert row["low"] <= row["value"] <= row["high"]


def test_earlier_checkpoints_are_scored_on_a_part(project: Path, evaluated: tuple[Path, dict[str, Any]]) -> None:
    curve = load(evaluated[0] / "results.json")["checkpoints"]
    assert [(row["checkpoint"], row["step"]) for row in curve] == [("step-000005", 5), ("step-000010", 10)]
    _, heldout, _ = splits(project)
    chosen = drawn(PARAMS.checkpoint_tokens, PARAMS.seed)(heldout.doc_id, heldout.lang, np.diff(heldout.start))
    assert set(heldout.lang[chosen]) == {"en", "zh"} and len(chosen) < len(heldout)
    for row in curve:
        model = read_model(project / "data/pretrain/checkpoints" / row["checkpoint"])
        for lang in ("en", "zh"):
            here = [int(number) for number in chosen if heldout.lang[number] == lang]
            nats = score_documents(model, [heldout.text_tokens(number) for number in here], 60, 20).sum()
            assert row["bpb"][lang] == pytest.approx(nats / math.log(2) / heldout.bytes[here].sum(), abs=1e-5)


def test_items_table_lets_every_answer_be_checked(project: Path, evaluated: tuple[Path, dict[str, Any]]) -> None:
    output, counts = evaluated
    table = pq.read_table(output / "items.parquet")
    assert table.schema.equals(ITEMS)
    rows = table.to_pylist()
    assert len(rows) == len(counts["models"]) * sum(counts["items"].values())
    results = load(output / "results.json")["cloze"]
    for name in counts["models"]:
        for lang in ("en", "zh"):
            mine = [row for row in rows if row["model"] == name and row["lang"] == lang]
            correct = sum(row["prediction"] == row["label"] for row in mine)
            assert (results[name][lang]["correct"], results[name][lang]["items"]) == (correct, len(mine))
            assert all(row["scores"][row["prediction"]] == max(row["scores"]) for row in mine)
    tokenizer = Tokenizer(project / "data/tokenizer/tokenizer.model")
    row = next(row for row in rows if row["model"] == "fp32" and row["lang"] == "zh")
    choices = [tokenizer.encode(choice) for choice in row["choices"]]
    model = read_model(project / "data/pretrain/checkpoints/step-000010")
    again = score_choices(model, [Question(tokenizer.encode(row["context"]), choices)])[0]
    np.testing.assert_allclose(again, row["scores"], atol=1e-4)


def test_equal_input_gives_equal_bytes(project: Path, evaluated: tuple[Path, dict[str, Any]]) -> None:
    io = stage_io(project)
    run(PARAMS, io)
    assert describe_folder(io.output) == describe_folder(evaluated[0])


def test_a_stage_without_items_or_curve_still_reports(project: Path) -> None:
    io = stage_io(project)
    counts = run(replace(PARAMS, checkpoint_tokens=0, cloze=replace(PARAMS.cloze, min_count=10**6)), io)
    assert (counts["items"], counts["checkpoints"]) == ({}, 0)
    assert pq.read_table(io.output / "items.parquet").num_rows == 0


@pytest.fixture
def broken(project: Path, tmp_path: Path) -> Path:
    shutil.copytree(project / "data", tmp_path / "data", ignore=shutil.ignore_patterns("evaluate", "decontaminate", ".*"))
    return tmp_path


def test_an_export_of_another_checkpoint_is_refused(broken: Path) -> None:
    file = broken / "data/quantize/int4" / CONFIG
    config = load(file)
    config["quantization"]["parent_sha256"] = "0" * 64
    file.write_text(json.dumps(config))
    with pytest.raises(StageError, match=r"other weights than those of step-000010.*data/quantize/int4/config\.json.*Remedy"):
        run(PARAMS, stage_io(broken))


def test_another_tokenizer_is_refused(broken: Path) -> None:
    (broken / "data/pretrain/checkpoints/step-000010/tokenizer.model").write_bytes(b"other")
    with pytest.raises(StageError, match=r"another tokenizer.*step-000010"):
        run(PARAMS, stage_io(broken))


def test_a_window_that_does_not_fit_is_refused(project: Path) -> None:
    with pytest.raises(StageError, match=r"window of 64 tokens does not fit sequences of 64.*evaluate\.window to 63 or less"):
        run(replace(PARAMS, window=64), stage_io(project))


def test_a_damaged_export_is_refused_by_name(broken: Path) -> None:
    file = broken / "data/quantize/int8" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StageError, match=r"cannot be read.*int8"):
        run(PARAMS, stage_io(broken))


def test_a_project_without_checkpoints_is_refused(broken: Path) -> None:
    shutil.rmtree(broken / "data/pretrain/checkpoints")
    (broken / "data/pretrain/checkpoints").mkdir()
    with pytest.raises(StageError, match="no checkpoint"):
        run(PARAMS, stage_io(broken))

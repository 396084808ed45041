from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from model.checkpoint import CONFIG, WEIGHTS, read_model, write_checkpoint
from model.config import ModelConfig
from model.glm import GLM, initialise
from model.quantization import Scheme, quantize_checkpoint
from model.scoring import Question, score_choices, score_documents
from model.tokenizer import BLANK, Tokenizer
from stages._manifest import describe_folder
from stages._params import ParamsError, load_section, parse, to_plain
from stages._runner import StageError, StageIO
from stages.encode import BATCH_TOKENS
from stages.encode import Params as EncodeParams
from stages.encode import run as encode
from stages.evaluate import Params, run
from stages.evaluate.baselines import Bigram, Unigram
from stages.evaluate.build import ITEMS
from stages.evaluate.cloze import Vocabulary, make_items
from stages.evaluate.heldout import Split, drawn, every_nth, read_split
from stages.evaluate.settings import Baselines, Cloze
from stages.evaluate.statistics import bits_per_byte, paired_bootstrap, wilson
from stages.tokenizer import Params as TokenizerParams
from stages.tokenizer import train
from tests.support.text import documents, text, write_documents

ROOT = Path(__file__).resolve().parents[3]
TOKENIZER = TokenizerParams(1500, 0.999, 1, 0.5, True, 4, 16, 15_000, 128, 2, 1)
PARAMS = Params(
    seed=1,
    threads=1,
    batch_positions=2048,
    window=60,
    context=20,
    heldout_tokens=2**40,
    checkpoint_tokens=100,
    bootstrap=200,
    baselines=Baselines(2**40, 1.0, None),
    cloze=Cloze(items=12, context=30, min_context=8, min_sentence=4, min_count=2, frequency_ratio=3.0),
)
DEPS = ["data/encode", "data/pretrain", "data/quantize", "data/tokenizer"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizer, token shards, two checkpoints and two exports of the last."""
    root = tmp_path_factory.mktemp("project")
    rows = {
        "train": documents("en", 1, 40, 1500) + documents("zh", 1, 40, 1200),
        "heldout": documents("en", 2, 4, 700) + documents("zh", 2, 5, 500, source="made-zh"),
    }
    for split, table in rows.items():
        write_documents(root / "data/decontaminate" / split, table)
    (root / "data/tokenizer").mkdir()
    spm = root / "data/tokenizer/tokenizer.model"
    spm.write_bytes(train((text("en", 1, 60_000) + "\n" + text("zh", 1, 40_000)).split("\n"), TOKENIZER))
    io = StageIO("encode", root, ["data/decontaminate", "data/tokenizer"], "data/encode")
    io.output.mkdir(parents=True)
    encode(EncodeParams(BATCH_TOKENS), io)
    io.output.rename(root / "data/encode")
    config = ModelConfig(2, 32, 2, 64, Tokenizer(spm).padded_size(128), 64)
    for step in (5, 10):
        model = GLM(config)
        initialise(model, step)
        folder = root / f"data/pretrain/checkpoints/step-{step:06d}"
        write_checkpoint(folder, model.state_dict(), {"model": asdict(config)}, spm)
    for scheme in (Scheme("int8", 8), Scheme("int4", 4)):
        quantize_checkpoint(root / "data/pretrain/checkpoints/step-000010", root / "data/quantize" / scheme.scheme, scheme)
    return root


def stage_io(root: Path) -> StageIO:
    io = StageIO("evaluate", root, DEPS, "data/evaluate")
    shutil.rmtree(io.output, ignore_errors=True)
    io.output.mkdir(parents=True)
    return io


@pytest.fixture(scope="module")
def evaluated(project: Path) -> tuple[Path, dict[str, Any]]:
    io = stage_io(project)
    counts = run(PARAMS, io)
    output = project / "data/evaluate"
    io.output.rename(output)
    return output, counts


def load(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def splits(project: Path) -> tuple[Split, Split, Tokenizer]:
    folder = project / "data/encode"
    tokenizer = Tokenizer(project / "data/tokenizer/tokenizer.model")
    return read_split(folder, "train", every_nth(2**40)), read_split(folder, "heldout", every_nth(2**40)), tokenizer


# --- parameters ---------------------------------------------------------------------------------------------------------


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


# --- tokens -------------------------------------------------------------------------------------------------------------


def test_a_split_is_its_documents(project: Path) -> None:
    _, heldout, tokenizer = splits(project)
    rows = documents("en", 2, 4, 700) + documents("zh", 2, 5, 500, source="made-zh")
    assert heldout.doc_id.tolist() == [row["doc_id"] for row in rows] and heldout.share == 1.0
    for number, row in enumerate(rows):
        assert tokenizer.decode(heldout.text_tokens(number)) == row["text"]
        assert heldout.bytes[number] == len(row["text"].encode())


def test_a_limit_takes_every_nth_document(project: Path) -> None:
    train, _, _ = splits(project)
    part = read_split(project / "data/encode", "train", every_nth(len(train.tokens) * 2 // 5))
    assert part.doc_id.tolist() == train.doc_id[::3].tolist()
    assert part.text_tokens(1).tolist() == train.text_tokens(3).tolist()
    assert part.share == pytest.approx(len(part.tokens) / len(train.tokens))


def test_draws_are_whole_documents_of_each_language(project: Path) -> None:
    train, _, _ = splits(project)
    folder = project / "data/encode"
    small, large = (read_split(folder, "train", drawn(tokens, 1)) for tokens in (1000, 4000))
    assert set(small.doc_id) < set(large.doc_id) < set(train.doc_id)
    for part, wanted in ((small, 1000), (large, 4000)):
        assert part.doc_id.tolist() == [name for name in train.doc_id.tolist() if name in set(part.doc_id)]
        for lang in ("en", "zh"):
            held = [int(part.start[n + 1] - part.start[n]) for n in range(len(part)) if part.lang[n] == lang]
            assert sum(held) >= wanted > sum(held) - max(held)
    assert set(read_split(folder, "train", drawn(1000, 2)).doc_id) != set(small.doc_id)
    assert len(read_split(folder, "train", drawn(2**40, 1))) == len(train)


def test_shards_that_do_not_fit_the_table_are_refused(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "data/encode", tmp_path / "encode")
    shutil.copy(tmp_path / "encode/heldout-00000.arrow", tmp_path / "encode/heldout-00001.arrow")
    with pytest.raises(StageError, match=r"documents hold \d+ tokens, shards \d+"):
        read_split(tmp_path / "encode", "heldout", every_nth(2**40))


# --- baselines ----------------------------------------------------------------------------------------------------------


def test_the_unigram_counts(project: Path) -> None:
    model = Unigram.fit(np.array([0, 0, 1, 3], dtype=np.int32), 5, 0.5)
    np.testing.assert_allclose(np.exp(model.log_probability), np.array([2.5, 1.5, 0.5, 1.5, 0.5]) / 6.5)
    assert model.nats(np.array([0, 4], dtype=np.int32)) == pytest.approx(-math.log(2.5 / 6.5) - math.log(0.5 / 6.5))


def test_the_bigram_follows_its_formula() -> None:
    tokens = np.array([1, 2, 1, 2, 1, 3, 2, 2, 1], dtype=np.int32)
    unigram = Unigram.fit(tokens, 5, 1.0)
    model = Bigram.fit(tokens, unigram, 0.4)
    p = np.exp(unigram.log_probability)
    # behind 1: 2 twice, 3 once; behind 4: nothing
    expected = [(2 - 0.4) / 3 + 0.4 * 2 / 3 * p[2], (1 - 0.4) / 3 + 0.4 * 2 / 3 * p[3], 0.4 * 2 / 3 * p[0], p[2]]
    before, following = np.array([1, 1, 1, 4]), np.array([2, 3, 0, 2])
    np.testing.assert_allclose(np.exp(model.log_probability(before, following)), expected)
    once, twice = 3, 1  # of the pairs 12 (2), 21 (3), 13, 32, 22
    assert Bigram.fit(tokens, unigram, None).discount == pytest.approx(once / (once + 2 * twice))


def test_baselines_are_distributions(project: Path) -> None:
    train, _, tokenizer = splits(project)
    vocabulary = np.arange(tokenizer.piece_count, dtype=np.int32)
    unigram = Unigram.fit(train.tokens, len(vocabulary), 1.0)
    bigram = Bigram.fit(train.tokens, unigram, None)
    assert np.exp(unigram.log_probability).sum() == pytest.approx(1.0)
    for before in (*train.tokens[:5].tolist(), 3, len(vocabulary) - 1):
        given = np.exp(bigram.log_probability(np.full(len(vocabulary), before), vocabulary))
        assert given.sum() == pytest.approx(1.0) and (given > 0).all()
    assert bigram.nats(train.text_tokens(0)) < unigram.nats(train.text_tokens(0))


def test_a_text_of_one_token_has_no_pair() -> None:
    unigram = Unigram.fit(np.array([2], dtype=np.int32), 5, 1.0)
    bigram = Bigram.fit(np.array([2], dtype=np.int32), unigram, None)
    one = np.array([2], dtype=np.int32)
    assert bigram.nats(one) == unigram.nats(one)
    np.testing.assert_allclose(bigram.scores(one, np.array([1, 2])), unigram.scores(one, np.array([1, 2])))


# --- statistics ---------------------------------------------------------------------------------------------------------


def test_wilson_matches_published_values() -> None:
    # Newcombe 1998, Table I, method 3
    for correct, items, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (29, 29, 0.8830, 1.0),
    ):
        interval = wilson(correct, items)
        assert (interval.value, interval.low, interval.high) == pytest.approx((correct / items, low, high), abs=6e-5)


def test_the_bootstrap_is_paired() -> None:
    size = np.array([100, 1000, 300, 50])
    nats = np.array([50.0, 900.0, 100.0, 60.0])
    same = paired_bootstrap(nats, nats, size, 500, 1)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    bit_a_byte = paired_bootstrap(nats + size * math.log(2), nats, size, 500, 1)
    assert (bit_a_byte.value, bit_a_byte.low, bit_a_byte.high) == pytest.approx((1.0, 1.0, 1.0))


def test_the_bootstrap_covers_and_repeats() -> None:
    draw = np.random.default_rng(7)
    covered = 0
    for trial in range(100):
        size = draw.integers(200, 400, 60)
        difference = size * draw.normal(0.3, 0.2, 60) * math.log(2)
        interval = paired_bootstrap(difference, np.zeros(60), size, 300, trial)
        covered += interval.low <= 0.3 <= interval.high
        assert interval.value == pytest.approx(bits_per_byte(difference, size))
    assert covered >= 85
    assert interval == paired_bootstrap(difference, np.zeros(60), size, 300, 99)
    assert interval != paired_bootstrap(difference, np.zeros(60), size, 300, 98)


# --- cloze --------------------------------------------------------------------------------------------------------------


def test_items_are_ends_of_heldout_sentences(project: Path) -> None:
    train, heldout, tokenizer = splits(project)
    items = make_items(train, heldout, tokenizer, PARAMS.cloze, 1)
    assert {item.lang for item in items} == {"en", "zh"} and len({item.item for item in items}) == len(items)
    for item in items:
        document = heldout.doc_id.tolist().index(item.doc_id)
        at = int(item.item.rpartition("@")[2])
        tokens = heldout.text_tokens(document)
        assert item.choices[item.label] == tokens[at]
        assert tokenizer.piece(int(tokens[at + 1])).lstrip(BLANK)[0] in {"en": ".!?", "zh": "。！？"}[item.lang]
        assert item.context.tolist() == tokens[max(0, at - 30) : at].tolist() and len(item.context) >= 8


def test_wrong_choices_end_sentences_as_often(project: Path) -> None:
    train, heldout, tokenizer = splits(project)
    for item in make_items(train, heldout, tokenizer, PARAMS.cloze, 1):
        vocabulary = Vocabulary(tokenizer, item.lang)
        source = train.lang == item.lang  # one source a language here
        counts = np.zeros(tokenizer.piece_count)
        for document in np.flatnonzero(source):
            tokens = train.text_tokens(int(document))
            for word, end in pairwise(tokens.tolist()):
                counts[word] += vocabulary.word[word] and vocabulary.end[end]
        right = counts[item.choices[item.label]]
        assert len({tokenizer.piece(int(choice)).casefold() for choice in item.choices}) == 5
        for choice in item.choices:
            assert counts[choice] >= 2 and right / 3 <= counts[choice] <= right * 3
        if item.lang == "zh":
            assert len({len(tokenizer.piece(int(choice))) for choice in item.choices}) == 1


def test_draws_follow_the_seed_and_the_limit(project: Path) -> None:
    train, heldout, tokenizer = splits(project)

    def plain(seed: int, **changes: Any) -> list[Any]:
        items = make_items(train, heldout, tokenizer, replace(PARAMS.cloze, **changes), seed)
        return [(item.item, item.choices.tolist(), item.label) for item in items]

    assert plain(1) == plain(1) != plain(2)
    few = plain(1, items=3)
    assert len(few) == 6 and set(map(str, few)) <= set(map(str, plain(1)))
    assert {label for _, _, label in plain(1, items=1000)} == {0, 1, 2, 3, 4}
    assert plain(1, min_count=10**6) == []
    assert plain(1, min_context=29, context=29, min_sentence=29) == []


# --- the stage ----------------------------------------------------------------------------------------------------------


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

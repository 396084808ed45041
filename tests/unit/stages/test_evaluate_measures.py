"""What evaluation is made of: held-out windows, baselines, intervals and cloze items."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.tokenizer import BLANK
from stages._runner import StageError
from stages.evaluate.baselines import Bigram, Unigram
from stages.evaluate.cloze import Vocabulary, make_items
from stages.evaluate.heldout import drawn, every_nth, read_split
from stages.evaluate.statistics import bits_per_byte, paired_bootstrap, wilson
from tests.support.evaluate_project import PARAMS, make_evaluate_project, splits
from tests.support.text import documents


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_evaluate_project(tmp_path_factory.mktemp("project"))


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

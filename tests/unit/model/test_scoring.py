"""Scores against the definition: one token at a time, each from a forward pass of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from model.config import ModelConfig
from model.glm import GLM, Batch, initialise
from model.scoring import Question, score_choices, score_documents
from model.tokenizer import SPECIAL

SMALL = ModelConfig(layers=2, hidden=32, heads=2, ffn=64, vocabulary=64, max_sequence=24)


@pytest.fixture(scope="module")
def model() -> GLM:
    model = GLM(SMALL)
    initialise(model, seed=4)
    with torch.no_grad():
        model.word_embeddings.weight.mul_(4)  # predictions that differ
    return model.eval()


def document(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(8, 64, length).astype(np.int32)


def log_probability(model: GLM, inputs: list[int], positions: list[int], context: int, token: int) -> float:
    """Of `token` behind the last input, from a pass over exactly these inputs."""
    batch = Batch(
        input_ids=torch.tensor([inputs]),
        target_ids=torch.full((1, len(inputs)), -1),
        position_ids=torch.tensor([positions]),
        block_start=torch.tensor([[0, len(inputs)]]),
        block_context=torch.tensor([[context]]),
    )
    with torch.inference_mode():
        return float(model.logits(model.hidden_states(batch)[0, -1]).log_softmax(-1)[token])


def slow_document(model: GLM, ids: list[int], window: int, context: int) -> float:
    total = 0.0
    for at, token in enumerate(ids):
        scored = window - context
        start = 0 if at < window else window + (at - window) // scored * scored
        before = ids[start - context : start] if start else []
        inputs = [*before, SPECIAL.gmask, SPECIAL.sop, *ids[start:at]]
        total -= log_probability(model, inputs, list(range(len(inputs))), len(before) + 1, token)
    return total


@pytest.mark.parametrize("length", [1, 9, 10, 11, 16, 17, 30])
def test_each_token_is_scored_once_from_what_stands_before_it(model: GLM, length: int) -> None:
    ids = document(length, length)
    assert score_documents(model, [ids], 10, 4)[0] == pytest.approx(slow_document(model, ids.tolist(), 10, 4), abs=1e-4)


def test_the_window_may_fill_the_models_sequence(model: GLM) -> None:
    ids = document(60)
    assert score_documents(model, [ids], 23, 1)[0] == pytest.approx(slow_document(model, ids.tolist(), 23, 1), abs=1e-4)
    for window, context in ((24, 4), (10, 10), (10, 0)):
        with pytest.raises(ValueError, match="1 <= context < window <= 23"):
            score_documents(model, [ids], window, context)


def test_documents_keep_their_order_and_do_not_touch_each_other(model: GLM) -> None:
    texts = [document(length, length) for length in (3, 40, 0, 17, 1)]
    together = score_documents(model, texts, 20, 8)
    assert together[2] == 0.0
    for positions in (1, 64):
        np.testing.assert_allclose(score_documents(model, texts, 20, 8, positions), together, rtol=1e-5)
    for number, text in enumerate(texts):
        assert score_documents(model, [text], 20, 8)[0] == pytest.approx(together[number], rel=1e-5)
    assert score_documents(model, [], 20, 8).shape == (0,)


def test_a_model_that_knows_nothing_pays_the_logarithm_of_its_vocabulary() -> None:
    blank = GLM(SMALL).eval()
    with torch.no_grad():
        blank.word_embeddings.weight.zero_()
    assert score_documents(blank, [document(50)], 23, 10)[0] == pytest.approx(50 * math.log(64), rel=1e-6)


def test_choices_stand_at_the_position_of_the_mask(model: GLM) -> None:
    context, choices = [9, 10, 11, 12], [[20, 21, 22], [30], [40, 41]]
    found = score_choices(model, [Question(context, choices)])[0]
    for choice, score in zip(choices, found, strict=True):
        expected = 0.0
        for at, token in enumerate(choice):
            inputs = [*context, SPECIAL.mask, SPECIAL.sop, *choice[:at]]
            expected += log_probability(model, inputs, [0, 1, 2, 3, 4, *[4] * (at + 1)], 5, token)
        assert score == pytest.approx(expected, abs=1e-4)


def test_single_tokens_score_the_same_in_one_pass_or_in_many(model: GLM) -> None:
    contexts = [document(length, length) for length in (0, 5, 14)]
    alone = score_choices(model, [Question(context, [[20], [30], [40]]) for context in contexts])
    mixed = score_choices(model, [Question(context, [[20], [30], [40], [50, 51]]) for context in contexts], batch_positions=1)
    for one, many in zip(alone, mixed, strict=True):
        np.testing.assert_allclose(one, many[:3], atol=1e-4)
    assert all(math.exp(score) < 1 for score in alone[0])


def test_a_long_context_loses_its_beginning_for_all_choices_alike(model: GLM) -> None:
    context = document(40)
    cut = context[-(SMALL.max_sequence - 1 - 3) :]
    choices = [[20], [30, 31, 32]]
    np.testing.assert_allclose(
        score_choices(model, [Question(context, choices)])[0], score_choices(model, [Question(cut, choices)])[0], atol=1e-5
    )
    longest = [list(range(8, 8 + SMALL.max_sequence - 2)), [9]]
    assert np.isfinite(score_choices(model, [Question(context, longest)])[0]).all()


@pytest.mark.parametrize("choices", [[[20], []], [[20], list(range(8, 31))]])
def test_a_choice_that_cannot_be_scored_is_refused(model: GLM, choices: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="question 1: each choice needs 1 to 22 tokens"):
        score_choices(model, [Question([9], [[20]]), Question([9], choices)])


def test_no_question_has_no_score(model: GLM) -> None:
    assert score_choices(model, []) == []

"""The embedding gradient shrink (EGS, paper 2.3): what it changes, and what it cannot."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.config import ModelConfig
from model.glm import GLM, initialise
from tests.support.glm_batches import VOCABULARY, packed


def build(tied: bool = True, logits_too: bool = False) -> GLM:
    config = ModelConfig(2, 32, 2, 48, VOCABULARY, 64, tied_embeddings=tied, shrink_logit_gradient=logits_too)
    model = GLM(config)
    initialise(model, seed=3)
    return model


def embedding_gradient(model: GLM, alpha: float) -> tuple[float, Tensor]:
    """Loss, and its gradient at the embedding."""
    model.zero_grad()
    model.embedding_gradient_shrink = alpha
    loss = model(packed())[0]
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = model.word_embeddings.weight.grad
    assert gradient is not None
    return loss.item(), gradient.clone()


def test_input_side_alone_is_shrunk_and_no_value_changes() -> None:
    model = build().double()
    loss, whole = embedding_gradient(model, 1.0)
    same, head_side = embedding_gradient(model, 0.0)
    _, shrunk = embedding_gradient(model, 0.1)
    assert same == loss
    assert not torch.equal(whole, head_side)
    assert torch.allclose(shrunk, head_side + 0.1 * (whole - head_side), atol=1e-9)


def test_with_the_logit_side_the_whole_gradient_of_the_tied_matrix_is_shrunk() -> None:
    model = build(logits_too=True).double()
    loss, whole = embedding_gradient(model, 1.0)
    near, shrunk = embedding_gradient(model, 0.1)
    assert near == pytest.approx(loss, abs=1e-9)
    assert torch.allclose(shrunk, 0.1 * whole, atol=1e-9)
    model.shrink_logit_gradient = False  # a run may change it: the published one did, three weeks in
    assert not torch.allclose(embedding_gradient(model, 0.1)[1], 0.1 * whole, atol=1e-9)


def losses(alpha: float, tied: bool, clip: float | None = None, steps: int = 12) -> Tensor:
    """Loss of every step under Adam."""
    model = build(tied)
    model.embedding_gradient_shrink = alpha
    adam = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.95), eps=1e-30)
    found = []
    for step in range(steps):
        loss = model(packed(seed=step))[0]
        loss.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        adam.step()
        adam.zero_grad()
        found.append(loss.item())
    return torch.tensor(found)


def test_under_adam_it_acts_through_the_tied_matrix_and_clipping_alone() -> None:
    """Adam's step does not change when a gradient is scaled: with an embedding of its own, unclipped, EGS does nothing.

    In the tied matrix it weighs the embedding's input side against its head side; under clipping it changes the norm by which
    all gradients are cut.
    """
    assert (losses(1.0, tied=False) - losses(0.1, tied=False)).abs().max() < 2e-6
    assert (losses(1.0, tied=True) - losses(0.1, tied=True)).abs().max() > 5e-3
    assert (losses(1.0, tied=False, clip=0.5) - losses(0.1, tied=False, clip=0.5)).abs().max() > 2e-4

"""The model against a second one, written in NumPy from the papers, in FP64: values, losses and gradients of every variant."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model.config import NORMS, ModelConfig
from model.glm import GLM, Batch, initialise
from tests.support import numpy_glm
from tests.support.glm_batches import KINDS, VOCABULARY, packed

SIZES = {"layers": 2, "hidden": 24, "heads": 2, "ffn": 32, "vocabulary": VOCABULARY, "max_sequence": 64}
VARIANTS = {
    "published": {},
    "post": {"norm": "post"},
    "pre": {"norm": "pre"},
    "sandwich": {"norm": "sandwich"},
    "embedding norm": {"embedding_norm": True, "norm": "pre"},
    "untied": {"tied_embeddings": False},
    "query-key layer scaling": {"query_key_layer_scaling": True},
    "logit-side shrink": {"shrink_logit_gradient": True},
}


def build(**changes: object) -> GLM:
    """A model in FP64 with no parameter at a value that hides it: LayerNorms, biases and all."""
    model = GLM(ModelConfig(**SIZES, **changes))  # type: ignore[arg-type]
    initialise(model, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.double().train()


def arrays(batch: Batch) -> SimpleNamespace:
    return SimpleNamespace(**{name: tensor.numpy() for name, tensor in vars(batch).items()})


def weights(model: GLM) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_of_every_sample_kind_agree(kind: str) -> None:
    model, batch = build(), packed([kind])
    found = model.hidden_states(batch)[0].detach().numpy()
    b = arrays(batch)
    expected = numpy_glm.hidden_states(
        weights(model), model.config, b.input_ids[0], b.position_ids[0], b.block_start[0], b.block_context[0]
    )
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(expected).max() > 1


@pytest.mark.parametrize("backend", ["explicit", "masked", "prefix"])
def test_every_backend_gives_the_oracles_loss(backend: str) -> None:
    model, batch = build(), packed()
    model.attention_backend = backend
    assert model(batch)[0].item() == pytest.approx(numpy_glm.loss(weights(model), model.config, arrays(batch)), abs=1e-5)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_loss_and_gradients_of_every_variant_agree(changes: dict[str, object]) -> None:
    """Gradients as the slope along one random direction through all parameters, by central differences of the oracle."""
    model, batch = build(**changes), packed(["mask", "instruction"])
    loss = model(batch)[0]
    loss.backward()  # type: ignore[no-untyped-call]
    start, b = weights(model), arrays(batch)
    assert loss.item() == pytest.approx(numpy_glm.loss(start, model.config, b), abs=1e-5)
    rng = np.random.Generator(np.random.Philox(key=6))
    direction = {name: rng.standard_normal(value.shape) for name, value in start.items()}
    step = 1e-6
    ahead, behind = (
        numpy_glm.loss({name: value + sign * step * direction[name] for name, value in start.items()}, model.config, b)
        for sign in (1, -1)
    )
    slope = sum(float((p.grad.numpy() * direction[name]).sum()) for name, p in model.named_parameters())  # type: ignore[union-attr]
    assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-4)


def test_variants_are_different_models() -> None:
    """So that agreement above is not agreement of one model with itself."""
    names = [*NORMS]
    losses = [build(norm=name)(packed())[0].item() for name in names]
    assert len({round(loss, 4) for loss in losses}) == len(names)
    plain, normed = build(norm="pre"), build(norm="pre", embedding_norm=True)
    assert {*dict(normed.named_parameters())} - {*dict(plain.named_parameters())} == {
        "embedding_layernorm.weight",
        "embedding_layernorm.bias",
    }


def test_oracles_rotation_knows_position_zero_and_a_quarter_turn() -> None:
    """The oracle itself, by hand: no turn at position 0; with base 1 every pair turns by the position in radians."""
    head = np.array([1.0, 2.0, 3.0, 4.0])
    assert numpy_glm.turned(head, 0, 1e4) == pytest.approx(head)
    angle = 3.0
    expected = [np.cos(angle) - 3 * np.sin(angle), 2 * np.cos(angle) - 4 * np.sin(angle)]
    assert numpy_glm.turned(head, 3, 1.0)[:2] == pytest.approx(expected)

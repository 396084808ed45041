"""The architecture against independent formulas and against what it must not be able to do."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from model.config import GLM_130B, ModelConfig
from model.cross_entropy import weighted_cross_entropy
from model.glm import GLM, Batch, attend, attention_mask, initialise, rotate

SMALL = ModelConfig(layers=2, hidden=48, heads=4, ffn=128, vocabulary=200, max_sequence=32)


def small_model() -> GLM:
    model = GLM(SMALL)
    initialise(model, seed=3)
    return model.double().eval()


def batch(length: int = 24) -> Batch:
    """Two sequences: one of two blocks and padding, one of a single block."""
    generator = torch.Generator().manual_seed(5)
    return Batch(
        input_ids=torch.randint(8, 200, (2, length), generator=generator),
        target_ids=torch.where(torch.rand(2, length, generator=generator) < 0.3, 9, -1),
        position_ids=torch.arange(length).repeat(2, 1),
        block_start=torch.tensor([[0, 10, 20], [0, length, length]]),
        block_context=torch.tensor([[6, 4], [15, 0]]),
    )


def test_published_parameter_count_is_exact() -> None:
    with torch.device("meta"):
        model = GLM(GLM_130B)
    assert sum(p.numel() for p in model.parameters()) == 128_697_794_560
    linear = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(w.numel() for w in linear) == 126_835_752_960


def test_deepnorm_constants_are_the_published_ones() -> None:
    assert GLM_130B.alpha == pytest.approx(11.832160, abs=1e-6)
    assert GLM_130B.beta == pytest.approx(0.0845154, abs=1e-7)


def test_initial_standard_deviations_follow_the_paper() -> None:
    config = ModelConfig(layers=2, hidden=256, heads=4, ffn=680, vocabulary=4096, max_sequence=32)
    model = GLM(config)
    initialise(model, seed=1)
    layer, beta = model.layers[1], config.beta
    qkv = layer.attention.query_key_value.weight.view(4, 3, 64, 256)
    expected = [
        (qkv[:, 0], math.sqrt(2 / 512)),
        (qkv[:, 1], math.sqrt(2 / 512)),
        (qkv[:, 2], beta * math.sqrt(2 / 512)),
        (layer.attention.dense.weight, beta * math.sqrt(2 / 512)),
        (layer.mlp.dense_h_to_4h.weight, beta * math.sqrt(2 / (256 + 680))),
        (layer.mlp.dense_4h_to_h.weight, beta * math.sqrt(2 / (256 + 680))),
        (model.word_embeddings.weight, math.sqrt(2 / (4096 + 256))),
    ]
    for weight, std in expected:
        assert weight.std().item() == pytest.approx(std, rel=0.02)
        assert abs(weight.mean().item()) < 0.05 * std
    assert all(not p.any() for name, p in model.named_parameters() if name.endswith("bias"))


def test_mask_agrees_with_its_definition_position_by_position() -> None:
    b = batch()
    mask = attention_mask(b.block_start, b.block_context, 24)
    for row in range(2):
        starts = [*b.block_start[row].tolist()[:-1], b.block_start[row, -1].item()]
        for i in range(24):
            for j in range(24):
                block_i = max(k for k, s in enumerate(starts) if s <= i and (k == 0 or s < 24))
                block_j = max(k for k, s in enumerate(starts) if s <= j and (k == 0 or s < 24))
                context = [*b.block_context[row].tolist(), 0]
                visible = block_i == block_j and (j < starts[block_i] + context[block_i] or j <= i)
                assert mask[row, 0, i, j].item() == visible, (row, i, j)


@pytest.mark.parametrize(
    ("changed", "affected"),
    [
        (2, range(10)),  # context of block 0: all of block 0, nothing else
        (8, range(8, 10)),  # target of block 0: itself and what follows in the block
        (12, range(10, 20)),  # context of block 1
        (22, range(22, 24)),  # padding
    ],
)
def test_a_token_reaches_exactly_what_the_mask_allows(changed: int, affected: range) -> None:
    model, b = small_model(), batch()
    before = model.hidden_states(b)[0]
    b.input_ids[0, changed] = 7
    moved = (model.hidden_states(b)[0] - before).abs().amax(-1) > 1e-9
    assert moved.nonzero().flatten().tolist() == list(affected)


def test_rotation_depends_on_distance_alone() -> None:
    config = ModelConfig(1, 16, 1, 8, 16, 64)
    rotary = GLM(config).rotary
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def score(a: int, b: int) -> float:
        turned = rotate(q, *rotary(torch.tensor([[a]]))), rotate(k, *rotary(torch.tensor([[b]])))
        return float((turned[0] * turned[1]).sum())

    assert score(7, 3) == pytest.approx(score(44, 40), abs=1e-5)
    assert score(7, 3) != pytest.approx(score(7, 5), abs=1e-4)


def test_loss_is_the_mean_of_sequence_means() -> None:
    model, b = small_model(), batch()
    loss, losses, where = model(b)
    logits = model.logits(model.hidden_states(b))
    plain = F.cross_entropy(logits.flatten(0, 1), b.target_ids.flatten(), ignore_index=-1, reduction="none").view(2, 24)
    targets = b.target_ids >= 0
    assert loss.item() == pytest.approx((plain.sum(1) / targets.sum(1)).mean().item(), abs=1e-6)
    assert torch.allclose(losses, plain.flatten()[where].float(), atol=1e-6)
    assert where.tolist() == targets.flatten().nonzero().flatten().tolist()


def test_chunked_cross_entropy_equals_the_plain_one_with_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(700, 16, generator=generator, requires_grad=True)
    weight = torch.randn(9000, 16, generator=generator, requires_grad=True)  # 233 rows a chunk: four chunks
    targets = torch.randint(0, 9000, (700,), generator=generator)
    rows = torch.rand(700, generator=generator)
    total, losses = weighted_cross_entropy(hidden, weight, targets, rows)
    (total * 3).backward()
    found = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    plain = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    (plain @ rows * 3).backward()
    assert torch.allclose(losses, plain, atol=1e-5)
    for mine, theirs in zip(found, (hidden.grad, weight.grad), strict=True):
        assert mine is not None
        assert theirs is not None
        assert torch.allclose(mine, theirs, atol=2e-5, rtol=1e-4)


def test_embedding_gradient_shrink_scales_the_input_side_and_no_value() -> None:
    model, b = small_model(), batch()
    full = model(b)[0]
    full.backward()
    whole = model.word_embeddings.weight.grad.clone()  # type: ignore[union-attr]
    model.zero_grad()
    model.embedding_gradient_shrink = 0.0
    none = model(b)[0]
    none.backward()
    head_side = model.word_embeddings.weight.grad.clone()  # type: ignore[union-attr]
    model.zero_grad()
    model.embedding_gradient_shrink = 0.1
    model(b)[0].backward()
    assert none.item() == full.item()
    shrunk = model.word_embeddings.weight.grad
    assert shrunk is not None
    assert torch.allclose(shrunk, head_side + 0.1 * (whole - head_side), atol=1e-9)


@pytest.mark.parametrize("length", [64, 640], ids=["plain products", "fused kernel"])
def test_attention_equals_the_formula_and_its_softmax_is_fp32(length: int) -> None:
    """FP32 within rounding; BF16 no further off than a softmax over scores of rounded inputs, and never a BF16 sum."""
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 2, length, 32, generator=generator).bfloat16() * 3 for _ in range(3))
    visible = torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.zeros(length, length).masked_fill(~visible, -torch.inf)[None, None]
    scores = (q.double() @ k.double().mT / math.sqrt(32)).masked_fill(~visible, -torch.inf)
    exact = scores.softmax(-1) @ v.double()
    full = attend(q.float(), k.float(), v.float(), mask, 0.0)
    assert torch.allclose(full.double(), exact, atol=1e-4)  # scores reach 60 here: their own rounding
    half = attend(q, k, v, mask.bfloat16(), 0.0)
    assert half.dtype == torch.bfloat16
    rounded = scores.bfloat16().double().softmax(-1).bfloat16().double() @ v.double()
    assert (half.double() - exact).abs().mean() < 1.2 * (rounded.bfloat16().double() - exact).abs().mean()


def test_dropout_falls_on_attention_shares() -> None:
    """With dropout, the mean over many draws is the value without; with p = 0.5 a single draw is far from it."""
    ones = torch.ones(1, 1, 8, 4)
    mask = torch.zeros(1, 1, 8, 8)
    torch.manual_seed(0)
    draws = torch.stack([attend(ones, ones, ones, mask, 0.5)[0, 0, 0, 0] for _ in range(2000)])
    assert draws.std() > 0.2
    assert draws.mean() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("wrong", [{"hidden": 50}, {"layers": 0}, {"dropout": 1.0}])
def test_impossible_sizes_are_refused(wrong: dict[str, float]) -> None:
    sizes = {"layers": 2, "hidden": 48, "heads": 4, "ffn": 8, "vocabulary": 9, "max_sequence": 8} | wrong
    with pytest.raises(ValueError, match="must be"):
        ModelConfig(**sizes)  # type: ignore[arg-type]

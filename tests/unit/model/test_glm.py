"""The architecture against independent formulas and against what it must not be able to do."""

from __future__ import annotations

import cmath
import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from model.attention import attention_mask
from model.checkpoint import read_model, write_checkpoint
from model.config import GLM_130B, NORMS, ModelConfig
from model.glm import GLM, Batch, Block, GeGLU, initialise, rotate
from model.tokenizer import SPECIAL
from tests.support.glm_batches import packed

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


# Gains by matrix: the paper's for DeepNorm (facts 1.3), plain Xavier for Post-LN, GPT-2's scaled outputs for the others.
ONE, BETA = {"deepnorm": ("query", "key")}, {"pre": ("dense", "dense_4h_to_h"), "sandwich": ("dense", "dense_4h_to_h")}
MATRICES = ("query", "key", "value", "dense", "linear half", "gate half", "dense_4h_to_h")


def gain(norm: str, matrix: str, config: ModelConfig) -> float:
    scaled = matrix not in ONE[norm] if norm in ONE else matrix in BETA.get(norm, ())
    return (2 * config.layers) ** -0.5 if scaled else 1.0


@pytest.mark.parametrize("norm", NORMS)
def test_initial_standard_deviations_follow_the_sources(norm: str) -> None:
    config = ModelConfig(2, 256, 4, 680, vocabulary=4096, max_sequence=32, norm=norm, tied_embeddings=False)
    model = GLM(config)
    initialise(model, seed=1)
    layer = model.layers[1]
    assert isinstance(layer, Block)
    qkv = layer.attention.query_key_value.weight.view(4, 3, 64, 256).unbind(1)
    up = layer.mlp.dense_h_to_4h.weight
    weights = (*qkv, layer.attention.dense.weight, up[:680], up[680:], layer.mlp.dense_4h_to_h.weight)
    fans = [512] * 4 + [256 + 680] * 3
    expected = [gain(norm, name, config) * math.sqrt(2 / fan) for name, fan in zip(MATRICES, fans, strict=True)]
    table = math.sqrt(2 / (4096 + 256))
    for weight, std in zip((*weights, model.word_embeddings.weight, model.head.weight), (*expected, table, table), strict=True):
        assert weight.std().item() == pytest.approx(std, rel=0.02)
        assert abs(weight.mean().item()) < 0.05 * std
    for name, parameter in model.named_parameters():
        if "layernorm" in name or name.endswith("bias"):
            assert (parameter == (0.0 if name.endswith("bias") else 1.0)).all(), name
    assert not torch.equal(model.head.weight, model.word_embeddings.weight)


def test_initial_standard_deviations_at_130b_are_the_published_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `initialise` multiplies standard normal numbers by, on the meta device, where nothing has a value (facts 1.3)."""
    found: list[tuple[tuple[int, ...], float]] = []

    class Drawn(torch.Tensor):
        """Remembers its factor."""

        def __mul__(self, std: float) -> torch.Tensor:  # type: ignore[override]
            found.append((tuple(self.shape), std))
            return torch.empty(self.shape, device="meta")

    def randn(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        return torch.empty(shape, device="meta").as_subclass(Drawn)

    one_layer = dataclasses.replace(GLM_130B, layers=1)
    monkeypatch.setattr(ModelConfig, "beta", GLM_130B.beta)
    monkeypatch.setattr(torch, "randn", randn)
    with torch.device("meta"):
        initialise(GLM(one_layer), seed=0)
    heads, half = (96, 128, 12_288), (32_768, 12_288)
    published = [
        ((150_528, 12_288), 0.0035048), (heads, 0.0090211), (heads, 0.0090211), (heads, 0.00076242),
        ((12_288, 12_288), 0.00076242), (half, 0.00056309), (half, 0.00056309), (half[::-1], 0.00056309),
    ]  # fmt: skip
    assert [shape for shape, _ in found] == [shape for shape, _ in published]
    assert [std for _, std in found] == pytest.approx([std for _, std in published], rel=1e-4)


@pytest.mark.parametrize(
    ("norm", "embedding_norm", "layernorms"),
    [("deepnorm", False, 141), ("post", False, 141), ("pre", False, 141), ("sandwich", False, 281), ("pre", True, 142)],
)
def test_number_of_layernorms_at_published_depth(norm: str, embedding_norm: bool, layernorms: int) -> None:
    with torch.device("meta"):
        model = GLM(ModelConfig(70, 64, 2, 16, 32, 8, norm=norm, embedding_norm=embedding_norm))
    assert sum(isinstance(module, torch.nn.LayerNorm) for module in model.modules()) == layernorms


def test_deepnorm_multiplies_the_skip_path_by_the_root_of_2n() -> None:
    """With sub-layers that give nothing, a block is two LayerNorms, the second of alpha times the first, times alpha."""
    block = Block(ModelConfig(layers=70, hidden=8, heads=1, ffn=8, vocabulary=9, max_sequence=8), number=1)
    for parameter in (*block.attention.parameters(), *block.mlp.parameters()):
        torch.nn.init.zeros_(parameter)
    x = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    out = block(x, lambda q, k, v, dropout, layer: v, (torch.ones(1, 1, 3, 8), torch.zeros(1, 1, 3, 8)))
    assert torch.allclose(out, math.sqrt(140) * F.layer_norm(x, (8,)), atol=1e-3)


def test_geglu_has_its_linear_half_first() -> None:
    """One unit: 3 x from the first half of the outputs, the exact GELU of 2 x from the second; tanh's GELU would differ."""
    mlp = GeGLU(ModelConfig(layers=1, hidden=2, heads=1, ffn=1, vocabulary=9, max_sequence=8))
    with torch.no_grad():
        mlp.dense_h_to_4h.weight.copy_(torch.tensor([[3.0, 0.0], [2.0, 0.0]]))
        mlp.dense_4h_to_h.weight.copy_(torch.tensor([[1.0], [0.0]]))
        mlp.dense_h_to_4h.bias.zero_()
        mlp.dense_4h_to_h.bias.zero_()
    for x in (-1.5, -0.3, 0.7, 1.1):
        gelu = 2 * x * (1 + math.erf(2 * x / math.sqrt(2))) / 2
        assert mlp(torch.tensor([x, 9.0]))[0].item() == pytest.approx(3 * x * gelu, abs=1e-6)


def test_rotation_turns_pairs_half_a_head_apart() -> None:
    """Against complex numbers: pair (k, k + K/2) at position p turns by p / 10000^(2k/K)."""
    rotary, width = GLM(ModelConfig(1, 16, 1, 8, 16, 2048)).rotary, 16
    x = torch.randn(width, generator=torch.Generator().manual_seed(1))
    for position in (0, 1, 5, 2047):
        cos, sin = rotary(torch.tensor([[position]]))
        found = rotate(x.view(1, 1, 1, width), cos, sin).flatten().tolist()
        for k in range(8):
            turned = complex(x[k], x[k + 8]) * cmath.exp(1j * position * 10_000 ** (-2 * k / width))
            assert (found[k], found[k + 8]) == pytest.approx((turned.real, turned.imag), abs=1e-5)


def test_tokens_of_one_blank_are_told_apart_by_the_mask_alone() -> None:
    """Inside a [MASK] block's blank all positions are equal, and yet each target sees another past."""
    sample = packed(["mask"])
    first, context = int(sample.block_start[0, 1]), int(sample.block_context[0, 0])
    positions, targets = sample.position_ids[0, :first], sample.input_ids[0, :first]
    blanks = [(positions[i], targets[i]) for i in range(context)]
    assert all(blanks[p] == (p, SPECIAL.mask) for p in positions[context:].tolist()), "each target stands where its blank does"
    rows = attention_mask(sample.block_start, sample.block_context, 64)[0, 0, context:first, :first]
    assert rows.sum(1).tolist() == list(range(context + 1, first + 1))


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


@pytest.mark.parametrize("changes", [*({"norm": name} for name in NORMS), {"embedding_norm": True}, {"tied_embeddings": False}])
def test_a_checkpoint_of_every_variant_reads_back(changes: dict[str, object], tmp_path: Path) -> None:
    model = GLM(dataclasses.replace(SMALL, **changes)).eval()
    initialise(model, seed=3)
    (tmp_path / "tokenizer").write_bytes(b"copied")
    config = {"model": dataclasses.asdict(model.config)}
    write_checkpoint(tmp_path / "checkpoint", model.state_dict(), config, tmp_path / "tokenizer")
    read = read_model(tmp_path / "checkpoint")
    assert read.config == model.config
    assert torch.equal(read(batch())[0], model(batch())[0])


def test_settings_of_a_checkpoint_from_before_the_switches_are_the_published_ones(tmp_path: Path) -> None:
    sizes = {name: getattr(SMALL, name) for name in ("layers", "hidden", "heads", "ffn", "vocabulary", "max_sequence")}
    (tmp_path / "config.json").write_text(json.dumps({"model": sizes}), encoding="utf-8")
    assert ModelConfig.read(tmp_path / "config.json") == SMALL


@pytest.mark.parametrize("wrong", [{"hidden": 50}, {"layers": 0}, {"dropout": 1.0}, {"norm": "rms"}])
def test_impossible_sizes_are_refused(wrong: dict[str, float]) -> None:
    sizes = {"layers": 2, "hidden": 48, "heads": 4, "ffn": 8, "vocabulary": 9, "max_sequence": 8} | wrong
    with pytest.raises(ValueError, match="must be"):
        ModelConfig(**sizes)  # type: ignore[arg-type]

"""Every way to compute attention gives what the dense mask gives; which one is in use is chosen and said, never swapped."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model import attention
from model.attention import Explicit, Masked, Prefix, Situation, Varlen, attention_mask, blocks, choose, prepare
from model.config import ModelConfig
from model.glm import GLM, Batch, initialise
from model.parallel.collectives import TensorGroup
from model.parallel.parallelize import blocks as parallel_blocks
from model.parallel.parallelize import stage_model
from model.parallel.plan import ParallelPlan
from tests.support.glm_batches import VOCABULARY, packed

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CPU = Situation("cpu", torch.float32, 2048, 0.0)
H100 = Situation("cuda", torch.bfloat16, 2048, 0.0, (9, 0))

Layout = tuple[list[list[int]], list[list[int]]]  # block_start, block_context of every sequence; sequences of 24
LAYOUTS: dict[str, Layout] = {
    "one block": ([[0, 24]], [[9]]),
    "four blocks": ([[0, 5, 12, 18, 24]], [[2, 6, 1, 3]]),
    "padding": ([[0, 7, 15]], [[3, 4]]),
    "absent blocks": ([[0, 20, 20, 20, 20]], [[8, 0, 0, 0]]),
    "no context": ([[0, 10, 24]], [[0, 0]]),
    "no target": ([[0, 10, 24]], [[10, 5]]),
    "nothing but context": ([[0, 24]], [[24]]),
    "nothing but padding": ([[0, 0]], [[0]]),
    "one position a block": ([[0, 1, 2]], [[1, 0]]),
    "mixed": ([[0, 24, 24, 24], [0, 5, 12, 24], [0, 10, 20, 20]], [[7, 0, 0], [0, 7, 2], [4, 9, 0]]),
}


def layout(name: str) -> tuple[Tensor, Tensor]:
    starts, contexts = LAYOUTS[name]
    return torch.tensor(starts), torch.tensor(contexts)


def reference_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ends_q: Tensor,
    ends_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
) -> Tensor:
    """`torch.nn.attention.varlen.varlen_attn`, segment by segment, with the checks that a kernel on a GPU does not make."""
    assert ends_q.dtype == ends_k.dtype == torch.int32
    assert len(ends_q) == len(ends_k)
    assert (ends_q[0], ends_k[0], ends_q[-1], ends_k[-1]) == (0, 0, len(q), len(k))
    assert window_size in ((-1, -1), (-1, 0))
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    sizes = list(zip(ends_q.diff().tolist(), ends_k.diff().tolist(), strict=True))
    assert all(0 < rows <= keys for rows, keys in sizes), "no empty segment, never more queries than keys"
    assert max(rows for rows, _ in sizes) <= max_q
    assert max(keys for _, keys in sizes) <= max_k
    pieces = []
    splits = (q.split([rows for rows, _ in sizes]), *(x.split([keys for _, keys in sizes]) for x in (k, v)))
    for query, key, value in zip(*splits, strict=True):
        scores = torch.einsum("qhk,jhk->hqj", query, key) * scale
        if window_size == (-1, 0):
            visible = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).tril(len(key) - len(query))
            scores = scores.masked_fill(~visible, -math.inf)
        pieces.append(torch.einsum("hqj,jhk->qhk", scores.softmax(-1), value))
    return torch.cat(pieces)


def masked(starts: Tensor, contexts: Tensor, length: int, dtype: torch.dtype) -> Masked:
    visible = attention_mask(starts, contexts, length)
    return Masked(torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, -torch.inf))


BUILD: dict[str, Callable[[Tensor, Tensor], attention.Attend]] = {
    "explicit": lambda starts, contexts: Explicit(masked(starts, contexts, 24, torch.float64).mask),
    "prefix": lambda starts, contexts: Prefix.of(blocks(starts, contexts, 24)),
    "varlen": lambda starts, contexts: Varlen.of(blocks(starts, contexts, 24), reference_varlen),
}


def qkv(sequences: int, length: int = 24, dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Tensor]:
    """Queries, keys and values as a projection gives them: cut from [B, L, H, 3K]."""
    generator = torch.Generator().manual_seed(2)
    joint = torch.randn(sequences, length, 3, 3 * 16, generator=generator).to(device, dtype).transpose(1, 2)
    return [part.detach().requires_grad_() for part in joint.chunk(3, dim=-1)]


def with_gradients(attend: attention.Attend, tensors: list[Tensor], layer: float = 1.0) -> list[Tensor]:
    """Output and the gradients of its inputs, under an upstream gradient that differs at every element."""
    out = attend(*tensors, dropout=0.0, layer=layer)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view(out.shape)
    return [out, *torch.autograd.grad(out, tensors, upstream)]


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("backend", BUILD)
def test_backends_equal_the_dense_mask_forward_and_backward(backend: str, name: str) -> None:
    starts, contexts = layout(name)
    tensors = qkv(len(starts))
    expected = with_gradients(masked(starts, contexts, 24, torch.float64), tensors)
    found = with_gradients(BUILD[backend](starts, contexts), tensors)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("backend", [*BUILD, "masked"])
def test_query_key_layer_scaling_changes_nothing_in_exact_arithmetic(backend: str) -> None:
    starts, contexts = layout("mixed")
    attend = (BUILD | {"masked": lambda s, c: masked(s, c, 24, torch.float64)})[backend](starts, contexts)
    tensors = qkv(len(starts))
    for mine, theirs in zip(with_gradients(attend, tensors, 70.0), with_gradients(attend, tensors), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12, rtol=0)


def test_query_key_layer_scaling_keeps_fp16_scores_finite() -> None:
    """q k / sqrt(K) of 160,000 is more than FP16 holds; the softmax of equal scores is their mean all the same."""
    q = torch.full((1, 1, 2, 64), 200.0, dtype=torch.float16)
    k, v = q / 2 + q / 2, torch.tensor([1.0, 3.0]).half()[:, None].expand(1, 1, 2, 64)
    attend = Explicit(torch.zeros(1, 1, 2, 2, dtype=torch.float16))
    assert attend(q, k, v, 0.0).isnan().all()
    assert attend(q, k, v, 0.0, layer=70.0)[0, 0, 0, 0] == 2.0


@pytest.mark.parametrize(("scaling", "expected"), [(True, [1.0, 2.0, 3.0]), (False, [1.0, 1.0, 1.0])])
def test_every_layer_scales_by_its_own_number(scaling: bool, expected: list[float]) -> None:
    """In exact arithmetic nobody would see it missing; on a pipeline stage the numbers are those of the whole model."""
    config = ModelConfig(3, 32, 2, 48, VOCABULARY, 64, query_key_layer_scaling=scaling)
    found: list[float] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float, layer: float = 1.0) -> Tensor:
        found.append(layer)
        return v

    plan = ParallelPlan(pipeline=3)
    for model in [GLM(config), *(stage_model(config, plan, stage, TensorGroup()) for stage in range(3))]:
        for block in parallel_blocks(model):
            block.to_empty(device="cpu")(torch.zeros(1, 4, 32), attend, GLM(config).rotary(torch.arange(4)[None]))
    assert found == expected * 2


def test_blocks_cover_every_row_once_with_padding_as_targets() -> None:
    starts, contexts = layout("mixed")
    assert blocks(starts, contexts, 24).tolist() == [
        [0, 7, 17],
        [24, 0, 5], [29, 7, 0], [36, 2, 10],
        [48, 4, 6], [58, 9, 1], [68, 0, 4],
    ]  # fmt: skip


def test_varlen_plan_by_hand() -> None:
    """Two sequences of 6: [context 2, target 3, padding 1] and [context 4, no target; context 1, target 1]."""
    table = blocks(torch.tensor([[0, 5, 5], [0, 4, 6]]), torch.tensor([[2, 0], [4, 1]]), 6)
    plan = Varlen.of(table, reference_varlen)
    assert plan.order.tolist() == [0, 1, 6, 7, 8, 9, 10, 2, 3, 4, 5, 11]
    assert plan.order[plan.inverse].tolist() == list(range(12))
    assert plan.contexts == 7
    assert plan.context_ends.tolist() == [0, 2, 6, 7]
    assert plan.target_ends.tolist() == [0, 3, 4, 5]
    assert plan.key_ends.tolist() == [0, 5, 6, 8]
    assert plan.key_rows is not None
    assert plan.key_rows.tolist() == [0, 1, 2, 3, 4, 5, 10, 11]
    assert plan.longest == 5


def test_keys_stay_in_place_where_every_block_has_targets() -> None:
    starts, contexts = layout("four blocks")
    assert Varlen.of(blocks(starts, contexts, 24), reference_varlen).key_rows is None


@pytest.mark.parametrize("backend", ["explicit", "masked", "prefix", "varlen"])
def test_a_whole_model_learns_the_same_by_every_backend(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and parameter gradients of a batch with a [gMASK], a [MASK] and an instruction sample; `varlen` as if on CUDA."""
    if backend == "varlen":
        monkeypatch.setattr(attention, "choose", lambda asked, situation: asked)
        monkeypatch.setattr(attention, "flash_varlen", lambda device: reference_varlen)

    def learn(name: str) -> list[Tensor]:
        model = GLM(ModelConfig(2, 32, 2, 48, VOCABULARY, 64))
        initialise(model, seed=1)
        model.attention_backend = name
        loss = model(packed())[0]
        loss.backward()  # type: ignore[no-untyped-call]
        return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    for mine, theirs in zip(learn(backend), learn("masked"), strict=True):
        assert torch.allclose(mine, theirs, atol=2e-6)


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (replace(CPU, length=512), "explicit"),
        (replace(CPU, length=512, dropout=0.1), "explicit"),
        (replace(CPU, length=513), "prefix"),
        (replace(CPU, length=513, dropout=0.1), "masked"),
        (H100, "varlen"),
        (replace(H100, dropout=0.1), "prefix"),
        (replace(H100, dtype=torch.float32), "masked"),
        (replace(H100, capability=(7, 0)), "masked"),
        (replace(CPU, device="meta"), "masked"),
    ],
)
def test_auto_takes_the_best_that_can_run(situation: Situation, expected: str) -> None:
    assert choose("auto", situation) == expected
    assert choose(expected, situation) == expected


@pytest.mark.parametrize(
    ("asked", "situation", "reason"),
    [
        ("varlen", CPU, "on CUDA alone, and this is a cpu device"),
        ("varlen", replace(H100, dropout=0.1), "no dropout on attention"),
        ("varlen", replace(H100, dtype=torch.float32), "FP16 and BF16, not torch.float32"),
        ("prefix", replace(CPU, dropout=0.1), "on a CPU has no dropout on attention"),
        ("prefix", replace(H100, capability=(7, 5)), r"8.0 \(Ampere\), found \(7, 5\)"),
        ("prefix", replace(CPU, device="mps"), "no flash kernel for a mps device"),
        ("flex", CPU, "unknown; allowed: auto, explicit, masked, prefix, varlen"),
    ],
)
def test_a_backend_that_cannot_run_is_refused_with_the_reason(asked: str, situation: Situation, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        choose(asked, situation)


def test_the_model_refuses_too_and_says_once_what_it_uses(caplog: pytest.LogCaptureFixture) -> None:
    model = GLM(ModelConfig(1, 32, 2, 48, VOCABULARY, 64))
    model.attention_backend = "varlen"
    with pytest.raises(ValueError, match="attention backend varlen cannot run"):
        model(packed())
    attention._announce.cache_clear()
    with caplog.at_level(logging.INFO, logger="model.attention"):
        for backend in ("auto", "auto", "prefix", "auto"):
            model.attention_backend = backend
            model(packed())
    assert caplog.messages == [
        "attention: explicit (asked for: auto; cpu, float32)",
        "attention: prefix (asked for: prefix; cpu, float32)",
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")  # in which torch gives its reasons
def test_prefix_never_falls_back_to_another_kernel() -> None:
    """torch's flash kernel on a CPU has no dropout; outside of `Prefix` torch would quietly take the slow one."""
    starts, contexts = layout("four blocks")
    q, k, v = qkv(1)
    with pytest.raises(RuntimeError, match="No available kernel"):
        Prefix.of(blocks(starts, contexts, 24))(q, k, v, dropout=0.5)


@pytest.mark.parametrize("backend", ["explicit", "masked", "prefix"])
def test_attention_equals_the_formula_and_its_softmax_is_fp32(backend: str) -> None:
    """FP32 within rounding; BF16 no further off than a softmax over scores of rounded inputs, and never a BF16 sum."""
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 2, 64, 32, generator=generator).bfloat16() * 3 for _ in range(3))
    where = torch.tensor([[0, 64]] * 2), torch.tensor([[0]] * 2)
    visible = torch.ones(64, 64, dtype=torch.bool).tril()
    scores = (q.double() @ k.double().mT / math.sqrt(32)).masked_fill(~visible, -torch.inf)
    exact = scores.softmax(-1) @ v.double()
    full = prepare(backend, *where, 64, torch.float32, 0.0)(q.float(), k.float(), v.float(), 0.0)
    assert torch.allclose(full.double(), exact, atol=1e-4)  # scores reach 60 here: their own rounding
    half = prepare(backend, *where, 64, torch.bfloat16, 0.0)(q, k, v, 0.0)
    assert half.dtype == torch.bfloat16
    rounded = scores.bfloat16().double().softmax(-1).bfloat16().double() @ v.double()
    assert (half.double() - exact).abs().mean() < 1.2 * (rounded.bfloat16().double() - exact).abs().mean()


@pytest.mark.parametrize("backend", [Explicit, Masked])
def test_dropout_falls_on_attention_shares(backend: type[Explicit | Masked]) -> None:
    """With dropout, the mean over many draws is the value without; with p = 0.5 a single draw is far from it."""
    ones, attend = torch.ones(1, 1, 8, 4), backend(torch.zeros(1, 1, 8, 8))
    torch.manual_seed(0)
    draws = torch.stack([attend(ones, ones, ones, 0.5)[0, 0, 0, 0] for _ in range(2000)])
    assert draws.std() > 0.2
    assert draws.mean() == pytest.approx(1.0, abs=0.03)


def test_a_layer_compiles_once_for_all_layouts_of_blocks() -> None:
    """Without a graph break; the kernel of `varlen` is a stand-in, as what is traced is the plan around it."""
    from torch._dynamo.testing import CompileCounterWithBackend

    model = GLM(ModelConfig(1, 32, 2, 48, VOCABULARY, 64))
    initialise(model, seed=1)
    for backend, most in (("explicit", 1), ("varlen", 2)):  # the second has dynamic shapes
        counter = CompileCounterWithBackend("eager")
        layer = torch.compile(model.layers[0], backend=counter, fullgraph=True)
        for seed in range(4):
            batch = packed(["gmask", "mask"], seed=seed)
            where = batch.block_start, batch.block_context, 64
            plan = Varlen.of(blocks(*where), lambda q, k, v, *rest, **named: q * named["scale"])
            attend = plan if backend == "varlen" else prepare(backend, *where, torch.float32, 0.0)
            layer(model.embed(batch.input_ids), attend, model.rotary(batch.position_ids)).sum().backward()
        assert counter.frame_count == most


def test_under_autocast_the_mask_has_the_type_of_the_scores() -> None:
    x = torch.zeros(1)
    assert attention.compute_dtype(x) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert attention.compute_dtype(x) == torch.bfloat16


@CUDA
@pytest.mark.parametrize("backend", ["explicit", "prefix", "varlen"])
def test_backends_equal_the_dense_mask_on_cuda(backend: str) -> None:
    for name in LAYOUTS:
        starts, contexts = (x.cuda() for x in layout(name))
        exact = with_gradients(masked(starts, contexts, 24, torch.float64), qkv(len(starts), device="cuda"))
        tensors = qkv(len(starts), dtype=torch.bfloat16, device="cuda")
        found = with_gradients(prepare(backend, starts, contexts, 24, torch.bfloat16, 0.0), tensors)
        for mine, theirs in zip(found, exact, strict=True):
            assert (mine.double() - theirs).abs().max() < 0.05 * theirs.abs().max() + 1e-6, name


@CUDA
def test_auto_on_cuda_is_the_packed_kernel() -> None:
    model = GLM(ModelConfig(1, 128, 2, 48, VOCABULARY, 64)).cuda().bfloat16()
    batch = Batch(**{name: tensor.cuda() for name, tensor in vars(packed()).items()})
    attend, _ = model.surroundings(model.embed(batch.input_ids), batch.position_ids, batch.block_start, batch.block_context)
    assert isinstance(attend, Varlen)

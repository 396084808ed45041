"""The chunked loss against the plain one, and that logits never exist whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.config import ModelConfig
from model.cross_entropy import _more, chunk_rows, weighted_cross_entropy
from model.glm import GLM, Batch, initialise


def inputs(rows: int, width: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden [T, D], weight [V, D], targets [T], row weights [T]."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator, requires_grad=True)
    return hidden, weight, torch.randint(0, vocabulary, (rows,), generator=generator), torch.rand(rows, generator=generator)


def test_loss_and_gradients_equal_the_plain_ones() -> None:
    hidden, weight, targets, rows = inputs(700, 16, 9000)  # 233 rows a chunk: four chunks
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_close_as_its_inputs_allow(dtype: torch.dtype) -> None:
    hidden, weight, targets, rows = inputs(300, 32, 9000)
    half = [x.detach().to(dtype).requires_grad_() for x in (hidden, weight)]
    weighted_cross_entropy(*half, targets, rows)[0].backward()
    exact = [x.detach().double().requires_grad_() for x in half]
    (F.cross_entropy(exact[0] @ exact[1].T, targets, reduction="none") @ rows.double()).backward()
    for mine, theirs in zip(half, exact, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert mine.grad.dtype == dtype
        error = (mine.grad.double() - theirs.grad).norm() / theirs.grad.norm()
        assert error < (0.02 if dtype == torch.bfloat16 else 0.003)


def test_fp16_gradients_do_not_vanish_before_the_loss_scale() -> None:
    """A row's weight of 1e-6 times a probability of 1e-4 is no FP16 number; with a loss scale of 2^16 the gradient is one."""
    hidden, weight, targets, _ = inputs(64, 32, 9000)
    half = [x.detach().div(8).half().requires_grad_() for x in (hidden, weight)]
    rows = torch.full((64,), 1e-6)
    (weighted_cross_entropy(*half, targets, rows)[0] * 65536.0).backward()
    exact = [x.detach().double().requires_grad_() for x in half]
    (F.cross_entropy(exact[0] @ exact[1].T, targets, reduction="none") @ rows.double() * 65536.0).backward()
    for mine, theirs in zip(half, exact, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert (mine.grad.double() - theirs.grad).norm() / theirs.grad.norm() < 0.01


def test_without_gradients_none_are_computed() -> None:
    hidden, weight, targets, rows = inputs(10, 4, 50)
    with torch.no_grad(), Largest() as seen:
        total, _ = weighted_cross_entropy(hidden, weight, targets, rows)
    assert not total.requires_grad
    assert "aten.zeros.default" not in seen.operations


def test_no_target_at_all_is_a_loss_of_zero() -> None:
    hidden, weight, targets, rows = inputs(0, 4, 50)
    for dtype in (torch.float32, torch.float16):
        total, losses = weighted_cross_entropy(hidden.to(dtype), weight.to(dtype), targets, rows)
        assert (total.item(), len(losses)) == (0.0, 0)


def test_a_second_backward_pass_is_refused() -> None:
    hidden, weight, targets, rows = inputs(10, 4, 50)
    total, _ = weighted_cross_entropy(hidden, weight, targets, rows)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="handed over already; compute the loss again"):
        total.backward()


class Largest(TorchDispatchMode):
    """The largest tensor, in elements, that any operation gave, and the operations' names."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.operations = 0, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations.add(str(func))
        self.elements = max([self.elements, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))])
        return out


def test_logits_never_exist_whole() -> None:
    """Forward and backward of a model whose logits, of its targets alone, would be its largest tensor by far."""
    vocabulary, length = 16_384, 512
    model = GLM(ModelConfig(1, 16, 1, 16, vocabulary, length))
    initialise(model, seed=1)
    ids = torch.arange(2 * length).view(2, length)
    targets = torch.where(ids % 8 == 0, -1, ids)
    batch = Batch(ids, targets, ids % length, torch.tensor([[0, length]] * 2), torch.tensor([[64]] * 2))
    with Largest() as seen:
        model(batch)[0].backward()
    scored = int((targets >= 0).sum())
    assert scored == 896
    assert seen.elements == chunk_rows(vocabulary, "cpu") * vocabulary == 128 * vocabulary, "one chunk, seven times"
    with Largest() as plain:
        F.cross_entropy(model.logits(model.hidden_states(batch)).flatten(0, 1), targets.flatten(), ignore_index=-1)
    assert plain.elements == 2 * length * vocabulary


@pytest.mark.parametrize(
    ("vocabulary", "device", "rows"),
    [(12_032, "cpu", 174), (150_528, "cpu", 128), (150_528, "cuda", 1024), (1_000, "cuda", 2097)],
)
def test_chunks_fit_the_cache_but_are_never_too_thin_for_the_device(vocabulary: int, device: str, rows: int) -> None:
    assert chunk_rows(vocabulary, device) == rows


def test_products_come_in_few_sizes_whatever_the_number_of_targets() -> None:
    """A library that compiles a kernel for each number of rows, and keeps it, would otherwise grow with every step."""
    step = chunk_rows(12_032, "cpu")
    sizes = {(rows + _more(rows, step)) % step or step for rows in range(1, 2_049)}
    assert sizes == {*range(16, step, 16), step}
    assert all(_more(rows, step) < 16 for rows in range(2_049))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_behind_the_last_target_change_no_bit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets, rows = inputs(361, 192, 12_032)  # 174 rows a chunk: two chunks, then 13 rows

    def found() -> list[Tensor]:
        mine = [x.detach().to(dtype).requires_grad_() for x in (hidden, weight)]
        total, losses = weighted_cross_entropy(*mine, targets, rows)
        total.backward()
        return [total, losses, *(x.grad for x in mine if x.grad is not None)]

    padded = found()
    monkeypatch.setattr("model.cross_entropy._more", lambda rows, step: 0)
    assert [tensor.shape for tensor in padded] == [(), (361,), (361, 192), (12_032, 192)]
    for one, other in zip(padded, found(), strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-6 if dtype == torch.float32 else 0, atol=1e-7 if dtype == torch.float32 else 0
        )

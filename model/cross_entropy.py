"""Cross-entropy over a large vocabulary without ever holding the logits whole.

Rows go through the head in chunks. Where gradients are wanted, each chunk's are computed at once from the probabilities at hand
(d loss / d logits is softmax minus one-hot), so nothing is computed twice, and beside one chunk of logits only the gradients
themselves are stored. For 2,048 rows of width 512 over 150,528 entries in FP32 that is 0.4 GB where the plain way takes 3.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_LOGITS = 1 << 21  # 8 MB of FP32: the last-level cache
_LEAST_ROWS = {"cpu": 128}  # the head is read from memory for each chunk: fewer rows would wait for it
_LEAST_ROWS_ELSEWHERE = 1024  # to fill an accelerator
_TAIL = 16  # the last chunk has a multiple of so many rows


def chunk_rows(vocabulary: int, device: str) -> int:
    """Rows whose logits are held at once."""
    return max(_LEAST_ROWS.get(device, _LEAST_ROWS_ELSEWHERE), _CHUNK_LOGITS // vocabulary)


def _more(rows: int, step: int) -> int:
    """Rows of no weight behind the last chunk: oneDNN compiles and keeps a kernel for every number of rows that it meets."""
    tail = rows % step
    return min(step, tail + -tail % _TAIL) - tail


def _padded(x: Tensor, more: int) -> Tensor:
    """`x` with zeros behind its rows."""
    return torch.cat([x, x.new_zeros(more, *x.shape[1:])]) if more else x


class _Space:
    """Room for what a chunk computes, taken once a loss: sizes that follow the number of targets would splinter a heap.

    Attributes:
        logits: [rows, V], in the type of the head.
        scores: [rows, V], FP32; the same room where that is the head's type.
        product: [V, D], one chunk's part of the head's gradient; None where that is added up in place.
    """

    def __init__(self, rows: int, weight: Tensor, wanted: bool) -> None:
        self.logits = weight.new_empty(rows, len(weight))
        same = weight.dtype == torch.float32
        self.scores = self.logits if same else self.logits.new_empty(self.logits.shape, dtype=torch.float32)
        self.product = torch.empty_like(weight) if wanted and not same else None


def _chunk(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    row_weights: Tensor,
    gradients: tuple[Tensor, Tensor] | None,
    space: _Space,
) -> Tensor:
    """Losses of a few rows; writes their gradient into `gradients[0]` and adds the head's to `gradients[1]`."""
    logits, scores = space.logits[: len(hidden)], space.scores[: len(hidden)]
    scores.copy_(torch.mm(hidden, weight.T, out=logits))
    target, peak = scores.gather(1, targets[:, None]), scores.amax(-1, keepdim=True)
    exponentials = scores.sub_(peak).exp_()
    total = exponentials.sum(-1, keepdim=True)
    if gradients is not None:
        grad_hidden, grad_weight = gradients
        share = row_weights[:, None]
        grad_logits = logits.copy_(exponentials.mul_(share / total).scatter_add_(1, targets[:, None], -share))
        torch.mm(grad_logits, weight, out=grad_hidden)
        if space.product is None:
            grad_weight.addmm_(grad_logits.T, hidden)
        else:  # sums stay in FP32
            grad_weight += torch.mm(grad_logits.T, hidden, out=space.product)
    return (total.log() + peak - target).squeeze(1)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        number, step = len(hidden), chunk_rows(len(weight), hidden.device.type)
        # A row's weight times a small probability is 0 in FP16, and the loss scale comes later: keep the weights apart.
        ctx.unit = row_weights.max() if hidden.dtype == torch.float16 and number else torch.ones((), device=hidden.device)
        hidden, targets, relative = (_padded(x, _more(number, step)) for x in (hidden, targets, row_weights / ctx.unit))
        losses = torch.empty(len(hidden), device=hidden.device)
        ctx.gradients = None
        if wanted:
            ctx.gradients = torch.empty_like(hidden), torch.zeros(weight.shape, device=weight.device)
        space = _Space(min(len(hidden), step), weight.detach(), wanted)
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            gradients = ctx.gradients and (ctx.gradients[0][rows], ctx.gradients[1])
            losses[rows] = _chunk(hidden[rows], weight, targets[rows], relative[rows], gradients, space)
        ctx.dtype, ctx.rows, losses = weight.dtype, number, losses[:number]
        ctx.mark_non_differentiable(losses)
        return torch.dot(losses, row_weights), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this loss were handed over already; compute the loss again")
        grad_hidden, grad_weight = ctx.gradients
        ctx.gradients = None  # handed over, not copied: the head's is as large as the head
        scale = grads[0] * ctx.unit
        return grad_hidden[: ctx.rows].mul_(scale), grad_weight.mul_(scale).to(ctx.dtype), None, None, None


def weighted_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of `targets` under softmax(hidden @ weight^T).

    Args:
        hidden: [T, D].
        weight: [V, D], the (tied) head.
        targets: [T], int64 in [0, V).
        row_weights: [T], FP32.

    Returns:
        The weighted sum, FP32 scalar, differentiable once in `hidden` and `weight`, by one backward pass; and each row's loss,
        FP32 [T], detached.
    """
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)  # unknown inside a Function
    total, losses = _ChunkedCrossEntropy.apply(hidden, weight, targets, row_weights, wanted)
    return total, losses

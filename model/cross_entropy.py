"""Cross-entropy over a large vocabulary without ever holding the logits whole.

Rows go through the head in chunks that fit the last-level cache. Where gradients are wanted, each chunk's are computed at
once from the probabilities at hand (d loss / d logits is softmax minus one-hot), so nothing is stored or computed twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_CHUNK_LOGITS = 1 << 21  # 8 MB of FP32


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        losses = torch.empty(len(hidden), device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wanted else None
        grad_weight = torch.zeros(weight.shape, device=weight.device) if wanted else None
        step = max(1, _CHUNK_LOGITS // len(weight))
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            logits = (hidden[rows] @ weight.T).float()
            target, peak = logits.gather(1, targets[rows, None]), logits.amax(-1, keepdim=True)
            exponentials = logits.sub_(peak).exp_()
            total = exponentials.sum(-1, keepdim=True)
            losses[rows] = (total.log() + peak - target).squeeze(1)
            if grad_hidden is not None and grad_weight is not None:
                share = row_weights[rows, None]
                grad_logits = exponentials.mul_(share / total).scatter_add_(1, targets[rows, None], -share).to(weight.dtype)
                grad_hidden[rows] = grad_logits @ weight
                grad_weight += grad_logits.T @ hidden[rows]
        if grad_hidden is not None and grad_weight is not None:
            ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        ctx.mark_non_differentiable(losses)
        return torch.dot(losses, row_weights), losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0], grad_weight * grads[0], None, None, None


def weighted_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of `targets` under softmax(hidden @ weight^T).

    Args:
        hidden: [T, D].
        weight: [V, D], the (tied) head.
        targets: [T], int64 in [0, V).
        row_weights: [T], FP32.

    Returns:
        The weighted sum, FP32 scalar, differentiable in `hidden` and `weight`; and each row's loss, FP32 [T], detached.
    """
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)  # unknown inside a Function
    total, losses = _ChunkedCrossEntropy.apply(hidden, weight, targets, row_weights, wanted)
    return total, losses

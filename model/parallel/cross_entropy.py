"""`model.cross_entropy` over a vocabulary of which each tensor-parallel rank holds some rows.

No rank ever sees another's logits: they exchange two numbers for each target, in two all-reduces a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.cross_entropy import chunk_rows, weighted_cross_entropy
from model.parallel.collectives import TensorGroup, spread


class _VocabParallelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor, wanted: bool, group: TensorGroup
    ) -> tuple[Tensor, Tensor]:
        losses = torch.empty(len(hidden), device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wanted else None
        grad_weight = torch.zeros(weight.shape, device=weight.device) if wanted else None
        local = targets - group.rank * len(weight)
        absent = (local < 0) | (local >= len(weight))
        local = local.masked_fill(absent, 0)[:, None]
        step = chunk_rows(len(weight), hidden.device.type)
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            logits = (hidden[rows] @ weight.T).float()
            peak = logits.amax(-1)
            dist.all_reduce(peak, dist.ReduceOp.MAX, group=group.group)
            target = logits.gather(1, local[rows]).squeeze(1).masked_fill_(absent[rows], 0.0)
            exponentials = logits.sub_(peak[:, None]).exp_()
            sums = torch.stack([exponentials.sum(-1), target])
            dist.all_reduce(sums, group=group.group)
            losses[rows] = sums[0].log() + peak - sums[1]
            if grad_hidden is not None and grad_weight is not None:
                share = row_weights[rows, None]
                minus_one = (-share).masked_fill(absent[rows, None], 0.0)
                probabilities = exponentials.mul_(share / sums[0][:, None])
                grad_logits = probabilities.scatter_add_(1, local[rows], minus_one).to(weight.dtype)
                grad_hidden[rows] = grad_logits @ weight
                grad_weight += grad_logits.T @ hidden[rows]
        if grad_hidden is not None and grad_weight is not None:
            ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        ctx.mark_non_differentiable(losses)
        return torch.dot(losses, row_weights), losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0], grad_weight * grads[0], None, None, None, None


def vocab_parallel_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor, group: TensorGroup
) -> tuple[Tensor, Tensor]:
    """`model.cross_entropy.weighted_cross_entropy` with this rank's part of the head.

    Args:
        hidden: [T, D], equal on all ranks.
        weight: [V / size, D], this rank's rows.
        targets: [T], int64 in [0, V).
        row_weights: [T], FP32.
        group: the ranks that share the head.

    Returns:
        The weighted sum and each row's loss, as there, equal on all ranks.
    """
    if group.size == 1:
        return weighted_cross_entropy(hidden, weight, targets, row_weights)
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    summed, losses = _VocabParallelCrossEntropy.apply(spread(hidden, group), weight, targets, row_weights, wanted, group)
    return summed, losses

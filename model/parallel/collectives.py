"""The two collectives of tensor parallelism, each the other's gradient (Megatron-LM, arXiv 1909.08053, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class TensorGroup:
    """The processes that share each matrix. Without a process group, layers can be built but not run.

    Attributes:
        rank, size: this process among them.
        group: for the collectives.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.mark_dirty(x)
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def spread(x: Tensor, group: TensorGroup) -> Tensor:
    """`x`, equal on all ranks, on its way into matrices of which each rank has a part; its gradient is the sum over ranks."""
    if group.size == 1:
        return x
    out: Tensor = _Spread.apply(x, group.group)
    return out


def total(x: Tensor, group: TensorGroup) -> Tensor:
    """Sum of all ranks' contiguous `x`, in place; the gradient of each is that of the sum."""
    if group.size == 1:
        return x
    out: Tensor = _Total.apply(x, group.group)
    return out

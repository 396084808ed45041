"""Layers of which each tensor-parallel rank holds a part, on plain tensors with an explicit group.

A column-parallel layer widens: its input is equal on all ranks, its output is each rank's own part. The row-parallel layer
behind it narrows that again to a sum, equal on all ranks: one all-reduce forward, one backward, for each pair.

Shapes: B sequences, L positions, D hidden, O outputs and I inputs of a rank's part, V rows of a rank's part of the embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.parallel.collectives import TensorGroup, spread, total


class ColumnParallelLinear(nn.Module):
    """x W^T + b with each rank's rows of W and b: [..., D] -> [..., O]."""

    def __init__(self, full: nn.Linear, group: TensorGroup) -> None:
        super().__init__()
        self.group = group
        rows, device = full.out_features // group.size, full.weight.device
        self.weight = nn.Parameter(torch.empty(rows, full.in_features, device=device))
        self.bias = nn.Parameter(torch.empty(rows, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D], equal on all ranks -> [..., O], this rank's part."""
        return F.linear(spread(x, self.group), self.weight, self.bias)


class RowParallelLinear(nn.Module):
    """x W^T + b with each rank's columns of W: [..., I] -> [..., D]. The bias is whole on every rank and added once."""

    def __init__(self, full: nn.Linear, group: TensorGroup) -> None:
        super().__init__()
        self.group = group
        columns, device = full.in_features // group.size, full.weight.device
        self.weight = nn.Parameter(torch.empty(full.out_features, columns, device=device))
        self.bias = nn.Parameter(torch.empty(full.out_features, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """[..., I], this rank's part -> [..., D], equal on all ranks."""
        return total(F.linear(x, self.weight), self.group) + self.bias


class VocabParallelEmbedding(nn.Module):
    """An embedding of which each rank holds V rows in a line."""

    def __init__(self, full: nn.Embedding, group: TensorGroup) -> None:
        super().__init__()
        self.group = group
        rows = full.num_embeddings // group.size
        self.first = group.rank * rows
        self.weight = nn.Parameter(torch.empty(rows, full.embedding_dim, device=full.weight.device))

    def forward(self, ids_BL: Tensor) -> Tensor:
        """[B, L] -> [B, L, D], equal on all ranks: every rank but the owner adds zeros."""
        local_BL = ids_BL - self.first
        absent_BL = (local_BL < 0) | (local_BL >= len(self.weight))
        x_BLD = F.embedding(local_BL.masked_fill(absent_BL, 0), self.weight)
        return total(x_BLD.masked_fill(absent_BL[..., None], 0.0), self.group)

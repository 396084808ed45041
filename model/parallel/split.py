"""Which part of which parameter a tensor-parallel rank holds: cutting and putting together, without any process group.

As in the released checkpoints (facts 1.1): matrices that widen are cut by rows, those that narrow by columns, the embedding by
rows. Rows of the query-key-value matrix lie head by head, so that a plain cut gives whole heads; the GeGLU's two halves are cut
each for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """How a parameter is cut.

    Attributes:
        dim: the dimension that is cut.
        blocks: equal parts of that dimension that are cut each for itself.
    """

    dim: int
    blocks: int = 1

    def part(self, full: Tensor, rank: int, size: int) -> Tensor:
        """Rank `rank`'s part of a full tensor.

        Raises:
            ValueError: the dimension does not fall into `size` equal parts.
        """
        if full.shape[self.dim] % (self.blocks * size):
            raise ValueError(f"a tensor of shape {tuple(full.shape)} cannot be cut in {size} along dimension {self.dim}")
        pieces = [block.chunk(size, self.dim)[rank] for block in full.chunk(self.blocks, self.dim)]
        return torch.cat(pieces, self.dim)

    def whole(self, parts: Sequence[Tensor]) -> Tensor:
        """The full tensor of all ranks' parts, in their order."""
        pieces = [part.chunk(self.blocks, self.dim) for part in parts]
        return torch.cat([piece for block in zip(*pieces, strict=True) for piece in block], self.dim)


_SPLITS = {
    "word_embeddings.weight": Split(0),
    "head.weight": Split(0),
    "attention.query_key_value.weight": Split(0),
    "attention.query_key_value.bias": Split(0),
    "attention.dense.weight": Split(1),
    "mlp.dense_h_to_4h.weight": Split(0, blocks=2),
    "mlp.dense_h_to_4h.bias": Split(0, blocks=2),
    "mlp.dense_4h_to_h.weight": Split(1),
}


def split_of(name: str) -> Split | None:
    """How the GLM parameter `name` is cut, or None where every rank holds all of it (LayerNorms, biases of what narrows)."""
    return _SPLITS.get(".".join(name.split(".")[-3:])) or _SPLITS.get(".".join(name.split(".")[-2:]))


def part(name: str, full: Tensor, rank: int, size: int) -> Tensor:
    """What tensor-parallel rank `rank` of `size` holds of the parameter `name`."""
    split = split_of(name)
    return full if split is None or size == 1 else split.part(full, rank, size)


def whole(name: str, parts: Sequence[Tensor]) -> Tensor:
    """The parameter `name` from all ranks' parts, in their order."""
    split = split_of(name)
    return parts[0] if split is None or len(parts) == 1 else split.whole(parts)

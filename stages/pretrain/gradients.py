"""Gradient norms of the embedding, of each block and of what stands behind the blocks: where a collapse shows first."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

EMBEDDING, REST = "embedding", "final"


def part_names(layers: int) -> tuple[str, ...]:
    """The parts of a model whose norms are taken, in the order of computing."""
    return (EMBEDDING, *(f"layer_{number:03d}" for number in range(layers)), REST)


class GradientWatch:
    """Reads the averaged gradients that DeepSpeed's ZeRO-1 or 2 optimizer is about to clip and apply.

    Each rank sums the squares of its own share; one vector of as many numbers as parts goes around.
    """

    def __init__(self, optimizer: Any, model: nn.Module, layers: int) -> None:
        """Look on at every `optimizer.step` from now on; `model` is this rank's, under the whole model's names."""
        self.names = part_names(layers)
        self._part = {id(parameter): self._index(name) for name, parameter in model.named_parameters()}
        self._optimizer = optimizer
        self._squares = torch.zeros(len(self.names), dtype=torch.float64)
        step = optimizer.step

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._squares = self._sum_squares()
            return step(*args, **kwargs)

        optimizer.step = watched

    def norms(self) -> dict[str, float]:
        """Norms of the last step by part, before clipping, over all ranks; a collective call."""
        squares = self._squares.to(self._optimizer.device)
        dist.all_reduce(squares)
        return {name: math.sqrt(value) for name, value in zip(self.names, squares.tolist(), strict=True)}

    def _index(self, name: str) -> int:
        first, *rest = name.split(".")
        if first in ("word_embeddings", "embedding_layernorm"):
            return 0
        return 1 + int(rest[0]) if first == "layers" else len(self.names) - 1

    def _sum_squares(self) -> Tensor:
        """[parts], FP64: of this rank's share, what several ranks hold counted once, as DeepSpeed counts for the whole norm."""
        optimizer, squares = self._optimizer, torch.zeros(len(self.names), dtype=torch.float64)
        for group, gradients in optimizer.averaged_gradients.items():
            own = (gradient for gradient in gradients if not getattr(gradient, "_zero_padding", False))
            for gradient, parameter in zip(own, optimizer.params_in_partition[group], strict=False):  # zeros may stand behind
                if getattr(parameter, "ds_pipe_replicated", False):
                    continue
                if getattr(parameter, "model_parallel", False) or optimizer.model_parallel_rank == 0:
                    norm = torch.linalg.vector_norm(gradient, dtype=torch.float32)
                    squares[self._part[id(parameter)]] += norm.double().cpu() ** 2
        return squares / float(optimizer.loss_scale) ** 2

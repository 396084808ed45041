"""What a training step is compared with: the shortest fair loop of torch, and a plain causal GPT.

Shapes, as in model/glm.py: B sequences, L positions, D hidden, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from model.config import ModelConfig
    from model.glm import Batch
    from stages.pretrain.settings import Params


class BareLoop:
    """BF16 weights with FP32 masters, AdamW and clipping: the stage's arithmetic without its engine, meters and journal."""

    def __init__(self, model: nn.Module, params: Params, loss: Callable[[Batch], Tensor]) -> None:
        """Train `model`, which becomes BF16, by `loss` of a batch, over micro-batches as `params.precision` bf16 does."""
        rule = params.optimizer
        self._loss, self._clip = loss, rule.clip_norm
        self._masters: list[Tensor] = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
        self._weights: list[Tensor] = list(model.to(torch.bfloat16).parameters())
        groups = [
            {"params": [p for p in self._masters if p.ndim > 1], "weight_decay": rule.weight_decay},
            {"params": [p for p in self._masters if p.ndim == 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(rule.beta1, rule.beta2), eps=rule.eps, fused=True)

    def step(self, micro_batches: Sequence[Batch], lr: float) -> None:
        """One update."""
        for batch in micro_batches:
            (self._loss(batch) / len(micro_batches)).backward()
        for master, weight in zip(self._masters, self._weights, strict=True):
            assert weight.grad is not None
            master.grad, weight.grad = weight.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self._masters, self._clip)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(self._weights, self._masters)


@dataclass(frozen=True)
class GPTConfig:
    """A plain GPT: Pre-LN, learned positions, GELU of width 4 D, tied embedding, biases."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    length: int

    @property
    def parameters(self) -> int:
        """The embedding counted once."""
        layer = 12 * self.hidden**2 + 13 * self.hidden
        return (self.vocabulary + self.length) * self.hidden + self.layers * layer + 2 * self.hidden


def of_equal_size(config: ModelConfig) -> GPTConfig:
    """The GPT of the same layers, width, heads, vocabulary and context: a GeGLU of 8/3 D has the numbers of a GELU of 4 D."""
    return GPTConfig(config.layers, config.hidden, config.heads, config.vocabulary, config.max_sequence)


class _Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        D = config.hidden
        self.heads = config.heads
        self.first, self.second = nn.LayerNorm(D), nn.LayerNorm(D)
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x_BLD: Tensor) -> Tensor:
        B, L, D = x_BLD.shape
        q, k, v = self.qkv(self.first(x_BLD)).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        y_BHLK = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BLD = x_BLD + self.out(y_BHLK.transpose(1, 2).flatten(2))
        out: Tensor = x_BLD + self.down(F.gelu(self.up(self.second(x_BLD))))
        return out


class CausalGPT(nn.Module):
    """Predicts each token from those before it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.hidden)
        self.places = nn.Embedding(config.length, config.hidden)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.last = nn.LayerNorm(config.hidden)
        for table in (self.tokens, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Logits, [B, L, V]."""
        x_BLD = self.tokens(ids_BL) + self.places.weight[: ids_BL.shape[1]]
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return F.linear(self.last(x_BLD), self.tokens.weight)

    def loss(self, ids_BL: Tensor) -> Tensor:
        """Mean cross-entropy of every position's next token; the last one's is the first, so that all L positions count."""
        logits_RV = self(ids_BL).flatten(0, 1).float()
        return F.cross_entropy(logits_RV, ids_BL.roll(-1, dims=1).flatten())

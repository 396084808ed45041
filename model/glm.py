"""GLM: a transformer that reads a context both ways and writes the blanks in it from left to right.

The architecture of GLM-130B (paper 2.1, 2.3, Table 11) in one sitting: Post-LN DeepNorm, rotary positions over whole heads,
GeGLU, biases everywhere but in the head, embedding tied to the head, FP32 softmax, embedding gradient shrink. What its authors
tried beside it is a switch of `ModelConfig`; how attention is computed stands in model/attention.py.

Shapes, in suffixes: B sequences, L positions, D hidden, H heads, K head width, F feed-forward width, V vocabulary,
N blocks a sequence, T positions that carry a loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import Attend, compute_dtype, prepare
from model.config import ModelConfig
from model.cross_entropy import weighted_cross_entropy


@dataclass(frozen=True)
class Batch:
    """Packed sequences as `docs/data.md` describes them, all int64.

    Attributes:
        input_ids: [B, L].
        target_ids: [B, L], -1 where there is no loss.
        position_ids: [B, L].
        block_start: [B, N+1], first position of each block, then the end of the last.
        block_context: [B, N], how many positions of the block are context.
    """

    input_ids: Tensor
    target_ids: Tensor
    position_ids: Tensor
    block_start: Tensor
    block_context: Tensor


class Rotary(nn.Module):
    """Rotary position embedding over the whole head, base 10,000, first half against second half (facts 1.4)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.half_dim = config.head_dim // 2
        self.base = config.rope_base
        self.max_sequence = config.max_sequence
        self._tables: tuple[Tensor, Tensor] | None = None

    def forward(self, position_BL: Tensor) -> tuple[Tensor, Tensor]:
        """FP32 cosines and sines [B, 1, L, K] for explicit position ids."""
        if self._tables is None or self._tables[0].device != position_BL.device:
            exponent = torch.arange(self.half_dim, device=position_BL.device, dtype=torch.float64) / self.half_dim
            angle = torch.arange(self.max_sequence, device=position_BL.device)[:, None] * self.base**-exponent
            angle = torch.cat([angle, angle], dim=-1)
            self._tables = angle.cos().float(), angle.sin().float()
        cos, sin = self._tables
        return cos[position_BL][:, None], sin[position_BL][:, None]


def rotate(x_BHLK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (k, k + K/2) of a head by its position's angle, in FP32, back in the type of `x`."""
    x = x_BHLK.float()
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x_BHLK.dtype)


class Attention(nn.Module):
    """Multi-head attention with the fused, per-head interleaved projection of the released weights.

    Rows of `query_key_value` are [head 0: q, k, v][head 1: q, k, v]... The softmax is in FP32 whatever computes it (paper 2.3
    names that as the decisive stabiliser). `number` counts layers from 1, for the query-key layer scaling.
    """

    def __init__(self, config: ModelConfig, number: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.dropout = config.heads, config.head_dim, config.dropout
        self.layer_scale = float(number) if config.query_key_layer_scaling else 1.0
        self.query_key_value = nn.Linear(config.hidden, 3 * config.hidden)
        self.dense = nn.Linear(config.hidden, config.hidden)

    def forward(self, x_BLD: Tensor, attend: Attend, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        B, L, _ = x_BLD.shape
        qkv = self.query_key_value(x_BLD).view(B, L, self.heads, 3 * self.head_dim).transpose(1, 2)
        q, k, v = qkv.chunk(3, dim=-1)
        dropout = self.dropout if self.training else 0.0
        y_BHLK = attend(rotate(q, *rotary), rotate(k, *rotary), v, dropout, self.layer_scale)
        out: Tensor = self.dense(y_BHLK.transpose(1, 2).flatten(2))
        return out


class GeGLU(nn.Module):
    """Feed-forward network: first half of the up-projection times the exact (erf) GELU of the second half."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden, 2 * config.ffn)
        self.dense_4h_to_h = nn.Linear(config.ffn, config.hidden)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        linear, gate = self.dense_h_to_4h(x_BLD).chunk(2, dim=-1)
        out: Tensor = self.dense_4h_to_h(linear * F.gelu(gate))
        return out


class Block(nn.Module):
    """Attention and feed-forward network, each added to a skip path, with LayerNorms where `NORMS` puts them.

    As published, DeepNorm in the form of a Post-LN: the LayerNorm's output is both the sub-layer's input and, times alpha, the
    skip path, and the LayerNorm of the next sub-layer completes it.
    """

    def __init__(self, config: ModelConfig, number: int) -> None:
        super().__init__()
        place, self.dropout = config.placement, config.dropout
        self.normed_skip, self.alpha = place.normed_skip, config.alpha if place.scaled_skip else 1.0

        def layernorm(wanted: bool = True) -> nn.Module:
            return nn.LayerNorm(config.hidden, config.norm_eps) if wanted else nn.Identity()

        self.input_layernorm = layernorm()
        self.attention = Attention(config, number)
        self.attention_output_layernorm = layernorm(place.normed_output)
        self.post_attention_layernorm = layernorm()
        self.mlp = GeGLU(config)
        self.mlp_output_layernorm = layernorm(place.normed_output)

    def forward(self, x_BLD: Tensor, attend: Attend, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """[B, L, D] -> [B, L, D], not yet normalised."""
        h = self.input_layernorm(x_BLD)
        attended = F.dropout(self.attention(h, attend, rotary), self.dropout, self.training)
        y = self.alpha * (h if self.normed_skip else x_BLD) + self.attention_output_layernorm(attended)
        z = self.post_attention_layernorm(y)
        fed = F.dropout(self.mlp(z), self.dropout, self.training)
        out: Tensor = self.alpha * (z if self.normed_skip else y) + self.mlp_output_layernorm(fed)
        return out


def shrink_gradient(x: Tensor, alpha: float) -> Tensor:
    """`x`, whose gradient is multiplied by alpha: the published embedding gradient shrink, EGS (paper 2.3)."""
    return x if alpha == 1.0 else x * alpha + x.detach() * (1 - alpha)


class GLM(nn.Module):
    """The whole model.

    Attributes:
        embedding_gradient_shrink: EGS's alpha; a schedule may change it while training.
        shrink_logit_gradient: whether that holds for the embedding's use as the head too.
        attention_backend: one of `model.attention.BACKENDS`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding_gradient_shrink, self.shrink_logit_gradient = 1.0, config.shrink_logit_gradient
        self.attention_backend = "auto"
        self.word_embeddings = nn.Embedding(config.vocabulary, config.hidden)
        self.embedding_layernorm = nn.LayerNorm(config.hidden, config.norm_eps) if config.embedding_norm else nn.Identity()
        self.layers = nn.ModuleList(Block(config, number) for number in range(1, config.layers + 1))
        self.final_layernorm = nn.LayerNorm(config.hidden, config.norm_eps)
        if not config.tied_embeddings:
            self.head = nn.Embedding(config.vocabulary, config.hidden)
        self.rotary = Rotary(config)

    def embed(self, input_ids: Tensor) -> Tensor:
        """What the first block reads, [B, L, D]."""
        x_BLD = shrink_gradient(self.word_embeddings(input_ids), self.embedding_gradient_shrink)
        return F.dropout(self.embedding_layernorm(x_BLD), self.config.dropout, self.training)

    def hidden_states(self, batch: Batch) -> Tensor:
        """Outputs of the final LayerNorm, [B, L, D].

        Raises:
            ValueError: `attention_backend` cannot run here.
        """
        x_BLD = self.embed(batch.input_ids)
        surroundings = self.surroundings(x_BLD, batch.position_ids, batch.block_start, batch.block_context)
        for layer in self.layers:
            x_BLD = layer(x_BLD, *surroundings)
        out: Tensor = self.final_layernorm(x_BLD)
        return out

    def surroundings(
        self, x_BLD: Tensor, position_ids: Tensor, block_start: Tensor, block_context: Tensor
    ) -> tuple[Attend, tuple[Tensor, Tensor]]:
        """What every block takes of a batch beside `x_BLD`: who sees whom, and the rotary tables of its positions.

        Raises:
            ValueError: `attention_backend` cannot run here.
        """
        attend = prepare(
            self.attention_backend,
            block_start,
            block_context,
            length=x_BLD.shape[1],
            dtype=compute_dtype(x_BLD),
            dropout=self.config.dropout if self.training else 0.0,
        )
        return attend, self.rotary(position_ids)

    def head_weight(self) -> Tensor:
        """[V, D]: the embedding, unless it is not tied."""
        table = self.word_embeddings if self.config.tied_embeddings else self.head
        return shrink_gradient(table.weight, self.embedding_gradient_shrink if self.shrink_logit_gradient else 1.0)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary, FP32 [..., V]; the head has no bias."""
        return F.linear(hidden, self.head_weight()).float()

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Training loss (scalar), and detached: each target's loss [T] and its flat position in [B * L], [T].

        As published, every sequence weighs the same however many targets it holds (facts 3.4). Positions without a
        loss never reach the head: in GLM most of a sequence is context.
        """
        hidden = self.hidden_states(batch).flatten(0, 1)
        where_T, targets_T, weights_T = loss_rows(batch.target_ids)
        loss, losses_T = weighted_cross_entropy(hidden[where_T], self.head_weight(), targets_T, weights_T)
        return loss, losses_T, where_T


def loss_rows(target_ids_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where targets stand among the B * L positions, their ids, and their weights in the loss (FP32), [T] each."""
    targets = target_ids_BL.flatten()
    where_T = torch.nonzero(targets >= 0).squeeze(-1)
    sequence_T = where_T // target_ids_BL.shape[1]
    count_B = torch.bincount(sequence_T, minlength=len(target_ids_BL))
    weights_T = 1.0 / (count_B[sequence_T] * (count_B > 0).sum())
    return where_T, targets[where_T], weights_T.float()


@torch.no_grad()
def initialise(model: GLM, seed: int) -> None:
    """Give every parameter its first value, see `initial_weights`."""
    parameters = dict(model.named_parameters())
    for name, weight in initial_weights(model.config, seed):
        parameters[name].copy_(weight)


def initial_weights(config: ModelConfig, seed: int) -> Iterator[tuple[str, Tensor]]:
    """First values of all parameters by name, FP32, one after the other: Xavier normal, biases zero, LayerNorms one and zero.

    With DeepNorm as published: gain 1 for queries, keys and the embedding, beta for values, attention output and all
    feed-forward matrices, with the fans of each logical matrix (paper 2.1; facts 1.3). The published code gave the gains to
    the wrong rows of the interleaved projection; the paper is followed here. Other norms: see `NORMS`.
    """
    generator = torch.Generator().manual_seed(seed)
    width, inner, table = config.hidden, config.ffn, (config.vocabulary, config.hidden)
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in GLM(config).named_parameters()}

    def xavier(matrix: str, fans: tuple[int, int], shape: tuple[int, ...]) -> Tensor:
        gain = config.beta if matrix in config.placement.scaled else 1.0
        return torch.randn(shape, generator=generator) * (gain * math.sqrt(2.0 / sum(fans)))

    yield "word_embeddings.weight", xavier("embedding", table, table)
    for number in range(config.layers):
        layer, square, heads = f"layers.{number}", (width, width), (config.heads, config.head_dim, width)
        qkv = [xavier(part, square, heads) for part in ("query", "key", "value")]
        yield f"{layer}.attention.query_key_value.weight", torch.stack(qkv, dim=1).reshape(3 * width, width)
        yield f"{layer}.attention.dense.weight", xavier("dense", square, square)
        halves = [xavier("dense_h_to_4h", (inner, width), (inner, width)) for _ in range(2)]
        yield f"{layer}.mlp.dense_h_to_4h.weight", torch.cat(halves)
        yield f"{layer}.mlp.dense_4h_to_h.weight", xavier("dense_4h_to_h", (inner, width), (width, inner))
    if not config.tied_embeddings:
        yield "head.weight", xavier("head", table, table)
    for name, shape in shapes.items():
        if name.endswith(".bias"):
            yield name, torch.zeros(shape)
        elif "layernorm" in name:
            yield name, torch.ones(shape)

"""GLM: a transformer that reads a context both ways and writes the blanks in it from left to right.

The architecture of GLM-130B (paper 2.1, 2.3, Table 11) in one sitting: Post-LN DeepNorm, rotary positions over whole heads,
GeGLU, biases everywhere but in the head, embedding tied to the head, FP32 softmax, embedding gradient shrink.

Shapes, in suffixes: B sequences, L positions, D hidden, H heads, K head width, F feed-forward width, V vocabulary,
N blocks a sequence, T positions that carry a loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def attention_mask(block_start_BN: Tensor, block_context_BN: Tensor, length: int) -> Tensor:
    """Which position may look at which, bool [B, 1, L, L].

    Inside a block everybody sees the context, and the rest of the block sees itself causally; blocks do not see each
    other (paper 2.2, Fig. 2). Padding behind the last block sees only itself, so that no row is empty.
    """
    position_L = torch.arange(length, device=block_start_BN.device)
    block_BL = torch.searchsorted(block_start_BN[:, 1:].contiguous(), position_L.repeat(len(block_start_BN), 1), right=True)
    context_end_BN = block_start_BN[:, :-1] + block_context_BN
    context_end_BN = F.pad(context_end_BN, (0, 1))  # padding has no context
    context_end_BL = context_end_BN.gather(1, block_BL)
    same_BLL = block_BL[:, :, None] == block_BL[:, None, :]
    context_BLL = position_L[None, None, :] < context_end_BL[:, :, None]
    causal_LL = position_L[None, :] <= position_L[:, None]
    return (same_BLL & (context_BLL | causal_LL))[:, None]


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


_EXPLICIT_LENGTH = 512


def attend(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """softmax(q k^T / sqrt(K) + mask) v, [B, H, L, K], with the softmax in FP32; `mask` broadcasts to [B, H, L, L].

    Short sequences on a CPU go through plain products, forward and backward in half of the time of torch's fused kernel
    there; everything else through that kernel, which never holds the scores whole. They differ by the rounding of the
    scores alone: plain products give them in the type of `q`, as the published code does, the kernel keeps them in FP32.
    """
    if q_BHLK.device.type != "cpu" or q_BHLK.shape[2] > _EXPLICIT_LENGTH:
        return F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, attn_mask=mask, dropout_p=dropout)
    scores_BHLL = (q_BHLK * q_BHLK.shape[-1] ** -0.5) @ k_BHLK.transpose(-1, -2) + mask
    shares_BHLL = torch.softmax(scores_BHLL, dim=-1, dtype=torch.float32).to(v_BHLK.dtype)
    return F.dropout(shares_BHLL, dropout) @ v_BHLK if dropout else shares_BHLL @ v_BHLK


class Attention(nn.Module):
    """Multi-head attention with the fused, per-head interleaved projection of the released weights.

    Rows of `query_key_value` are [head 0: q, k, v][head 1: q, k, v]... The published query-key layer scaling (divide q
    by the layer number, multiply back inside the FP32 softmax) is the identity in exact arithmetic and guards FP16
    alone; the softmax is in FP32 here too (paper 2.3 names that as the decisive stabiliser).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.head_dim, self.dropout = config.heads, config.head_dim, config.dropout
        self.query_key_value = nn.Linear(config.hidden, 3 * config.hidden)
        self.dense = nn.Linear(config.hidden, config.hidden)

    def forward(self, x_BLD: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """[B, L, D] -> [B, L, D]; `mask` [B, 1, L, L] is added to the scores: 0 or minus infinity."""
        B, L, D = x_BLD.shape
        qkv = self.query_key_value(x_BLD).view(B, L, self.heads, 3 * self.head_dim).transpose(1, 2)
        q, k, v = qkv.chunk(3, dim=-1)
        dropout = self.dropout if self.training else 0.0
        y_BHLK = attend(rotate(q, *rotary), rotate(k, *rotary), v, mask, dropout)
        out: Tensor = self.dense(y_BHLK.transpose(1, 2).reshape(B, L, D))
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
    """DeepNorm as Post-LN: the LayerNorm's output is both the sub-layer's input and, times alpha, the skip path."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.alpha, self.dropout = config.alpha, config.dropout
        self.input_layernorm = nn.LayerNorm(config.hidden, config.norm_eps)
        self.attention = Attention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden, config.norm_eps)
        self.mlp = GeGLU(config)

    def forward(self, x_BLD: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """[B, L, D] -> [B, L, D], un-normalised: the next LayerNorm completes the Post-LN."""
        h = self.input_layernorm(x_BLD)
        y = self.alpha * h + F.dropout(self.attention(h, mask, rotary), self.dropout, self.training)
        z = self.post_attention_layernorm(y)
        return self.alpha * z + F.dropout(self.mlp(z), self.dropout, self.training)


class GLM(nn.Module):
    """The whole model. `embedding_gradient_shrink` is EGS's alpha (paper 2.3); a schedule may change it while training."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding_gradient_shrink = 1.0
        self.word_embeddings = nn.Embedding(config.vocabulary, config.hidden)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_layernorm = nn.LayerNorm(config.hidden, config.norm_eps)
        self.rotary = Rotary(config)

    def hidden_states(self, batch: Batch) -> Tensor:
        """Outputs of the final LayerNorm, [B, L, D]."""
        x_BLD = self.word_embeddings(batch.input_ids)
        alpha = self.embedding_gradient_shrink
        if alpha < 1.0:
            x_BLD = x_BLD * alpha + x_BLD.detach() * (1 - alpha)
        x_BLD = F.dropout(x_BLD, self.config.dropout, self.training)
        visible = attention_mask(batch.block_start, batch.block_context, x_BLD.shape[1])
        mask = torch.zeros_like(visible, dtype=x_BLD.dtype).masked_fill_(~visible, -torch.inf)  # once, not once a layer
        rotary = self.rotary(batch.position_ids)
        for layer in self.layers:
            x_BLD = layer(x_BLD, mask, rotary)
        out: Tensor = self.final_layernorm(x_BLD)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary, FP32 [..., V]; the head is the embedding, without bias."""
        return F.linear(hidden, self.word_embeddings.weight).float()

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Training loss (scalar), and detached: each target's loss [T] and its flat position in [B * L], [T].

        As published, every sequence weighs the same however many targets it holds (facts 3.4). Positions without a
        loss never reach the head: in GLM most of a sequence is context.
        """
        hidden = self.hidden_states(batch).flatten(0, 1)
        targets = batch.target_ids.flatten()
        where_T = torch.nonzero(targets >= 0).squeeze(-1)
        sequence_T = where_T // batch.input_ids.shape[1]
        count_B = torch.bincount(sequence_T, minlength=len(batch.input_ids))
        row_weights = 1.0 / (count_B[sequence_T] * (count_B > 0).sum())
        loss, losses_T = weighted_cross_entropy(
            hidden[where_T], self.word_embeddings.weight, targets[where_T], row_weights.float()
        )
        return loss, losses_T, where_T


@torch.no_grad()
def initialise(model: GLM, seed: int) -> None:
    """DeepNorm's published init, from a generator of its own: Xavier normal, biases zero, LayerNorms one and zero.

    Gain 1 for queries, keys and the embedding, beta for values, attention output and all feed-forward matrices, with the
    fans of each logical matrix (paper 2.1; facts 1.3). The published code gave the gains to the wrong rows of the
    interleaved projection; the paper is followed here.
    """
    config, generator = model.config, torch.Generator().manual_seed(seed)
    width, inner = config.hidden, config.ffn

    def xavier(weight: Tensor, gain: float, fan_in: int, fan_out: int) -> None:
        std = gain * math.sqrt(2.0 / (fan_in + fan_out))
        weight.copy_(torch.randn(weight.shape, generator=generator) * std)

    xavier(model.word_embeddings.weight, 1.0, width, config.vocabulary)
    for layer in model.layers:
        assert isinstance(layer, Block)
        qkv = layer.attention.query_key_value.weight.view(config.heads, 3, config.head_dim, width)
        for part, gain in enumerate((1.0, 1.0, config.beta)):
            xavier(qkv[:, part], gain, width, width)
        xavier(layer.attention.dense.weight, config.beta, width, width)
        xavier(layer.mlp.dense_h_to_4h.weight[:inner], config.beta, width, inner)
        xavier(layer.mlp.dense_h_to_4h.weight[inner:], config.beta, width, inner)
        xavier(layer.mlp.dense_4h_to_h.weight, config.beta, inner, width)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.zero_()
        elif "layernorm" in name:
            parameter.fill_(1.0)

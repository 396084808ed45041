"""GLM written a second time, from the papers: NumPy, FP64, one position and one head at a time, no gradient, no speed.

It shares no code and no formula of convenience with model/: rotary positions are turned as complex numbers, who sees whom is a
set of positions, erf comes from the C library. Weights come as a mapping of the names that a checkpoint has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Ba, Kiros, Hinton 2016, over the last axis with the biased variance."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def turned(head: Array, position: int, base: float) -> Array:
    """RoPE (Su et al. 2021): the pair (k, k + K/2) of a head [K] as a complex number, turned by position / base^(2k/K)."""
    half = len(head) // 2
    angles = [position * base ** (-2 * k / len(head)) for k in range(half)]
    pairs = (head[:half] + 1j * head[half:]) * np.exp(1j * np.array(angles))
    return np.concatenate([pairs.real, pairs.imag])


def visible(position: int, block_start: Ints, block_context: Ints, length: int) -> list[int]:
    """The positions that one position of a sequence reads (GLM, Du et al. 2022, Fig. 2): its block's context and its past."""
    for block, context in enumerate(block_context):
        start, end = int(block_start[block]), int(block_start[block + 1])
        if start <= position < end:
            seen = set(range(start, start + int(context))) | set(range(start, position + 1))
            return sorted(seen)
    return list(range(int(block_start[-1]), position + 1))  # padding


def attention(x: Array, weights: Mapping[str, Array], config: Any, positions: Ints, seen: list[list[int]]) -> Array:
    """softmax(q k^T / sqrt(K)) v for each head; rows of the projection are [head 0: q, k, v][head 1: q, k, v]..."""
    width = config.hidden // config.heads
    projected = x @ weights["query_key_value.weight"].T + weights["query_key_value.bias"]
    out = np.zeros_like(x)
    for head in range(config.heads):
        q, k, v = (projected[:, (3 * head + part) * width : (3 * head + part + 1) * width] for part in range(3))
        q, k = (
            np.stack([turned(row, int(at), config.rope_base) for row, at in zip(m, positions, strict=True)]) for m in (q, k)
        )
        for i, keys in enumerate(seen):
            scores = np.array([q[i] @ k[j] for j in keys]) / math.sqrt(width)
            shares = np.exp(scores - scores.max())
            out[i, head * width : (head + 1) * width] = shares / shares.sum() @ v[keys]
    return out @ weights["dense.weight"].T + weights["dense.bias"]


def geglu(x: Array, weights: Mapping[str, Array]) -> Array:
    """Shazeer 2020: (x W1 + b1) * GELU(x V + c), the first half of the outputs linear, the second through the exact GELU."""
    up = x @ weights["dense_h_to_4h.weight"].T + weights["dense_h_to_4h.bias"]
    inner = up.shape[1] // 2
    gelu = np.vectorize(lambda z: z * 0.5 * (1 + math.erf(z / math.sqrt(2))))
    return up[:, :inner] * gelu(up[:, inner:]) @ weights["dense_4h_to_h.weight"].T + weights["dense_4h_to_h.bias"]


def hidden_states(weights: Mapping[str, Array], config: Any, ids: Ints, positions: Ints, start: Ints, context: Ints) -> Array:
    """Outputs of the final LayerNorm for one sequence: ids [L], positions [L], start [N+1], context [N] -> [L, D]."""

    def norm(x: Array, name: str) -> Array:
        return layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], config.norm_eps)

    def under(name: str) -> dict[str, Array]:
        return {key.removeprefix(name): value for key, value in weights.items() if key.startswith(name)}

    seen = [visible(i, start, context, len(ids)) for i in range(len(ids))]
    x = weights["word_embeddings.weight"][ids]
    if config.embedding_norm:
        x = norm(x, "embedding_layernorm")
    alpha = math.sqrt(2 * config.layers)
    for number in range(config.layers):
        layer = f"layers.{number}"
        first, second = f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"

        def attend(h: Array, layer: str = layer) -> Array:
            return attention(h, under(f"{layer}.attention."), config, positions, seen)

        def feed(h: Array, layer: str = layer) -> Array:
            return geglu(h, under(f"{layer}.mlp."))

        if config.norm == "deepnorm":  # x = LN(x alpha + f(x)), with one LayerNorm on the embeddings before
            h = norm(x, first)
            z = norm(alpha * h + attend(h), second)
            x = alpha * z + feed(z)
        elif config.norm == "post":  # x = LN(x + f(x)), likewise
            h = norm(x, first)
            z = norm(h + attend(h), second)
            x = z + feed(z)
        elif config.norm == "pre":  # x = x + f(LN(x))
            x = x + attend(norm(x, first))
            x = x + feed(norm(x, second))
        else:  # x = x + LN(f(LN(x)))
            x = x + norm(attend(norm(x, first)), f"{layer}.attention_output_layernorm")
            x = x + norm(feed(norm(x, second)), f"{layer}.mlp_output_layernorm")
    return norm(x, "final_layernorm")


def loss(weights: Mapping[str, Array], config: Any, batch: Any) -> float:
    """Mean over the sequences that have targets of each one's mean over its targets (facts 3.4); `batch` as NumPy arrays."""
    head = weights["word_embeddings.weight" if config.tied_embeddings else "head.weight"]
    means = []
    columns = (batch.input_ids, batch.position_ids, batch.block_start, batch.block_context)
    for row, targets in enumerate(batch.target_ids):
        scored = [i for i, target in enumerate(targets) if target >= 0]
        if scored:
            logits = hidden_states(weights, config, *(column[row] for column in columns))[scored] @ head.T
            peak = logits.max(-1, keepdims=True)
            log_totals = np.log(np.exp(logits - peak).sum(-1)) + peak[:, 0]
            means.append(np.mean(log_totals - logits[range(len(scored)), targets[scored]]))
    return float(np.mean(means))

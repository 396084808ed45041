"""FLOPs of a GLM by the two formulas that papers quote, and the utilisation that follows from each.

Both count a multiplication and an addition as two. They differ on purpose: the Megatron formula counts what the hardware
does, recomputed activations included (hardware FLOPs utilisation, HFU); the PaLM formula counts what the model needs however
it is trained (model FLOPs utilisation, MFU). GLM-130B's log prints the first, its paper (2.3) both.
"""

from __future__ import annotations

from dataclasses import replace

from model.config import ModelConfig


def parameters(config: ModelConfig) -> int:
    """Parameters of the whole model, a tied embedding counted once."""
    hidden, inner = config.hidden, config.ffn
    attention = 4 * hidden * hidden + 4 * hidden
    feed_forward = 3 * hidden * inner + 2 * inner + hidden
    layernorms = config.layers * layernorms_per_layer(config) + 1 + config.embedding_norm
    tables = 1 if config.tied_embeddings else 2
    return config.layers * (attention + feed_forward) + 2 * hidden * layernorms + tables * config.vocabulary * hidden


def layernorms_per_layer(config: ModelConfig) -> int:
    """Before both sub-layers, and behind them where the norm has it so."""
    return 4 if config.placement.normed_output else 2


def hardware_flops(config: ModelConfig, sequences: float, *, recompute: bool = True) -> float:
    """FLOPs of one step over `sequences` full sequences, as Megatron-LM counts them (arXiv 2104.04473, section 5.1).

    F = 24 k B s L h^2 (1 + s / 6h + V / 16 L h), with k = 4 passes where activations are recomputed and 3 where not. The
    24 h^2 of a plain layer is 8 h^2 for attention and 16 h^2 for the feed-forward; a GeGLU of width f takes 6 h f. With
    the published f = 8/3 h that is the same 16 h^2, so the log's figures come out exactly.
    """
    hidden, length = config.hidden, config.max_sequence
    passes = 4 if recompute else 3
    layer = 8 * hidden**2 + 6 * hidden * config.ffn + 4 * length * hidden
    head = 6 * hidden * config.vocabulary  # three passes always: logits are not recomputed
    return sequences * length * (passes * config.layers * layer + head)


def model_flops_per_token(config: ModelConfig) -> float:
    """FLOPs a trained token needs, 6 N + 12 L H Q T, as PaLM counts them (arXiv 2204.02311, appendix B).

    N has one table: PaLM's embedding is the head too, as here; one that only looks up multiplies nothing.
    """
    return 6 * parameters(replace(config, tied_embeddings=True)) + 12 * config.layers * config.hidden * config.max_sequence


def utilisation(flops: float, seconds: float, gpus: int, peak_flops: float) -> float:
    """Share of the cluster's peak that `flops` in `seconds` amount to: HFU or MFU, as `flops` was counted."""
    return flops / seconds / (gpus * peak_flops)

"""Sizes and switches of a GLM, checked, with the published 130B as a constant.

Source of every number: GLM-130B paper (arXiv 2210.02414) sections 2.1 and 2.3, Table 11.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a sub-layer f has its LayerNorms: y = skip + f(LN(x)), and how its matrices start.

    Attributes:
        normed_skip: the skip path is LN(x), not x. Then the LayerNorm of the next sub-layer completes a Post-LN.
        scaled_skip: the skip path is multiplied by `ModelConfig.alpha`.
        normed_output: f's output goes through a LayerNorm of its own before it is added.
        scaled: matrices whose Xavier gain is `ModelConfig.beta` in place of 1.
    """

    normed_skip: bool
    scaled_skip: bool
    normed_output: bool
    scaled: frozenset[str]


_OUTPUTS = frozenset({"dense", "dense_4h_to_h"})  # the last matrix of each sub-layer
NORMS = {
    "deepnorm": Placement(True, True, False, _OUTPUTS | {"value", "dense_h_to_4h"}),  # paper 2.1
    "post": Placement(True, False, False, frozenset()),  # Vaswani et al. 2017
    "pre": Placement(False, False, False, _OUTPUTS),  # GPT-2, with its scaled start of what is added to the stream
    "sandwich": Placement(False, False, True, _OUTPUTS),  # CogView (arXiv 2105.13290)
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the parameters' shapes and the forward pass.

    Attributes:
        layers: transformer blocks.
        hidden: width of the residual stream; a multiple of `heads`.
        heads: attention heads; queries, keys and values have the same number.
        ffn: inner width of the GeGLU, 8/3 of `hidden` in the paper; the up-projection has twice as many outputs.
        vocabulary: rows of the embedding, padded.
        max_sequence: longest sequence, in tokens.
        dropout: probability on embeddings, attention weights and both sub-layer outputs while training.
        rope_base: base of the rotary frequencies.
        norm_eps: epsilon of every LayerNorm.
        norm: where LayerNorms stand, a key of `NORMS`; published: deepnorm.
        embedding_norm: a LayerNorm on the embeddings before the first block (BLOOM). With `deepnorm` and `post` the first
            block begins with one anyhow.
        tied_embeddings: the head is the embedding, as published.
        query_key_layer_scaling: divide queries of layer n = 1, 2, ... by n and multiply the FP32 scores by n: no change but to
            the range of FP16 scores. Published: on.
        shrink_logit_gradient: the gradient shrink of the embedding (EGS) holds for its use as the head too. Published: from
            2022-05-29 on, some three weeks into the run.
    """

    layers: int
    hidden: int
    heads: int
    ffn: int
    vocabulary: int
    max_sequence: int
    dropout: float = 0.0
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    norm: str = "deepnorm"
    embedding_norm: bool = False
    tied_embeddings: bool = True
    query_key_layer_scaling: bool = False
    shrink_logit_gradient: bool = False

    def __post_init__(self) -> None:
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden {self.hidden} must be an even multiple of heads {self.heads} (RoPE turns pairs)")
        if min(self.layers, self.hidden, self.heads, self.ffn, self.vocabulary, self.max_sequence) < 1:
            raise ValueError("layers, hidden, heads, ffn, vocabulary and max_sequence must be positive")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout {self.dropout} must be in [0, 1)")
        if self.norm not in NORMS:
            raise ValueError(f"norm {self.norm!r} must be one of {', '.join(NORMS)}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def placement(self) -> Placement:
        """Where the LayerNorms stand."""
        return NORMS[self.norm]

    @property
    def alpha(self) -> float:
        """DeepNorm's factor on the skip path, sqrt(2N) (paper 2.1; not the (2N)^(1/4) of the DeepNet paper)."""
        return float((2 * self.layers) ** 0.5)

    @property
    def beta(self) -> float:
        """DeepNorm's init gain for value, output and feed-forward matrices, (2N)^(-1/2) (paper 2.1)."""
        return float((2 * self.layers) ** -0.5)

    @classmethod
    def read(cls, file: Path) -> ModelConfig:
        """The settings under "model" of a checkpoint's config.json.

        Raises:
            ValueError: a key is unknown or missing, or the sizes do not fit together.
        """
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["model"]
        try:
            return cls(**data)
        except TypeError as error:
            raise ValueError(f"{file}: {error}") from error


GLM_130B = ModelConfig(layers=70, hidden=12_288, heads=96, ffn=32_768, vocabulary=150_528, max_sequence=2_048, dropout=0.1)

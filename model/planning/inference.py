"""Which GPUs hold a model for inference, at each precision: weights, key-value cache and work space, cut over the GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ModelConfig
from model.planning.cluster import GIB, Accelerator
from model.planning.flops import parameters

WEIGHT_BITS = {"fp16": 16, "int8": 8, "int4": 4}
USABLE = 0.93
"""Share of a GPU's memory that tensors can have. Set by what GLM-130B's authors report: INT4 runs on 4 x 24 GB and on
8 x 11 GB, and does not on one 80 GB card (facts 5.2 and issue 60 of its repository)."""
_CONTEXT = 900_000_000  # CUDA context and libraries, on every GPU
_SIZES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes over all GPUs together."""

    weights: int
    cache: int
    work: int

    def per_gpu(self, gpus: int) -> int:
        """Bytes on each of `gpus` tensor-parallel GPUs."""
        return (self.weights + self.cache + self.work) // gpus + _CONTEXT


def inference_memory(config: ModelConfig, precision: str, sequences: int = 1) -> InferenceMemory:
    """Memory to fill texts of the model's whole sequence length, as the published code does it.

    The four matrices of a layer are quantized, with an FP16 scale a row; embedding, biases and LayerNorms stay FP16
    (facts 5.1). Work space: one matrix dequantized to FP16, a layer's attention scores in FP16 and FP32 and as
    probabilities, the inner activations and the logits.
    """
    hidden, inner, length = config.hidden, config.ffn, config.max_sequence
    matrices = config.layers * (4 * hidden * hidden + 3 * hidden * inner)
    rows = config.layers * (3 * hidden + hidden + 2 * inner + hidden)
    others = parameters(config) - matrices
    bits = WEIGHT_BITS[precision]
    scales = 2 * rows if bits < 16 else 0
    positions = sequences * length
    dequantized = 2 * 2 * hidden * inner if bits < 16 else 0
    scores = positions * length * config.heads * (2 + 4 + 2)
    return InferenceMemory(
        weights=matrices * bits // 8 + 2 * others + scales,
        cache=2 * 2 * config.layers * hidden * positions,
        work=dequantized + scores + 2 * positions * 3 * inner + 2 * positions * config.vocabulary,
    )


def smallest(config: ModelConfig, precision: str, accelerator: Accelerator) -> int | None:
    """Fewest GPUs of this kind (a power of two, as tensor parallelism wants) that hold the model; None if 32 do not."""
    need = inference_memory(config, precision)
    for gpus in _SIZES:
        if config.heads % gpus == 0 and need.per_gpu(gpus) <= USABLE * accelerator.memory_gib * GIB:
            return gpus
    return None

"""Real packed samples as batches for the model's tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from model.glm import Batch
from model.masking import Draws, MaskingConfig, Sample, gmask_sample, instruction_sample, mask_sample
from model.tokenizer import SPECIAL

MASKING = MaskingConfig(64, 4, 58, 48, 0.7, 0.2, 0.3, 3.0, 8, 0.02, 8, 0.02)
KINDS = ("gmask", "mask", "instruction")
VOCABULARY = 96


def packed(kinds: Sequence[str] = KINDS, masking: MaskingConfig = MASKING, seed: int = 5) -> Batch:
    """One sequence of each kind, made by `model.masking`; all but a lucky one end in padding."""
    samples = [_sample(kind, masking, seed, number) for number, kind in enumerate(kinds)]
    names = ("input_ids", "target_ids", "position_ids", "block_start", "block_context")
    return Batch(*(torch.from_numpy(np.stack([getattr(s, name) for s in samples]).astype(np.int64)) for name in names))


def _sample(kind: str, masking: MaskingConfig, seed: int, number: int) -> Sample:
    draws = Draws(seed, 0, number)
    tokens = np.random.Generator(np.random.Philox(key=[seed, number])).integers(8, VOCABULARY, 4096).astype(np.int32)
    if kind == "gmask":
        return gmask_sample(tokens[: masking.gmask_row], draws, masking, SPECIAL)
    if kind == "mask":
        return mask_sample(tokens[: masking.mask_row], draws, masking, SPECIAL)
    room = masking.sequence_length // masking.blocks - 2
    pairs = []
    for index in range(masking.blocks - 1):  # one block fewer than fit
        prompt, target = tokens[index * room :][: room * 2 // 3], tokens[index * room :][: 1 + index]
        pairs.append((np.append(prompt[:-1], SPECIAL.mask).astype(np.int32), target))
    return instruction_sample(pairs, masking, SPECIAL)

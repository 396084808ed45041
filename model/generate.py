"""Filling blanks: text with [MASK], [sMASK] or [gMASK] in, text out, from left to right (facts 7).

A [MASK] is filled where it stands, its tokens all at the blank's position; a [gMASK] writes on behind the text. Several blanks
are filled one after the other, each seeing what was written into those before it; without any blank, [gMASK] is added.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from model.glm import GLM, Batch
from model.tokenizer import SPECIAL, Tokenizer

_BLANKS = (SPECIAL.mask, SPECIAL.smask, SPECIAL.gmask)
_ENDS = (SPECIAL.eop, SPECIAL.eod)
_NEVER_WRITTEN = (SPECIAL.pad, SPECIAL.unk, SPECIAL.sop, *_BLANKS)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_tokens: longest filling.
        temperature: 0 takes the likeliest token.
        top_k: likeliest tokens to draw from; 0 for all.
        top_p: smallest set of tokens with at least this probability (nucleus sampling).
        seed: of the draws.
    """

    max_tokens: int = 64
    temperature: float = 0.9
    top_k: int = 0
    top_p: float = 0.7
    seed: int = 1234

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError("max_tokens >= 1, temperature >= 0, top_k >= 0 and 0 < top_p <= 1 are needed")


def fill(model: GLM, tokenizer: Tokenizer, text: str, sampling: Sampling) -> str:
    """The text with every blank filled.

    Raises:
        ValueError: the text leaves no room in the model's sequence.
    """
    ids = tokenizer.encode_prompt(text)
    if not any(token in _BLANKS for token in ids):
        ids.append(SPECIAL.gmask)
    generator = torch.Generator().manual_seed(sampling.seed)
    while any(token in _BLANKS for token in ids):
        at = next(index for index, token in enumerate(ids) if token in _BLANKS)
        ids[at : at + 1] = list(_tokens(model, ids, at, tokenizer.piece_count, sampling, generator))
    return tokenizer.decode(ids)


@torch.inference_mode()
def _tokens(
    model: GLM, context: list[int], at: int, pieces: int, sampling: Sampling, generator: torch.Generator
) -> Iterator[int]:
    """Tokens for the blank at `at`; positions count on behind a [gMASK], and stay put inside a [MASK]."""
    behind = len(context)
    room = model.config.max_sequence - behind - 1
    if room < 1:
        raise ValueError(f"the text has {behind} tokens; with a blank to fill, at most {model.config.max_sequence - 2} fit")
    written: list[int] = []
    for _ in range(min(sampling.max_tokens, room)):
        ids = [*context, SPECIAL.sop, *written]
        targets = range(behind, len(ids)) if context[at] == SPECIAL.gmask else [at] * (len(written) + 1)
        batch = Batch(
            input_ids=torch.tensor([ids]),
            target_ids=torch.full((1, len(ids)), -1),
            position_ids=torch.tensor([[*range(behind), *targets]]),
            block_start=torch.tensor([[0, len(ids)]]),
            block_context=torch.tensor([[behind]]),
        )
        logits_V = model.logits(model.hidden_states(batch)[0, -1])
        logits_V[list(_NEVER_WRITTEN)] = -torch.inf
        logits_V[pieces:] = -torch.inf  # rows that only pad the vocabulary
        token = choose(logits_V, sampling, generator)
        if token in _ENDS:
            return
        written.append(token)
        yield token


def choose(logits_V: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw one token id from scores [V] by temperature, top-k and top-p."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    scores, order = torch.sort(logits_V / sampling.temperature, descending=True, stable=True)
    probabilities = scores.softmax(-1)
    if sampling.top_k:
        probabilities[sampling.top_k :] = 0
    before = probabilities.cumsum(-1) - probabilities
    probabilities[before >= sampling.top_p] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])

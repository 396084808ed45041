"""The text that the model is trained on: lines drawn from the training documents, so many bytes of each language."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from stages._errors import StageError
from stages.tokenizer.params import TRAIN, Params

LANGUAGES = ("en", "zh")
_SENTENCE = 1024  # characters: at most 4,096 bytes, below the 4,192 above which SentencePiece drops a sentence in silence


def sentences(text: str) -> Iterator[str]:
    """Lines of `text` without empty ones, long lines cut: the newline is a piece of its own, so no piece crosses it."""
    for line in text.split("\n"):
        for start in range(0, len(line), _SENTENCE):
            yield line[start : start + _SENTENCE]


def shares(params: Params, available: dict[str, int]) -> dict[str, float]:
    """Share of each language's bytes to take, so that the sample has the asked-for ratio and at most `sample_bytes`.

    Raises:
        StageError: a language that the ratio asks for has no text.
    """
    wanted = {"en": params.english_share * params.sample_bytes, "zh": (1 - params.english_share) * params.sample_bytes}
    for language, size in wanted.items():
        if size and not available.get(language):
            raise StageError(
                f"no training document in {language!r}, but english_share is {params.english_share}",
                file=TRAIN,
                remedy="add a source in that language, or set tokenizer.english_share to 1.0 or 0.0",
            )
    scale = min([1.0, *(available[language] / size for language, size in wanted.items() if size)])
    return {language: scale * size / available[language] if size else 0.0 for language, size in wanted.items()}


def sample(documents: Iterable[dict[str, Any]], share: dict[str, float], seed: int) -> Iterator[str]:
    """Sentences of `documents`, each kept with its language's share; the draw is keyed by seed and document."""
    for document in documents:
        lines = list(sentences(document["text"]))
        key = hashlib.sha256(f"{seed}\n{document['doc_id']}".encode()).digest()
        draw = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "big"))).random(len(lines))
        yield from (line for line, number in zip(lines, draw, strict=True) if number < share.get(document["lang"], 0.0))

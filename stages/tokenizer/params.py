"""Section `tokenizer` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from stages._params import Fraction, Positive, Range, Seed

TRAIN = "data/decontaminate/train/documents"


@dataclass(frozen=True)
class Params:
    """Section `tokenizer` of params.yaml; the embedding gets a multiple of pad_multiple x tensor_parallel rows."""

    vocab_size: Annotated[int, Range(512, 2**20)]
    character_coverage: Annotated[float, Range(0.5, 1.0)]
    sample_bytes: Positive
    english_share: Fraction
    split_digits: bool
    blank_runs: Annotated[int, Range(1, 80)]
    max_piece_characters: Annotated[int, Range(1, 64)]
    seed_pieces: Positive
    pad_multiple: Positive
    threads: Annotated[int, Range(1, 1024)]
    seed: Seed
    tensor_parallel: Annotated[int, Range(1, 1024)] = 1

"""Trains the bilingual SentencePiece unigram model on a byte-balanced sample of the training documents.

Reads:    data/decontaminate (train/documents to train on, heldout/documents to measure on)
Writes:   data/tokenizer: tokenizer.model, tokenizer.json, report.json
Params:   tokenizer
Promises: special tokens at their fixed ids; every text survives encode and decode unchanged; the same documents and
          parameters give the same bytes in any folder (sentences go in by iterator and the model comes out by a buffer, so
          no path enters it; the thread count decides the order of float sums and is a parameter for that reason)

GLM-130B's icetk was trained on 25 GB, half English and half Chinese (paper appendix B.1); its training code was never
released, so coverage, digits and normalisation below are our choice: no normalisation, because what is changed is lost.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stages.tokenizer.build import run
from stages.tokenizer.params import Params
from stages.tokenizer.training import train

if TYPE_CHECKING:
    from stages.tokenizer.measure import composition, fertility, script
    from stages.tokenizer.sampling import sample, sentences, shares

__all__ = ["Params", "composition", "fertility", "run", "sample", "script", "sentences", "shares", "train"]
_LATER = {  # what loads libraries that the process which waits for the trainer does without
    **dict.fromkeys(("composition", "fertility", "script"), "measure"),
    **dict.fromkeys(("sample", "sentences", "shares"), "sampling"),
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Scores the last checkpoint, its quantized exports and n-gram baselines on the held-out documents.

Reads:    data/encode (train, heldout), data/pretrain/checkpoints, data/quantize, data/tokenizer/tokenizer.model
Writes:   data/evaluate: metrics.json, results.json, items.parquet (docs/data.md)
Params:   evaluate
Promises: every model is scored on the same tokens and the same bytes; an export whose parent is not the last checkpoint is
          refused; whoever reads a difference finds its 95 % interval beside it; items are drawn by SHA-256 alone

Two measurements. Bits per byte of whole documents, the GLM's way (`model.scoring`; facts 6.1), against a unigram and a
bigram fitted on the training tokens. And a cloze in LAMBADA's form, the last word of a sentence from what stands before it,
as a choice of five. GLM-130B's own numbers: 0.634 bits per byte on the Pile, 80.2 % on LAMBADA without choices (paper 5.1).

`heldout` reads the tokens, `baselines` are the n-grams, `cloze` makes the items, `statistics` the intervals, `build` the files.
"""

from stages.evaluate.build import Params, run

__all__ = ["Params", "run"]

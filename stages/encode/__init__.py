"""Turns the documents into token shards, with a table that says where each document lies.

Reads:    data/decontaminate (train/documents, heldout/documents), data/tokenizer/tokenizer.model
Writes:   data/encode: {train,heldout}-00000.arrow ..., {train,heldout}.documents.parquet
Params:   encode
Promises: documents in the order of the documents files, each its tokens followed by `eod`; no document crosses a shard;
          offsets count over all shards of the split; memory does not grow with the corpus; workers never change a byte

GLM-130B kept one flat int32 file cut blindly into rows of 2,000 tokens, and with it lost which document a token came from
(data_utils of its training code). The table beside the shards is what lets a sample name its documents.

Which documents a shard holds follows from the bytes of text that the input shards say they have, so that shards are encoded
beside one another, and tokens are written once; where each document lies is added up when all are done.
"""

from stages.encode.build import run
from stages.encode.params import Params
from stages.encode.shard import BATCH_TOKENS, TOKENS
from stages.encode.table import DOCUMENTS

__all__ = ["BATCH_TOKENS", "DOCUMENTS", "TOKENS", "Params", "run"]

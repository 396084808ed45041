"""Checkpoints as safetensors and JSON: nothing in them is ever unpickled.

A checkpoint folder holds `config.json` (settings under "model", and whatever the writer adds, such as a quantization scheme),
`tokenizer.model`, and the parameters in one of two forms: `model.safetensors`, or shards with `model.safetensors.index.json`,
which names every shard with its SHA-256 and may hold the parts of several tensor-parallel ranks.

    folder.py    a folder that appears whole or not at all; reading a model whatever its form
    shards.py    shards and their index: written piece by piece, checked before they are read, read for any tensor-parallel rank
    convert.py   to another tensor-parallel size, and checking a folder through
"""

from model.checkpoint.folder import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    new_folder,
    publish,
    read_model,
    read_tensors,
    stored_bytes,
    weights_file,
    write_checkpoint,
)
from model.checkpoint.shards import INDEX, CheckpointError, Shards

__all__ = [
    "CONFIG",
    "INDEX",
    "TOKENIZER",
    "WEIGHTS",
    "CheckpointError",
    "Shards",
    "new_folder",
    "publish",
    "read_model",
    "read_tensors",
    "stored_bytes",
    "weights_file",
    "write_checkpoint",
]

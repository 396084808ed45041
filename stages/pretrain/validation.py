"""The fixed held-out windows on which a training is measured while it runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from model.glm import Batch
from model.tokenizer import SPECIAL
from stages._runner import StageError

FIELDS = ("step", "samples", "sequences", "targets", "loss")


def held_out(folder: Path, sequences: int, length: int, blocks: int) -> Batch:
    """Windows of held-out text, evenly spread over it: the first half is read both ways, the rest predicted behind a [gMASK].

    There is no random draw in it: the same text gives the same windows, whatever happens in training. GLM-130B validated on
    freshly masked batches (three each 1,000 steps); these are less noisy from one time to the next.

    Args:
        folder: `data/encode`, with shards `heldout-*.arrow` of column `token`.
        sequences: B.
        length: L.
        blocks: N of the batch, of which one is in use: pipelines want all batches of one shape.

    Raises:
        StageError: there is too little held-out text.
    """
    parts = [_tokens(shard) for shard in sorted(folder.glob("heldout-*.arrow"))]
    size = length - 1  # tokens in a window: [gMASK] and sop stand beside them, and the last one is no input
    total = sum(map(len, parts))
    if total < size:
        raise StageError(
            f"{total} held-out tokens are too few for a validation window of {size}",
            file=folder,
            remedy="set pretrain.validation: null, or give the corpus more text",
        )
    stream = np.concatenate(parts)
    start_B = np.arange(sequences) * (total - size) // max(1, sequences - 1)
    window_BS = torch.from_numpy(stream[start_B[:, None] + np.arange(size)].astype(np.int64))
    context = size // 2
    before, after = window_BS[:, :context], window_BS[:, context:]
    special = torch.tensor([[SPECIAL.gmask, SPECIAL.sop]]).expand(sequences, 2)
    nothing = torch.full((sequences, context + 1), -1)
    return Batch(
        input_ids=torch.cat([before, special, after[:, :-1]], dim=1),
        target_ids=torch.cat([nothing, after], dim=1),
        position_ids=torch.arange(length).repeat(sequences, 1),
        block_start=torch.tensor([[0] + [length] * blocks]).repeat(sequences, 1),
        block_context=torch.tensor([[context + 1] + [0] * (blocks - 1)]).repeat(sequences, 1),
    )


def _tokens(shard: Path) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    with pa.memory_map(str(shard)) as source, pa.ipc.open_file(source) as reader:
        column = reader.read_all().column("token").combine_chunks()
    return np.asarray(column.to_numpy(zero_copy_only=False), np.int32)

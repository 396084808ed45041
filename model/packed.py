"""Packed samples as they are stored, and what follows from them: what to predict, and where each position stands.

Of a sample only the input ids are kept whole. In the causal part of a block the target of a position is the input behind it:
`sop` there ends a span, so the target is `eop`, and the target of a block's last position is kept apart. Positions count from
the block's start, but for the spans of a [MASK] block, which stand where their blanks do: one number for each `sop`. NumPy
only, no loop over samples (docs/data.md, "Packed samples").
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.tokenizer import SPECIAL

GMASK_KIND, MASK_KIND, INSTRUCTION_KIND = 0, 1, 2
NO_TARGET = -1
Ids = NDArray[np.int32]


class Stored(NamedTuple):
    """B samples as they are stored: L positions, K blocks, room for S blanks.

    Attributes:
        input_ids: [B, L], `pad` where there is nothing.
        block_start: [B, K + 1], first position of each block, then the end of the last.
        block_context: [B, K], context positions of the block.
        block_last: [B, K], target of the block's last position; -1 where there is no block.
        blank_position: [B, S], position of each span's blank, in the order of the spans' `sop`; 0 behind the last.
        kind: [B], `GMASK_KIND`, `MASK_KIND` or `INSTRUCTION_KIND`.
    """

    input_ids: NDArray[Any]
    block_start: NDArray[Any]
    block_context: NDArray[Any]
    block_last: NDArray[Any]
    blank_position: NDArray[Any]
    kind: NDArray[Any]


def targets_and_positions(packed: Stored) -> tuple[Ids, Ids]:
    """What the stored columns imply: (target ids, -1 where there is no loss; position ids, 0 on padding), both [B, L].

    Never raises on columns whose content is damaged: the gate shows what they would have trained.
    """
    ids = np.asarray(packed.input_ids, np.int32)
    number, length = ids.shape
    bounds = np.clip(packed.block_start, 0, length).astype(np.int32)
    bounds[:, 0], bounds[:, -1] = 0, length
    np.maximum.accumulate(bounds, axis=1, out=bounds)
    size = np.diff(bounds, axis=1)
    context = np.clip(packed.block_context, 0, size).astype(np.int32)
    parts = np.stack([context, size - context], axis=2)  # of each block: context, then what is causal
    rest = np.repeat(np.tile([False, True], size.size), parts.ravel()).reshape(number, length)
    rest &= ids != SPECIAL.pad
    positions = np.arange(length, dtype=np.int32) - np.repeat(bounds[:, :-1].ravel(), size.ravel()).reshape(number, length)
    positions[ids == SPECIAL.pad] = 0
    return _targets(ids, rest, size, packed.block_last), _at_blanks(positions, ids, rest, packed)


def _targets(ids: Ids, rest: NDArray[np.bool_], size: Ids, block_last: NDArray[Any]) -> Ids:
    following = np.empty_like(ids)
    following[:, :-1], following[:, -1] = ids[:, 1:], SPECIAL.pad
    following[following == SPECIAL.sop] = SPECIAL.eop
    following[~rest] = NO_TARGET
    last = rest.copy()
    last[:, :-1] &= ~rest[:, 1:]
    row, place = np.nonzero(last)
    ends = np.cumsum(size, axis=1)
    block = (place[:, None] >= ends[row]).sum(axis=1).clip(max=size.shape[1] - 1)
    following[row, place] = block_last[row, block]
    return following


def _at_blanks(positions: Ids, ids: Ids, rest: NDArray[np.bool_], packed: Stored) -> Ids:
    """`positions` with those of [MASK] spans moved to their blanks."""
    rows = np.flatnonzero(packed.kind == MASK_KIND)
    spans = rest[rows]
    number = np.cumsum((ids[rows] == SPECIAL.sop) & spans, axis=1, dtype=np.int32)
    of_row, place = np.nonzero(spans)
    span = number[of_row, place].clip(1, packed.blank_position.shape[1]) - 1
    positions[rows[of_row], place] = packed.blank_position[rows[of_row], span]
    return positions

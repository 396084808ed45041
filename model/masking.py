"""Autoregressive blank infilling: how a row of tokens becomes a training sample.

Exactly GLM-130B's construction (paper 2.2; facts 3.2, 3.3, 1.4) as functions of a row and of `Draws`, a counter-based
stream keyed by (seed, epoch, sample): any sample can be made again alone. NumPy only. This is the definition; the pack stage
runs a compiled twin of it, and `glm replay` makes samples by it.

The published code pads every [MASK] block to 512 and cuts what does not fit, which loses 35.8 % of the targets
(`truncation: published`). With `keep_all` blocks follow each other without padding, and when four of them would not fit into
the sequence, whole spans are given back to the context: no target is ever cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.packed import GMASK_KIND, INSTRUCTION_KIND, MASK_KIND, NO_TARGET, Ids
from model.tokenizer import SpecialTokens

TRUNCATIONS = ("published", "keep_all")


@dataclass(frozen=True)
class MaskingConfig:
    """Settings of both objectives; the published values stand in `params.yaml`, section pack.

    Attributes:
        sequence_length: positions in a sample, L.
        blocks: samples packed in one [MASK] or instruction sequence.
        gmask_row, mask_row: tokens of text behind a [gMASK] or a [MASK] sequence.
        gmask_probability: share of [gMASK] among self-supervised sequences.
        gmask_min_ratio: shortest [gMASK] target, as a share of the row.
        mask_ratio: share of a [MASK] block's tokens to hide.
        span_lambda, span_max: zero-truncated Poisson of the span lengths.
        short_probability, short_minimum: now and then a block is cut to a random length of at least this.
        single_span_probability: now and then a block has one span alone.
        truncation: `published` gives each of several blocks sequence_length / blocks positions and cuts what is over them;
            `keep_all` cuts nothing.
    """

    sequence_length: int
    blocks: int
    gmask_row: int
    mask_row: int
    gmask_probability: float
    gmask_min_ratio: float
    mask_ratio: float
    span_lambda: float
    span_max: int
    short_probability: float
    short_minimum: int
    single_span_probability: float
    truncation: str = "keep_all"

    @property
    def block_room(self) -> int | None:
        """Positions that each block of a published [MASK] or instruction sequence is cut and padded to; None: no such size."""
        return self.sequence_length // self.blocks if self.truncation == "published" else None

    @property
    def most_blanks(self) -> int:
        """Blanks in a sequence at most: each hides a token, and a block gets no further span once its share is hidden."""
        return self.blocks * max(1, int(self.mask_ratio * (self.mask_row // self.blocks)))

    def __post_init__(self) -> None:
        if self.gmask_row + 2 > self.sequence_length:
            raise ValueError("gmask_row needs two positions more ([gMASK], sop) than sequence_length has")
        if self.mask_row % self.blocks or self.mask_row + 2 * self.blocks > self.sequence_length:
            raise ValueError("mask_row must be a multiple of blocks and leave two positions a block for [MASK] and sop")
        if self.short_minimum > self.mask_row // self.blocks:
            raise ValueError("short_minimum must not be over a block's tokens, mask_row / blocks")
        if self.truncation not in TRUNCATIONS:
            raise ValueError(f"truncation must be one of {', '.join(TRUNCATIONS)}")
        if self.truncation == "published" and self.sequence_length % self.blocks:
            raise ValueError("sequence_length must be a multiple of blocks with truncation: published")


@dataclass(frozen=True)
class Sample:
    """One training sequence: what is stored of it, what follows from that (`model.packed`), and what was used.

    Attributes:
        kind: which objective.
        input_ids: [L], `pad` where there is nothing.
        target_ids: [L], -1 where there is no loss.
        position_ids: [L], 0 on padding.
        block_start: [K + 1], first position of each block, then the end of the last.
        block_context: [K], context positions.
        block_last: [K], target of a block's last position, -1 without a block.
        blank_position: [S], position of each span's blank in the order of the spans' `sop`, 0 behind the last.
        spent: (offset in the row, tokens) of the text that is fed, as context or as target.
        lost: targets that were cut off.
        beyond: targets that blocks of sequence_length / blocks positions would cut off, whether or not they are cut here.
    """

    kind: int
    input_ids: Ids
    target_ids: Ids
    position_ids: Ids
    block_start: Ids
    block_context: Ids
    block_last: Ids
    blank_position: Ids
    spent: tuple[tuple[int, int], ...]
    lost: int
    beyond: int


class Draws:
    """Random numbers of one sample, from Philox with key (seed, epoch) and the sample's number in the counter.

    Only the raw 64-bit stream of the generator is used (it is fixed by its definition); what is made of it stands here.
    """

    def __init__(self, seed: int, epoch: int, sample: int) -> None:
        key = np.array([seed, epoch], dtype=np.uint64)
        counter = np.array([0, 0, sample, 0], dtype=np.uint64)
        self._philox = np.random.Philox(key=key, counter=counter)

    def uniform(self) -> float:
        """Uniform in [0, 1), 53 bits."""
        return (int(self._philox.random_raw()) >> 11) * 2.0**-53

    def below(self, limit: int) -> int:
        """Uniform integer in [0, limit)."""
        return int(self.uniform() * limit)

    def choose(self, count: int, limit: int) -> list[int]:
        """`count` distinct integers of [0, limit), in random order (partial Fisher-Yates)."""
        moved: dict[int, int] = {}
        chosen = []
        for index in range(count):
            other = index + self.below(limit - index)
            chosen.append(moved.get(other, other))
            moved[other] = moved.get(index, index)
        return chosen

    def span_length(self, lam: float, longest: int) -> int:
        """Zero-truncated Poisson(lam), at most `longest`."""
        return int(np.searchsorted(poisson_cdf(lam, longest), self.uniform(), side="right")) + 1


@lru_cache(maxsize=8)
def poisson_cdf(lam: float, longest: int) -> NDArray[np.float64]:
    """P(length <= n) for n = 1..longest of a zero-truncated Poisson(lam) that is cut off at `longest`."""
    weights = np.array([math.exp(n * math.log(lam) - math.lgamma(n + 1)) for n in range(1, longest + 1)])
    cdf = np.cumsum(weights / weights.sum())
    cdf[-1] = 1.0
    return cdf


def sample_kind(draws: Draws, config: MaskingConfig) -> int:
    """The first draw of a self-supervised sample: [gMASK] or [MASK]."""
    return GMASK_KIND if draws.uniform() < config.gmask_probability else MASK_KIND


def gmask_sample(row: Ids, draws: Draws, config: MaskingConfig, special: SpecialTokens) -> Sample:
    """`prefix [gMASK] sop target`: the target's length is uniform in [min_ratio * len, len]; no eop (facts 3.3).

    Args:
        row: [n] tokens, 1 <= n <= gmask_row.
        draws: the sample's draws, after `sample_kind`.
    """
    shortest = max(1, int(config.gmask_min_ratio * len(row)))
    length = shortest + draws.below(len(row) - shortest + 1)
    prefix, target = row[: len(row) - length], row[len(row) - length :]
    inputs = np.concatenate([prefix, [special.gmask, special.sop], target[:-1]])
    targets = np.concatenate([np.full(len(prefix) + 1, NO_TARGET), target])
    block = _Block(inputs, targets, np.arange(len(inputs)), len(prefix) + 1)
    return _assemble(GMASK_KIND, [block], config, special, ((0, len(row)),))


def mask_sample(row: Ids, draws: Draws, config: MaskingConfig, special: SpecialTokens) -> Sample:
    """`blocks` short samples with several [MASK] spans each (facts 3.2).

    Args:
        row: [n] tokens, blocks <= n <= mask_row; cut into `blocks` equal pieces (the last takes the rest).
        draws: the sample's draws, after `sample_kind`.
    """
    bounds = np.linspace(0, len(row), config.blocks + 1).astype(int)
    used, plans = [], []
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        length = end - start
        if length > config.short_minimum and draws.uniform() < config.short_probability:
            length = config.short_minimum + draws.below(length - config.short_minimum)
        used.append((start, length))
        plans.append(_span_plan(length, draws, config))
    if config.block_room is None:
        room = (config.sequence_length - sum(length for _, length in used)) // 2
        while sum(map(len, plans)) > room:  # each span costs two positions, its [MASK] and its sop
            max(plans, key=len).pop()
    blocks, spent = [], []
    for (start, length), plan in zip(used, plans, strict=True):
        spans = _place(length, plan, draws)
        order = draws.choose(len(spans), len(spans))
        blocks.append(_infill(row[start : start + length], spans, order, special))
        spent += [(start + at, tokens) for at, tokens in _fed(length, spans, order, config.block_room)]
    return _assemble(MASK_KIND, blocks, config, special, tuple(spent))


def instruction_sample(pairs: list[tuple[Ids, Ids]], config: MaskingConfig, special: SpecialTokens) -> Sample:
    """Packed `prompt ... [MASK] sop target` -> `target eop`, positions plain arange as in the published run (facts 1.4).

    Args:
        pairs: at most `blocks` of (prompt ending in [MASK], target), each at most sequence_length / blocks long in all.
    """
    blocks = []
    for prompt, target in pairs:
        inputs = np.concatenate([prompt, [special.sop], target])
        targets = np.concatenate([np.full(len(prompt), NO_TARGET), target, [special.eop]])
        blocks.append(_Block(inputs, targets, np.arange(len(inputs)), len(prompt)))
    return _assemble(INSTRUCTION_KIND, blocks, config, special, ())


@dataclass(frozen=True)
class _Block:
    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    positions: NDArray[np.int64]
    context: int


def _span_plan(length: int, draws: Draws, config: MaskingConfig) -> list[int]:
    """Span lengths for a block of `length` tokens; leaves room for an unmasked token between any two."""
    single = draws.uniform() < config.single_span_probability
    wanted = max(1, int(config.mask_ratio * length))
    longest = max(1, min(config.span_max, length - 1))
    plan = [draws.span_length(config.span_lambda, longest)]
    while not single and sum(plan) < wanted:
        plan.append(draws.span_length(config.span_lambda, longest))
    while sum(plan) + len(plan) - 1 > length and len(plan) > 1:
        plan.pop()
    return plan


def _place(length: int, plan: list[int], draws: Draws) -> list[tuple[int, int]]:
    """(start, length) of each span in text order: uniform over all placements without touching spans."""
    unmasked = length - sum(plan)
    gaps = sorted(draws.choose(len(plan), unmasked + 1))
    spans, masked = [], 0
    for gap, span in zip(gaps, plan, strict=True):
        spans.append((gap + masked, span))
        masked += span
    return spans


def _infill(tokens: Ids, spans: list[tuple[int, int]], order: list[int], special: SpecialTokens) -> _Block:
    """Corrupted context, then the spans in `order`; a span's positions are all that of its [MASK]."""
    context: list[int] = []
    where, cursor = [], 0
    for start, length in spans:
        context += tokens[cursor:start].tolist()
        where.append(len(context))
        context.append(special.mask)
        cursor = start + length
    context += tokens[cursor:].tolist()
    inputs, targets = list(context), [NO_TARGET] * len(context)
    positions = list(range(len(context)))
    for index in order:
        start, length = spans[index]
        span = tokens[start : start + length].tolist()
        inputs += [special.sop, *span]
        targets += [*span, special.eop]
        positions += [where[index]] * (length + 1)
    return _Block(np.array(inputs), np.array(targets), np.array(positions), len(context))


def _fed(length: int, spans: list[tuple[int, int]], order: list[int], room: int | None) -> list[tuple[int, int]]:
    """(start, tokens) of the runs of a block's text that are left when it is cut to `room` positions."""
    if room is None:
        return [(0, length)]
    left = room - (length - sum(span for _, span in spans) + len(spans))
    kept = [0] * len(spans)
    for index in order:
        kept[index] = min(max(left, 0), spans[index][1])
        left -= spans[index][1] + 1
    runs, begin = [], 0
    for (start, span), tokens in zip(spans, kept, strict=True):
        if tokens < span:
            runs.append((begin, start + tokens - begin))
            begin = start + span
    return [run for run in (*runs, (begin, length - begin)) if run[1]]


def _assemble(
    kind: int, blocks: list[_Block], config: MaskingConfig, special: SpecialTokens, spent: tuple[tuple[int, int], ...]
) -> Sample:
    length = config.sequence_length
    room = config.block_room if kind != GMASK_KIND else None
    input_ids = np.full(length, special.pad, dtype=np.int32)
    target_ids = np.full(length, NO_TARGET, dtype=np.int32)
    position_ids = np.zeros(length, dtype=np.int32)
    block_start = np.zeros(config.blocks + 1, dtype=np.int32)
    block_context = np.zeros(config.blocks, dtype=np.int32)
    block_last = np.full(config.blocks, NO_TARGET, dtype=np.int32)
    cursor = lost = beyond = 0
    for index, block in enumerate(blocks):
        size = len(block.inputs)
        if kind != GMASK_KIND:
            beyond += max(0, size - length // config.blocks)
        kept = size if room is None else min(size, room)
        lost += size - kept
        end = cursor + kept
        if end > length or block.context >= kept:
            raise ValueError(f"{size} positions, {block.context} of them context, do not fit behind {cursor} of {length}")
        input_ids[cursor:end] = block.inputs[:kept]
        target_ids[cursor:end] = block.targets[:kept]
        position_ids[cursor:end] = block.positions[:kept]
        block_context[index] = block.context
        block_last[index] = block.targets[kept - 1]
        cursor += kept if room is None else room
        block_start[index + 1] = cursor
    block_start[len(blocks) + 1 :] = cursor
    blank_position = np.zeros(config.most_blanks, dtype=np.int32)
    if kind == MASK_KIND:
        blanks = position_ids[(input_ids == special.sop) & (target_ids != NO_TARGET)]
        blank_position[: len(blanks)] = blanks
    arrays = (input_ids, target_ids, position_ids, block_start, block_context, block_last, blank_position)
    return Sample(kind, *arrays, spent, lost, beyond)

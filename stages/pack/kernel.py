"""Packs many samples in one pass: `model.masking` compiled, equal to it sample by sample.

Names and order follow the definition, function by function; what is drawn, in which order, is the same. A batch is written
into arrays made once (`Batch`), so that packing takes no memory that grows with the corpus.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model import masking
from model.masking import MaskingConfig
from model.packed import GMASK_KIND, INSTRUCTION_KIND, MASK_KIND, NO_TARGET
from model.tokenizer import SPECIAL
from stages import _jit
from stages.pack import philox
from stages.pack.philox import begin, below, choose, uniform

SAMPLES, TARGETS, LOST, BEYOND = range(4)  # columns of a tally
_PAD, _MASK, _GMASK, _SOP, _EOP = SPECIAL.pad, SPECIAL.mask, SPECIAL.gmask, SPECIAL.sop, SPECIAL.eop

_kernel = _jit.kernels(__file__, philox.__file__)


class Rules(NamedTuple):
    """`MaskingConfig` as numbers; `room` is 0 where nothing is cut. Row n of `cdf` is that of span lengths up to n."""

    length: int
    blocks: int
    gmask_row: int
    mask_row: int
    gmask_probability: float
    gmask_min_ratio: float
    mask_ratio: float
    span_max: int
    short_probability: float
    short_minimum: int
    single_probability: float
    room: int
    cdf: NDArray[np.float64]

    @classmethod
    def of(cls, config: MaskingConfig) -> Rules:
        """The rules of a configuration."""
        most = min(config.span_max, max(1, config.mask_row // config.blocks - 1))
        cdf = np.ones((most + 1, most))
        for longest in range(1, most + 1):
            cdf[longest, :longest] = masking.poisson_cdf(config.span_lambda, longest)
        return cls(
            config.sequence_length, config.blocks, config.gmask_row, config.mask_row, config.gmask_probability,
            config.gmask_min_ratio, config.mask_ratio, config.span_max, config.short_probability, config.short_minimum,
            config.single_span_probability, config.block_room or 0, cdf,
        )  # fmt: skip


class Batch(NamedTuple):
    """Room for a number of samples; the fields of `model.packed.Packed` and the masking epoch."""

    input_ids: NDArray[Any]
    block_start: NDArray[Any]
    block_context: NDArray[Any]
    block_last: NDArray[Any]
    blank_position: NDArray[Any]
    kind: NDArray[Any]
    epoch: NDArray[Any]

    @classmethod
    def empty(cls, rows: int, config: MaskingConfig) -> Batch:
        """Room for `rows` samples, not yet written."""
        blanks = np.uint16 if config.sequence_length <= 2**16 else np.int32
        shapes = (config.sequence_length, config.blocks + 1, config.blocks, config.blocks)
        ids, start, context, last = (np.empty((rows, size), np.int32) for size in shapes)
        blank = np.empty((rows, config.most_blanks), blanks)
        return cls(ids, start, context, last, blank, np.empty(rows, np.int8), np.empty(rows, np.int32))

    def part(self, first: int, end: int) -> Batch:
        """Rows [first, end), sharing memory."""
        return Batch(*(column[first:end] for column in self))


class Runs(NamedTuple):
    """Room for the runs of text that samples use: row in the batch, place in the window of tokens, tokens."""

    sample: NDArray[np.int32]
    start: NDArray[np.int64]
    length: NDArray[np.int32]

    @classmethod
    def empty(cls, rows: int, config: MaskingConfig) -> Runs:
        """Room for all that `rows` samples may need."""
        most = rows * (config.blocks + (config.most_blanks if config.block_room else 0))
        return cls(np.empty(most, np.int32), np.empty(most, np.int64), np.empty(most, np.int32))


class Scratch(NamedTuple):
    """What one [MASK] sample needs while it is made."""

    length: NDArray[np.int64]
    spans: NDArray[np.int64]
    span: NDArray[np.int64]
    pool: NDArray[np.int64]
    gap: NDArray[np.int64]
    order: NDArray[np.int64]
    where: NDArray[np.int64]
    kept: NDArray[np.int64]

    @classmethod
    def of(cls, config: MaskingConfig) -> Scratch:
        """Room for a sample of this configuration."""
        most = config.most_blanks // config.blocks
        shapes: list[Any] = [config.blocks, config.blocks, (config.blocks, most), config.mask_row + 1, most, most, most, most]
        return cls(*(np.zeros(shape, np.int64) for shape in shapes))


@_kernel
def draw_kinds(seed: Any, epoch: Any, first: Any, rules: Any, kinds: Any) -> Any:
    """Kinds of the self-supervised samples from `first` on; gives the tokens that they take together."""
    state = np.empty(philox.STATE, np.uint64)
    tokens = 0
    for row in range(len(kinds)):
        begin(state, seed, epoch, first + row)
        gmask = uniform(state) < rules.gmask_probability
        kinds[row] = GMASK_KIND if gmask else MASK_KIND
        tokens += rules.gmask_row if gmask else rules.mask_row
    return tokens


@_kernel
def rows_within(seed: Any, epoch: Any, tokens: Any, rules: Any) -> Any:
    """How many rows of an epoch, laid end to end, `tokens` tokens hold."""
    state = np.empty(philox.STATE, np.uint64)
    row = used = 0
    while True:
        begin(state, seed, epoch, row)
        used += rules.gmask_row if uniform(state) < rules.gmask_probability else rules.mask_row
        if used > tokens:
            return row
        row += 1


@_kernel
def tokens_before(seed: Any, epoch: Any, rows: Any, rules: Any) -> Any:
    """Tokens of the rows of an epoch before each of the ascending `rows`."""
    state = np.empty(philox.STATE, np.uint64)
    before = np.empty(len(rows), np.int64)
    row = used = 0
    for place in range(len(rows)):
        while row < rows[place]:
            begin(state, seed, epoch, row)
            used += rules.gmask_row if uniform(state) < rules.gmask_probability else rules.mask_row
            row += 1
        before[place] = used
    return before


@_kernel
def pack_text(
    seed: Any, epoch: Any, first: Any, tokens: Any, batch: Any, rules: Any, scratch: Any, runs: Any, tally: Any
) -> Any:
    """Write self-supervised samples `first` and following from the tokens of their rows, which lie end to end.

    Gives the number of runs written; adds to `tally` [kind, (samples, targets, lost, beyond)].
    """
    state = np.empty(philox.STATE, np.uint64)
    at = found = 0
    for row in range(len(batch.kind)):
        begin(state, seed, epoch, first + row)
        batch.epoch[row] = epoch
        if uniform(state) < rules.gmask_probability:
            _gmask_sample(state, tokens, at, batch, row, rules, tally)
            runs.sample[found], runs.start[found], runs.length[found] = row, at, rules.gmask_row
            found += 1
            at += rules.gmask_row
        else:
            found = _mask_sample(state, tokens, at, batch, row, rules, scratch, runs, found, tally)
            at += rules.mask_row
    return found


@_kernel
def _gmask_sample(state: Any, tokens: Any, at: Any, batch: Any, row: Any, rules: Any, tally: Any) -> None:
    size = rules.gmask_row
    shortest = max(1, np.int64(rules.gmask_min_ratio * size))
    target = shortest + below(state, size - shortest + 1)
    prefix, ids = size - target, batch.input_ids[row]
    for place in range(prefix):
        ids[place] = tokens[at + place]
    ids[prefix], ids[prefix + 1] = _GMASK, _SOP
    for place in range(prefix, size - 1):
        ids[place + 2] = tokens[at + place]
    ids[size + 1 :] = _PAD
    batch.kind[row] = GMASK_KIND
    batch.block_start[row], batch.block_start[row, 0] = size + 1, 0
    batch.block_context[row], batch.block_context[row, 0] = 0, prefix + 1
    batch.block_last[row], batch.block_last[row, 0] = NO_TARGET, tokens[at + size - 1]
    batch.blank_position[row] = 0
    tally[GMASK_KIND, SAMPLES] += 1
    tally[GMASK_KIND, TARGETS] += target


@_kernel
def _mask_sample(
    state: Any, tokens: Any, at: Any, batch: Any, row: Any, rules: Any, scratch: Any, runs: Any, found: Any, tally: Any
) -> Any:
    spans = used = 0
    size = rules.mask_row // rules.blocks
    for block in range(rules.blocks):
        length = size
        if length > rules.short_minimum and uniform(state) < rules.short_probability:
            length = rules.short_minimum + below(state, length - rules.short_minimum)
        scratch.length[block] = length
        scratch.spans[block] = _span_plan(state, length, scratch.span[block], rules)
        spans += scratch.spans[block]
        used += length
    if rules.room == 0:
        while spans > (rules.length - used) // 2:
            scratch.spans[np.argmax(scratch.spans)] -= 1
            spans -= 1
    batch.kind[row] = MASK_KIND
    batch.block_start[row, 0] = 0
    cursor = blanks = 0
    for block in range(rules.blocks):
        end, blanks = _infill(state, tokens, at + block * size, batch, row, block, cursor, blanks, rules, scratch, tally)
        found = _fed(at + block * size, row, block, rules, scratch, runs, found)
        cursor = cursor + rules.room if rules.room else end
        batch.input_ids[row, end:cursor] = _PAD
        batch.block_start[row, block + 1] = cursor
    batch.input_ids[row, cursor:] = _PAD
    batch.blank_position[row, blanks:] = 0
    tally[MASK_KIND, SAMPLES] += 1
    return found


@_kernel
def _span_plan(state: Any, length: Any, span: Any, rules: Any) -> Any:
    single = uniform(state) < rules.single_probability
    wanted = max(1, np.int64(rules.mask_ratio * length))
    longest = max(1, min(rules.span_max, length - 1))
    span[0] = masked = _span_length(state, rules.cdf[longest])
    count = 1
    while not single and masked < wanted:
        span[count] = _span_length(state, rules.cdf[longest])
        masked += span[count]
        count += 1
    while masked + count - 1 > length and count > 1:
        count -= 1
        masked -= span[count]
    return count


@_kernel
def _span_length(state: Any, cdf: Any) -> Any:
    drawn = uniform(state)
    length = 0
    while cdf[length] <= drawn:
        length += 1
    return length + 1


@_kernel
def _infill(
    state: Any, tokens: Any, at: Any, batch: Any, row: Any, block: Any, cursor: Any, blanks: Any, rules: Any, scratch: Any,
    tally: Any,
) -> Any:  # fmt: skip
    """Write one block from position `cursor` on; gives the end of what is written, and of the row's blanks."""
    length, count, span, gap = scratch.length[block], scratch.spans[block], scratch.span[block], scratch.gap
    masked = span[:count].sum()
    choose(state, count, length - masked + 1, scratch.pool, gap)
    gap[:count].sort()
    ids, start, read, masked = batch.input_ids[row], cursor, at, 0
    for index in range(count):
        gap[index] += masked  # unmasked tokens before the span so far, from here on where it starts
        masked += span[index]
        for place in range(read, at + gap[index]):
            ids[cursor] = tokens[place]
            cursor += 1
        scratch.where[index] = cursor - start
        ids[cursor] = _MASK
        cursor += 1
        read = at + gap[index] + span[index]
    for place in range(read, at + length):
        ids[cursor] = tokens[place]
        cursor += 1
    context = cursor - start
    choose(state, count, count, scratch.pool, scratch.order)
    room = start + rules.room if rules.room else rules.length
    target = 0
    for place in range(count):
        index = scratch.order[place]
        left, first = room - cursor, at + gap[index]
        scratch.kept[index] = min(max(left, 0), span[index])
        if left > 0:
            batch.blank_position[row, blanks] = scratch.where[index]
            blanks += 1
            ids[cursor] = _SOP
            for token in range(min(left - 1, span[index])):
                ids[cursor + 1 + token] = tokens[first + token]
            target = tokens[first + left - 1] if left <= span[index] else _EOP
        cursor += span[index] + 1
    kept = min(cursor, room)
    batch.block_context[row, block], batch.block_last[row, block] = context, target
    tally[MASK_KIND, TARGETS] += kept - start - context
    tally[MASK_KIND, LOST] += cursor - kept
    tally[MASK_KIND, BEYOND] += max(0, cursor - start - rules.length // rules.blocks)
    return kept, blanks


@_kernel
def _fed(at: Any, row: Any, block: Any, rules: Any, scratch: Any, runs: Any, found: Any) -> Any:
    """Write the runs of a block's text that are left after the cut."""
    begin_ = 0
    for index in range(scratch.spans[block] if rules.room else 0):
        if scratch.kept[index] < scratch.span[block, index]:
            end = scratch.gap[index] + scratch.kept[index]
            if end > begin_:
                runs.sample[found], runs.start[found], runs.length[found] = row, at + begin_, end - begin_
                found += 1
            begin_ = scratch.gap[index] + scratch.span[block, index]
    if scratch.length[block] > begin_:
        runs.sample[found], runs.start[found], runs.length[found] = row, at + begin_, scratch.length[block] - begin_
        found += 1
    return found


@_kernel
def trace(runs: Any, found: Any, first_document: Any, documents: Any, bounds: Any, sample: Any, pieces: Any) -> Any:
    """Cut runs where documents end: writes (sample, doc_index, offset in the document, length) and gives their number.

    `bounds` [n + 1] are the starts, in the window's places, of document `first_document` and those behind it on the ring of
    `documents`, then the end of the last; `sample` is the number of the batch's first row.
    """
    document = written = 0
    for run in range(found):
        at, end = runs.start[run], runs.start[run] + runs.length[run]
        while bounds[document + 1] <= at:
            document += 1
        while at < end:
            until = min(end, bounds[document + 1])
            if until > at:
                pieces[0][written] = sample + runs.sample[run]
                pieces[1][written] = (first_document + document) % documents
                pieces[2][written] = at - bounds[document]
                pieces[3][written] = until - at
                written += 1
            at = until
            if at < end:
                document += 1
    return written


@_kernel
def draw_instructions(seed: Any, epoch: Any, first: Any, available: Any, chosen: Any) -> None:
    """Which instruction samples share each sequence: [rows, blocks] with replacement (facts 3.6)."""
    state = np.empty(philox.STATE, np.uint64)
    for row in range(len(chosen)):
        begin(state, seed, epoch, first + row)
        for block in range(chosen.shape[1]):
            chosen[row, block] = below(state, available)


@_kernel
def pack_instructions(epoch: Any, chosen: Any, ids: Any, bounds: Any, prompt: Any, batch: Any, rules: Any, tally: Any) -> None:
    """Write instruction sequences: sample c is `ids[bounds[c]:bounds[c + 1]]`, of which `prompt[c]` are its prompt."""
    for row in range(len(batch.kind)):
        line, cursor = batch.input_ids[row], 0
        batch.kind[row], batch.epoch[row], batch.blank_position[row] = INSTRUCTION_KIND, epoch, 0
        batch.block_start[row, 0] = 0
        for block in range(rules.blocks):
            one = chosen[row, block]
            first, size, context = bounds[one], bounds[one + 1] - bounds[one], prompt[one]
            for place in range(context):
                line[cursor + place] = ids[first + place]
            line[cursor + context] = _SOP
            for place in range(context, size):
                line[cursor + 1 + place] = ids[first + place]
            end = cursor + size + 1
            cursor = cursor + rules.room if rules.room else end
            line[end:cursor] = _PAD
            batch.block_start[row, block + 1] = cursor
            batch.block_context[row, block], batch.block_last[row, block] = context, _EOP
            tally[INSTRUCTION_KIND, TARGETS] += size - context + 1
        line[cursor:] = _PAD
        tally[INSTRUCTION_KIND, SAMPLES] += 1

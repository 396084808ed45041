"""The rules of a [MASK] sample, one by one, where the published construction gives a number for each (facts 3.2)."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from model.masking import NO_TARGET, Draws, MaskingConfig, Sample, mask_sample
from model.tokenizer import SPECIAL

PUBLISHED = MaskingConfig(2048, 4, 2000, 2000, 0.7, 0.2, 0.15, 3.0, 39, 0.02, 32, 0.02, "published")
UNCUT = replace(PUBLISHED, sequence_length=4096, gmask_row=2000)  # room for every span: what is drawn is what is seen
ROW = np.arange(100, 2100, dtype=np.int32)


def made(config: MaskingConfig, count: int) -> list[Sample]:
    return [mask_sample(ROW, Draws(1130, 0, number), config, SPECIAL) for number in range(count)]


def blocks(sample: Sample) -> list[tuple[list[int], list[list[int]], list[int]]]:
    """(context, targets of each span in the order of learning, position of each span) of every block."""
    found = []
    for index, context in enumerate(sample.block_context.tolist()):
        start, end = sample.block_start[index : index + 2].tolist()
        ids = sample.input_ids[start:end]
        end = start + int((ids != SPECIAL.pad).sum())
        sops = [place for place in range(start + context, end) if sample.input_ids[place] == SPECIAL.sop]
        spans = [sample.target_ids[a:b].tolist() for a, b in itertools.pairwise([*sops, end])]
        found.append((sample.input_ids[start : start + context].tolist(), spans, sample.position_ids[sops].tolist()))
    return found


def tokens(context: list[int], spans: list[list[int]]) -> int:
    return sum(token != SPECIAL.mask for token in context) + sum(len(span) - 1 for span in spans)


def test_a_row_is_cut_into_four_equal_pieces() -> None:
    sample = mask_sample(ROW, Draws(0, 0, 0), replace(UNCUT, short_probability=0.0), SPECIAL)
    assert [tokens(context, spans) for context, spans, _ in blocks(sample)] == [500] * 4
    assert sample.spent == ((0, 500), (500, 500), (1000, 500), (1500, 500))


def test_two_pieces_in_a_hundred_are_short_of_any_length_in_the_published_range() -> None:
    lengths = [length for sample in made(UNCUT, 1500) for _, length in sample.spent]
    short = [length for length in lengths if length < 500]
    assert len(short) / len(lengths) == pytest.approx(0.02, abs=4 * (0.02 * 0.98 / len(lengths)) ** 0.5)
    assert 32 <= min(short) < 60 and 470 < max(short) < 500
    assert np.mean(short) == pytest.approx(265.5, abs=4 * 468 / 12**0.5 / len(short) ** 0.5)  # uniform in [32, 500)


def test_always_and_never_short() -> None:
    always = {length for sample in made(replace(UNCUT, short_probability=1.0), 500) for _, length in sample.spent}
    assert min(always) >= 32 and max(always) < 500 and len(always) > 400
    never = {length for sample in made(replace(UNCUT, short_probability=0.0), 100) for _, length in sample.spent}
    assert never == {500}


def test_two_pieces_in_a_hundred_have_one_span() -> None:
    config = replace(UNCUT, short_probability=0.0)  # a short piece may have one span anyway
    spans = [len(parts) for sample in made(config, 1500) for _, parts, _ in blocks(sample)]
    share = spans.count(1) / len(spans)
    assert share == pytest.approx(0.02, abs=4 * (0.02 * 0.98 / len(spans)) ** 0.5)
    only = replace(config, single_span_probability=1.0)
    assert {len(parts) for sample in made(only, 50) for _, parts, _ in blocks(sample)} == {1}
    none = replace(config, single_span_probability=0.0)
    assert min(len(parts) for sample in made(none, 300) for _, parts, _ in blocks(sample)) > 5


def test_spans_are_drawn_until_fifteen_percent_are_hidden_and_no_further() -> None:
    for sample in made(replace(UNCUT, short_probability=0.0, single_span_probability=0.0), 300):
        for context, parts, _ in blocks(sample):
            hidden = [len(span) - 1 for span in parts]
            assert sum(hidden) >= 75, "0.15 x 500"
            assert sum(hidden) - max(hidden) < 75, "without its longest span it would not have been enough"
            assert context.count(SPECIAL.mask) == len(parts)


def test_span_lengths_are_a_poisson_of_three_without_zero() -> None:
    """Each length's share, against the formula; the last span of a block is drawn by the same rule as the others."""
    draws = Draws(3, 0, 0)
    lengths = np.bincount([draws.span_length(3.0, 39) for _ in range(40_000)], minlength=14)
    share, factorial = np.zeros(14), 1.0
    for length in range(1, 14):
        factorial *= length
        share[length] = 3.0**length / factorial / (np.exp(3.0) - 1)
    assert lengths[0] == 0
    error = 4 * np.sqrt(share * (1 - share) / 40_000) + 1e-4
    assert (np.abs(lengths[:14] / 40_000 - share) <= error).all()


def test_spans_are_learnt_in_random_order_and_end_in_eop() -> None:
    orders: Counter[tuple[int, ...]] = Counter()
    few = replace(UNCUT, mask_row=80, short_probability=0.0, short_minimum=4, single_span_probability=0.0)
    for number in range(4000):
        sample = mask_sample(ROW[:80], Draws(5, 0, number), few, SPECIAL)
        for context, parts, positions in blocks(sample):
            assert all(span[-1] == SPECIAL.eop and NO_TARGET not in span for span in parts)
            masks = [place for place, token in enumerate(context) if token == SPECIAL.mask]
            assert sorted(positions) == masks
            if len(masks) == 2:
                orders[tuple(masks.index(position) for position in positions)] += 1
    total = sum(orders.values())
    assert total > 2500
    assert orders[0, 1] / total == pytest.approx(0.5, abs=2 / total**0.5)


def test_spans_stand_anywhere_with_equal_chance() -> None:
    """All placements of one span of a token in a piece of 20 are 20, of which none is preferred."""
    config = replace(
        UNCUT, mask_row=80, mask_ratio=0.05, span_max=1, short_probability=0.0, short_minimum=4, single_span_probability=1.0
    )
    places: Counter[int] = Counter()
    for number in range(5000):
        for context, _, _ in blocks(mask_sample(ROW[:80], Draws(6, 0, number), config, SPECIAL)):
            places[context.index(SPECIAL.mask)] += 1
    counts = np.array([places[place] for place in range(20)])
    assert counts.sum() == 20_000
    assert ((counts - 1000) ** 2 / 1000).sum() < 55  # 19 degrees of freedom: above with probability below 1e-4


def test_published_blocks_are_cut_at_512_wherever_that_falls() -> None:
    cut = replace(PUBLISHED, short_probability=0.0, single_span_probability=0.0)
    for one, whole in zip(made(cut, 60), made(replace(cut, sequence_length=4096), 60), strict=True):
        assert one.block_start.tolist() == [0, 512, 1024, 1536, 2048]
        for index in range(4):
            start = int(whole.block_start[index])
            for name in ("input_ids", "target_ids", "position_ids"):
                kept = getattr(one, name)[512 * index : 512 * (index + 1)]
                assert kept.tolist() == getattr(whole, name)[start : start + 512].tolist(), name
        sizes = (whole.input_ids.reshape(4, 1024) != SPECIAL.pad).sum(axis=1)
        assert one.lost == sum(max(0, size - 512) for size in sizes.tolist())

"""Blank infilling: every sample can be read back into its row, and the published statistics hold."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.masking import (
    GMASK_KIND,
    MASK_KIND,
    NO_TARGET,
    Draws,
    MaskingConfig,
    Sample,
    gmask_sample,
    instruction_sample,
    mask_sample,
    sample_kind,
)
from model.tokenizer import SPECIAL

LAPTOP = MaskingConfig(256, 4, 254, 224, 0.7, 0.2, 0.15, 3.0, 39, 0.02, 16, 0.02)
PUBLISHED = MaskingConfig(2048, 4, 2000, 1840, 0.7, 0.2, 0.15, 3.0, 39, 0.02, 32, 0.02)


def row(length: int) -> np.ndarray:
    return np.arange(100, 100 + length, dtype=np.int32)


def blocks(sample: Sample) -> list[tuple[list[int], list[int], list[int], int]]:
    """(inputs, targets, positions, context length) of each non-empty block."""
    found = []
    for index, context in enumerate(sample.block_context.tolist()):
        part = slice(sample.block_start[index], sample.block_start[index + 1])
        arrays = (sample.input_ids, sample.target_ids, sample.position_ids)
        if sample.block_start[index] < sample.block_start[index + 1]:
            found.append((*(a[part].tolist() for a in arrays), context))
    return found


def read_back(inputs: list[int], targets: list[int], positions: list[int], context: int) -> list[int]:
    """The tokens of a [MASK] block, its blanks filled from the targets by their positions."""
    spans: dict[int, list[int]] = {}
    for index in range(context, len(inputs)):
        span = spans.setdefault(positions[index], [])
        if inputs[index] == SPECIAL.sop:
            assert not span, "one sop a blank"
        span.append(targets[index])
    text: list[int] = []
    for position, token in enumerate(inputs[:context]):
        if token == SPECIAL.mask:
            *span, end = spans.pop(position)
            assert end == SPECIAL.eop
            text += span
        else:
            text.append(token)
    assert not spans
    return text


@given(st.integers(0, 2**40), st.integers(0, 5), st.integers(4, 224))
def test_mask_samples_lose_and_invent_nothing(sample_number: int, epoch: int, length: int) -> None:
    sample = mask_sample(row(length), Draws(1, epoch, sample_number), LAPTOP, SPECIAL)
    parts = blocks(sample)
    assert len(parts) == len(sample.spent) == 4
    for (start, used), (inputs, targets, positions, context) in zip(sample.spent, parts, strict=True):
        assert read_back(inputs, targets, positions, context) == row(length)[start : start + used].tolist()
        assert positions[:context] == list(range(context))
        assert set(targets[:context]) == {NO_TARGET}
        assert NO_TARGET not in targets[context:]
        masks = [i for i, token in enumerate(inputs[:context]) if token == SPECIAL.mask]
        assert masks, "at least one blank a block"
        assert all(b - a > 1 for a, b in itertools.pairwise(masks)), "an unmasked token between two blanks"
    assert (sample.input_ids[sample.block_start[-1] :] == SPECIAL.pad).all()
    assert (sample.target_ids[sample.block_start[-1] :] == NO_TARGET).all()


@given(st.integers(0, 2**40), st.integers(1, 254))
def test_gmask_samples_hold_the_whole_row(sample_number: int, length: int) -> None:
    sample = gmask_sample(row(length), Draws(9, 0, sample_number), LAPTOP, SPECIAL)
    ((inputs, targets, positions, context),) = blocks(sample)
    assert inputs[context - 1 : context + 1] == [SPECIAL.gmask, SPECIAL.sop]
    assert inputs[: context - 1] + targets[context:] == row(length).tolist()
    assert inputs[context + 1 :] == targets[context:-1], "each target is the next input"
    assert positions == list(range(length + 2 - 1))
    assert len(targets) - context >= max(1, int(0.2 * length))


def test_targets_of_a_gmask_row_have_the_published_range_and_mean() -> None:
    lengths = [
        int((gmask_sample(row(2000), Draws(3, 0, n), PUBLISHED, SPECIAL).target_ids != NO_TARGET).sum()) for n in range(3000)
    ]
    assert (min(lengths), max(lengths)) >= (400, 1990)
    assert max(lengths) <= 2000
    assert np.mean(lengths) == pytest.approx(1200, abs=4 * 462 / 3000**0.5)  # the published code: 1,206


def test_share_of_objectives_and_mean_span_length() -> None:
    kinds = [sample_kind(Draws(3, 0, n), LAPTOP) for n in range(20_000)]
    assert kinds.count(GMASK_KIND) / 20_000 == pytest.approx(0.7, abs=0.013)
    draws = Draws(4, 0, 0)
    lengths = [draws.span_length(3.0, 39) for _ in range(20_000)]
    assert np.mean(lengths) == pytest.approx(3.157, abs=0.05)  # facts 3.2: zero-truncated Poisson(3)
    assert min(lengths) == 1


def test_about_15_percent_are_hidden_and_no_target_is_cut() -> None:
    hidden = used = 0
    for number in range(2000):
        sample = mask_sample(row(1840), Draws(5, 0, number), PUBLISHED, SPECIAL)
        spans = int((sample.input_ids == SPECIAL.sop).sum())
        hidden += int((sample.target_ids != NO_TARGET).sum()) - spans  # one eop a span is no text
        used += sum(length for _, length in sample.spent)
    assert hidden / used == pytest.approx(0.152, abs=0.006)  # the span that reaches 15 % goes over it


def test_a_sample_depends_on_its_key_alone() -> None:
    first = mask_sample(row(224), Draws(1, 2, 3), LAPTOP, SPECIAL)
    again = mask_sample(row(224), Draws(1, 2, 3), LAPTOP, SPECIAL)
    others = [mask_sample(row(224), Draws(*key), LAPTOP, SPECIAL) for key in ((2, 2, 3), (1, 3, 3), (1, 2, 4))]
    assert first.input_ids.tolist() == again.input_ids.tolist()
    assert all(first.input_ids.tolist() != other.input_ids.tolist() for other in others)


def test_the_raw_stream_is_pinned() -> None:
    """Known answers: if these move, no packed data set of the past can be replayed."""
    draws = Draws(1130, 2, 49_300)
    found = [draws.below(1_000_000) for _ in range(4)]
    assert found == [386150, 564979, 195595, 751825]
    assert Draws(7, 0, 1).choose(5, 9) == [0, 5, 8, 6, 2]


def test_instruction_samples_have_plain_positions_and_end_in_eop() -> None:
    pairs = [(np.array([10, 11, SPECIAL.mask], np.int32), np.array([20, 21], np.int32)), (row(3), row(1))]
    sample = instruction_sample(pairs, LAPTOP, SPECIAL)
    first, second = blocks(sample)
    assert first == ([10, 11, SPECIAL.mask, SPECIAL.sop, 20, 21], [-1, -1, -1, 20, 21, SPECIAL.eop], [0, 1, 2, 3, 4, 5], 3)
    assert second[3] == 3
    assert sample.block_start.tolist() == [0, 6, 11, 11, 11]


@pytest.mark.parametrize("wrong", [{"gmask_row": 255}, {"mask_row": 223}, {"mask_row": 252}, {"short_minimum": 57}])
def test_settings_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        dataclasses.replace(LAPTOP, **wrong)


def test_short_rows_and_kinds() -> None:
    sample = mask_sample(row(4), Draws(0, 0, 0), LAPTOP, SPECIAL)
    assert sample.kind == MASK_KIND
    assert [used for _, used in sample.spent] == [1, 1, 1, 1]

"""What stored samples imply, against the definition of a sample; damaged columns never stop it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import masking
from model.masking import Draws, MaskingConfig, Sample
from model.packed import INSTRUCTION_KIND, MASK_KIND, NO_TARGET, Stored, targets_and_positions
from model.tokenizer import SPECIAL

CONFIG = MaskingConfig(128, 4, 120, 112, 0.5, 0.0, 0.3, 2.0, 9, 0.2, 4, 0.2)
CUT = MaskingConfig(128, 4, 120, 112, 0.5, 0.0, 0.6, 1.0, 9, 0.2, 4, 0.2, "published")


def samples(config: MaskingConfig, count: int = 60) -> list[Sample]:
    row, made = np.arange(100, 220, dtype=np.int32), []
    for number in range(count):
        draws = Draws(2, 0, number)
        pair = (np.array([9] * (number % 9) + [SPECIAL.mask], np.int32), row[: 1 + number % 15])
        made += [
            masking.gmask_sample(row, draws, config, SPECIAL),
            masking.mask_sample(row[:112], draws, config, SPECIAL),
            masking.instruction_sample([pair] * (1 + number % 4), config, SPECIAL),
        ]
    return made


def stored(made: list[Sample]) -> Stored:
    return Stored(*(np.stack([getattr(sample, name) for sample in made]) for name in Stored._fields))


@pytest.mark.parametrize("config", [CONFIG, CUT], ids=lambda config: config.truncation)
def test_targets_and_positions_are_those_of_the_definition(config: MaskingConfig) -> None:
    made = samples(config)
    targets, positions = targets_and_positions(stored(made))
    for row, sample in enumerate(made):
        assert np.array_equal(targets[row], sample.target_ids), row
        assert np.array_equal(positions[row], sample.position_ids), row
    assert {sample.kind for sample in made} == {0, MASK_KIND, INSTRUCTION_KIND}
    if config is CUT:
        assert any(sample.lost for sample in made)


def test_a_sample_of_a_batch_is_that_sample_alone() -> None:
    whole = stored(samples(CONFIG, 5))
    targets, positions = targets_and_positions(whole)
    for row in range(len(targets)):
        alone = targets_and_positions(Stored(*(column[row : row + 1] for column in whole)))
        assert np.array_equal(alone[0][0], targets[row])
        assert np.array_equal(alone[1][0], positions[row])


def test_no_sample_at_all() -> None:
    none = Stored(*(column[:0] for column in stored(samples(CONFIG, 1))))
    assert [array.shape for array in targets_and_positions(none)] == [(0, 128), (0, 128)]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(Stored._fields[:-1]), st.integers(0, 2**31), st.sampled_from([-(2**31), -1, 0, 5, 200, 2**31 - 1]))
def test_damage_does_not_stop_it(name: str, place: int, value: int) -> None:
    columns = stored(samples(CONFIG, 2))
    damaged = getattr(columns, name).copy()
    damaged[place % len(damaged), place % damaged.shape[1]] = value
    targets, positions = targets_and_positions(columns._replace(**{name: damaged}))
    assert targets.shape == positions.shape == (6, 128)
    assert targets.min() >= min(NO_TARGET, value)

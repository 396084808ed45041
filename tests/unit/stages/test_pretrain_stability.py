"""The rule that sends a training back, and what the journal keeps of it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from ledger.journal import Journal, Segment
from stages.pretrain.settings import Stability
from stages.pretrain.stability import Course, Spike, SpikeWatch, merged

RULE = Stability(
    window=16, sigmas=6.0, consecutive=2, good_after=3, skip_before=1, skip_after=2,
    learning_rate_factor=0.5, shrink_factor=0.2, returns=3,
)  # fmt: skip


def watch(values: list[float], rule: Stability = RULE) -> list[tuple[int, Spike]]:
    """Steps at which the rule speaks over a series, and what it says."""
    watching = SpikeWatch(rule)
    said = [(step, watching.see(step, {"loss": f"{value:.6f}"})) for step, value in enumerate(values)]
    return [(step, spike) for step, spike in said if spike is not None]


def noise(count: int) -> list[float]:
    return list(np.random.default_rng(5).normal(2.0, 0.1, count))


def test_noise_and_a_falling_loss_are_no_spikes() -> None:
    assert not watch(noise(400))
    assert not watch([5.0 * math.exp(-step / 40) for step in range(200)])


def test_two_steps_in_a_row_above_six_sigma_are() -> None:
    ((step, spike),) = watch([*noise(30), 2.9, 2.9, *noise(10)])
    assert (step, spike.first, spike.last) == (31, 30, 31)
    assert spike.cause.startswith("step 31: loss 2.9, ")
    assert " sigma above " in spike.cause


def test_one_step_alone_is_not_and_does_not_widen_what_the_next_is_compared_with() -> None:
    values = [*noise(30), 9.0, 2.0, 2.9, 2.9]
    ((step, spike),) = watch(values)
    assert (step, spike.first) == (33, 32)


def test_the_rule_is_silent_until_its_window_is_full() -> None:
    assert not watch([*noise(15), 50.0, 50.0])
    assert watch([*noise(16), 50.0, 50.0])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_speaks_at_once(value: float) -> None:
    ((step, spike),) = watch([2.0, 2.0, value])
    assert (step, spike.first, spike.last) == (2, 2, 2)


def test_any_series_counts_and_steps_passed_over_say_nothing() -> None:
    watching = SpikeWatch(RULE)
    for step, value in enumerate(noise(20)):
        assert watching.see(step, {"loss": "2.0", "gradient norm of embedding": f"{value}"}) is None
    assert watching.see(20, {"loss": "", "gradient norm of embedding": ""}) is None
    assert watching.see(21, {"loss": "2.0", "gradient norm of embedding": "5"}) is None
    spike = watching.see(22, {"loss": "2.0", "gradient norm of embedding": "5"})
    assert spike is not None
    assert (spike.first, "embedding" in spike.cause, "loss" in spike.cause) == (21, True, False)


def test_ranges_merge_where_they_touch() -> None:
    assert merged([(8, 9), (3, 5), (6, 6), (8, 12)]) == ((3, 6), (8, 12))
    assert merged([]) == ()


class Training:
    """A journal with a checkpoint every ten steps of one sample each."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal.open(folder / "journal.jsonl")

    @property
    def course(self) -> Course:
        return Course(self.journal)

    def keep(self, finished: int) -> Segment:
        name, course = f"step-{finished:06d}", self.course
        first = course.tip.last_step + 1 if course.tip else 0
        segment = self._segment(first, finished, skipped=course.skipped_within(first, finished - 1))
        return self.journal.append(
            dataclasses.replace(segment, checkpoint=name, weights_sha256=f"{len(self.journal.segments):064d}")
        )

    def go_back(self, spike: Spike) -> Segment:
        course = self.course
        good = course.good(spike, RULE)
        assert good is not None
        assert course.tip is not None
        segment = self._segment(course.tip.last_step + 1, spike.last + 1)
        settings = course.settings_of_return(spike, RULE, good, steps=100)
        return self.journal.append(dataclasses.replace(segment, status="abandoned", settings=settings))

    def _segment(self, first: int, finished: int, **more: object) -> Segment:
        tip = self.course.tip
        common = {"parent": tip.checkpoint if tip else None, "plan": "p", "status": "kept"}
        return Segment(first_step=first, last_step=finished - 1, first_sample=first, last_sample=finished - 1, **common, **more)  # type: ignore[arg-type]


def test_a_return_is_a_line_of_the_journal_and_all_else_follows_from_it(tmp_path: Path) -> None:
    training = Training(tmp_path)
    for finished in (10, 20, 30):
        training.keep(finished)
    assert training.course.skipped == ()
    line = training.go_back(Spike(31, 33, "loss"))  # the newest checkpoint is a step old: not yet known to be good
    assert (line.first_step, line.last_step, line.settings["return_to"]) == (30, 33, "step-000020")
    course = Course(Journal.read(tmp_path / "journal.jsonl"))
    assert (len(course.returns), course.origin(), course.skipped) == (1, 20, ((30, 35),))
    assert course.tip is not None
    assert course.tip.checkpoint == "step-000020"
    assert [course.factor("learning_rate_factor", step) for step in (19, 20)] == [1, 0.5]
    assert course.factor("shrink_factor", 99) == 0.2
    assert course.checkpoint("step-000030") is None, "the checkpoint of that name was left behind"
    again, after = training.keep(30), training.keep(40)
    assert (again.parent, again.skipped, after.skipped) == ("step-000020", (), ((30, 35),))
    assert [segment.index for segment in training.journal.main_line()] == [0, 1, 4, 5]
    assert [segment.index for segment in training.journal.abandoned()] == [2, 3]


def test_a_second_return_adds_to_the_first(tmp_path: Path) -> None:
    training = Training(tmp_path)
    for finished in (10, 20):
        training.keep(finished)
    training.go_back(Spike(25, 26, "loss"))
    training.go_back(Spike(29, 30, "loss again"))
    assert training.course.skipped == ((24, 32),)
    assert (training.course.origin(), training.course.factor("learning_rate_factor", 20)) == (20, 0.25)


def test_without_an_old_enough_checkpoint_there_is_no_way_back(tmp_path: Path) -> None:
    training = Training(tmp_path)
    assert training.course.good(Spike(9, 9, ""), RULE) is None
    training.keep(10)
    assert training.course.good(Spike(12, 12, ""), RULE) is None
    assert training.course.good(Spike(13, 13, ""), RULE) is not None

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger.journal import ORIGIN, Journal, JournalError, Segment
from tests.support import glm130b_log

WEIGHTS = "c0" * 32


def segment(parent: str | None, first: int, last: int, **changes: Any) -> Segment:
    """Ten samples a step; leaves a checkpoint named by the steps behind it."""
    fields = {"checkpoint": f"step-{last + 1}", "weights_sha256": WEIGHTS, "status": "kept", "plan": "ab" * 32} | changes
    return Segment(
        parent=parent, first_step=first, last_step=last, first_sample=first * 10, last_sample=last * 10 + 9, **fields
    )


def abandoned(parent: str | None, first: int, last: int, **changes: Any) -> Segment:
    return segment(parent, first, last, status="abandoned", checkpoint=None, weights_sha256=None, **changes)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """0..9, 10..19, a branch 20..24 that was given up, and 20..29 with steps 22 and 23 passed over."""
    journal = Journal.open(tmp_path / "journal.jsonl")
    journal.append(segment(None, 0, 9, settings={"lr": 1e-3}))
    journal.append(segment("step-10", 10, 19))
    journal.append(abandoned("step-20", 20, 24, settings={"cause": "损失爆炸"}))
    journal.append(segment("step-20", 20, 29, skipped=((22, 23),)))
    return journal


def test_reading_gives_what_was_written(journal: Journal) -> None:
    again = Journal.read(journal.path)
    assert again.segments == journal.segments
    assert again.head == journal.head == journal.segments[-1].hash
    assert [s.index for s in again.segments] == [0, 1, 2, 3]
    assert again.segments[0].previous == ORIGIN
    assert all(later.previous == earlier.hash for earlier, later in itertools.pairwise(again.segments))


def test_known_hash(tmp_path: Path) -> None:
    """The form on disk: it must not drift, or no old journal can be read."""
    sealed = Journal.open(tmp_path / "j").append(segment(None, 0, 9, skipped=((3, 4),), settings={"lr": 0.5}))
    body = (
        '"index":0,"last_sample":99,"last_step":9,"parent":null,"plan":"' + "ab" * 32 + '","previous":"' + "0" * 64 + '",'
        '"settings":{"lr":0.5},"skipped":[[3,4]],"status":"kept","weights_sha256":"' + WEIGHTS + '"}'
    )
    head = '{"checkpoint":"step-10","first_sample":0,"first_step":0,'
    assert sealed.hash == hashlib.sha256((head + body).encode()).hexdigest()
    assert (tmp_path / "j").read_text() == head + f'"hash":"{sealed.hash}",' + body + "\n"


def test_append_after_reopening(journal: Journal) -> None:
    again = Journal.open(journal.path)
    again.append(segment("step-30", 30, 39))
    assert len(Journal.read(journal.path).segments) == 5


def test_paths_and_branches(journal: Journal) -> None:
    assert [s.index for s in journal.path_to("step-30")] == [0, 1, 3]
    assert [s.index for s in journal.path_to("step-10")] == [0]
    assert [s.index for s in journal.main_line()] == [0, 1, 3]
    assert [s.index for s in journal.abandoned()] == [2]
    assert list(journal.checkpoints()) == ["step-10", "step-20", "step-30"]
    assert journal.segments[3].skips(22) and not journal.segments[3].skips(24)
    with pytest.raises(JournalError, match=r"unknown checkpoint 'step-25'. Known: step-10, step-20, step-30"):
        journal.path_to("step-25")


def test_going_back_behind_a_kept_checkpoint(journal: Journal) -> None:
    """Training returns to step 10 and reaches step 20 again: the name means the newer, the weights' hash finds the older."""
    journal.append(segment("step-10", 10, 19, weights_sha256="d0" * 32))
    assert [s.index for s in journal.path_to("step-20")] == [0, 4]
    assert [s.index for s in journal.main_line()] == [0, 4]
    assert [s.index for s in journal.abandoned()] == [1, 2, 3]
    journal.append(segment("step-20", 20, 39, weights_sha256="e0" * 32))
    assert [s.index for s in journal.path_to("e0" * 32)] == [0, 4, 5]
    assert [s.index for s in journal.path_to("step-30")] == [0, 1, 3]


def test_empty_journal(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "new" / "journal.jsonl")
    assert journal.segments == () and journal.head == ORIGIN and journal.main_line() == [] and journal.abandoned() == []
    assert Journal.read(journal.path).segments == ()
    with pytest.raises(JournalError, match="Known: none"):
        journal.path_to("step-1")
    with pytest.raises(JournalError, match="no such journal"):
        Journal.read(tmp_path / "absent.jsonl")


@pytest.mark.parametrize("line", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["settings", "last_step", "plan", "status", "hash", "previous", "weights_sha256"])
def test_any_change_is_found_at_its_line(journal: Journal, line: int, name: str) -> None:
    lines = journal.path.read_text().splitlines()
    data = json.loads(lines[line])
    data[name] = {"lr": 2e-3} if name == "settings" else 8 if name == "last_step" else "11" * 32
    lines[line] = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    journal.path.write_text("".join(f"{text}\n" for text in lines))
    with pytest.raises(JournalError, match=f"line {line + 1}: "):
        Journal.read(journal.path)


def test_a_rehashed_change_breaks_the_next_line(journal: Journal) -> None:
    lines = journal.path.read_text().splitlines()
    changed = replace(journal.segments[1], settings={"lr": 9.0}, hash="")
    lines[1] = replace(changed, hash=changed.digest()).to_line()
    journal.path.write_text("".join(f"{text}\n" for text in lines))
    with pytest.raises(JournalError, match="line 3: does not follow the line before it"):
        Journal.read(journal.path)


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], 2),
        (lambda lines: [lines[0], lines[0], *lines[1:]], 2),
        (lambda lines: [*lines[:2], "", *lines[2:]], 3),
        (lambda lines: [lines[0].replace('"index":0', '"index": 0'), *lines[1:]], 1),
        (lambda lines: [lines[0].replace('"index":0', '"index":0,"index":0'), *lines[1:]], 1),
        (lambda lines: ["[]", *lines[1:]], 1),
    ],
    ids=["removed", "swapped", "doubled", "blank", "spaced", "key twice", "no object"],
)
def test_moved_and_malformed_lines(journal: Journal, edit: Any, line: int) -> None:
    journal.path.write_text("".join(f"{text}\n" for text in edit(journal.path.read_text().splitlines())))
    with pytest.raises(JournalError, match=f"line {line}: "):
        Journal.read(journal.path)


def test_a_cut_line_is_refused_by_readers_and_dropped_by_the_writer(journal: Journal) -> None:
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-20])
    with pytest.raises(JournalError, match="line 4: incomplete"):
        Journal.read(journal.path)
    reopened = Journal.open(journal.path)
    assert [s.index for s in reopened.segments] == [0, 1, 2]
    reopened.append(journal.segments[3])
    assert journal.path.read_bytes() == whole


def test_a_journal_cut_at_a_line_end_has_another_head(journal: Journal) -> None:
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join(lines[:-1]))
    assert Journal.read(journal.path).head == journal.segments[2].hash != journal.head


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (segment("step-99", 30, 39), "unknown parent 'step-99'. Known: step-10, step-20, step-30"),
        (segment("step-30", 31, 39), "its parent step-30 asks for step 30, sample 300"),
        (segment(None, 30, 39), "asks for step 0, sample 0"),
        (replace(segment("step-30", 30, 39), first_sample=299), "asks for step 30, sample 300"),
        (segment("step-30", 30, 29), "ends before it begins"),
        (segment("step-30", 30, 39, skipped=((35, 34),)), "skipped steps 35-34"),
        (segment("step-30", 30, 39, skipped=((33, 35), (35, 36))), "skipped steps 35-36"),
        (segment("step-30", 30, 39, skipped=((38, 40),)), "skipped steps 38-40"),
        (segment("step-30", 30, 39, status="maybe"), "status 'maybe'"),
        (segment("step-30", 30, 39, checkpoint=None, weights_sha256=None), "a kept segment leaves a checkpoint"),
        (segment("step-30", 30, 39, weights_sha256=None), "with the SHA-256 of its weights"),
    ],
)
def test_refuses_segments_that_do_not_fit(journal: Journal, bad: Segment, message: str) -> None:
    before = journal.path.read_bytes()
    with pytest.raises(JournalError) as error:
        journal.append(bad)
    assert message in str(error.value) and "line 5" in str(error.value)
    assert journal.path.read_bytes() == before


def test_nothing_kept_grows_from_an_abandoned_checkpoint(journal: Journal) -> None:
    journal.append(segment("step-30", 30, 39, status="abandoned"))
    journal.append(abandoned("step-40", 40, 41))
    with pytest.raises(JournalError, match="step-40, which was abandoned"):
        journal.append(segment("step-40", 40, 49))


def test_a_second_writer_is_found(journal: Journal) -> None:
    Journal.open(journal.path).append(segment("step-30", 30, 39))
    with pytest.raises(JournalError, match="second writer"):
        journal.append(segment("step-30", 30, 49))


def test_checkpoint_manifest(journal: Journal) -> None:
    assert journal.segments[1].checkpoint_manifest() == {
        "step": 20,
        "samples": 200,
        "parent": "step-10",
        "plan": "ab" * 32,
        "journal": journal.segments[1].hash,
        "weights_sha256": WEIGHTS,
    }


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    path = tmp_path_factory.mktemp("glm130b") / "journal.jsonl"
    journal = Journal.open(path)
    for entry in glm130b_log.segments():
        journal.append(entry)
    return Journal.read(path)


def iterations(segments: list[Segment], first: int, last: int) -> set[int]:
    """Which of the log's iterations `first` to `last` (from 1) the segments trained on."""
    return {
        iteration
        for iteration in range(first, last + 1)
        for segment in segments
        if segment.first_step <= iteration - 1 <= segment.last_step and not segment.skips(iteration - 1)
    }


def test_published_log_skips(published: Journal) -> None:
    path = published.path_to("49300")
    assert path[-1].last_sample + 1 == 195_591_480
    assert iterations(path, 40_701, 40_900) == set()
    assert iterations(path, 40_650, 40_950) == {*range(40_650, 40_701), *range(40_901, 40_951)}
    assert iterations(path, 42_401, 42_600) == set()
    trained = sum(s.last_step + 1 - s.first_step - sum(b + 1 - a for a, b in s.skipped) for s in path)
    assert trained == 49_300 - 400


def test_published_log_branches(published: Journal) -> None:
    """Seven branches were given up; what they saw is in no checkpoint, unless the main line came by it again."""
    assert [(s.parent, s.last_step + 1) for s in published.abandoned()] == [
        ("22800", 22_900),
        ("22800", 22_900),
        ("22800", 22_900),
        ("22850", 22_950),
        ("33600", 33_700),
        ("35200", 35_250),
        ("40700", 40_800),
    ]
    (exploded,) = (s for s in published.abandoned() if s.parent == "40700")
    assert iterations([exploded], 40_701, 40_900) == set(range(40_701, 40_801))
    assert exploded not in published.path_to("49300")
    path = published.path_to("49300")
    assert path == published.main_line()
    assert all(before.last_step + 1 == after.first_step for before, after in itertools.pairwise(path))
    assert len({s.plan for s in path}) == 4  # the task data changed under way

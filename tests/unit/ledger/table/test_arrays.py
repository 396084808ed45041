"""Columns and bits at sizes where shortcuts are taken, against numpy's own answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ledger.table.arrays import _MANY, Ascending, argsort, chosen, load_ascending, save_ascending
from ledger.table.bits import mark, marked, unmarked
from ledger.table.documents import Parts
from ledger.table.gaps import _FEW, Gaps


def ascending(folder: Path, values: np.ndarray) -> Ascending:
    return load_ascending(folder, "c", save_ascending(folder, "c", values))


@pytest.mark.parametrize("spread", ["even", "crowded", "from far on"])
def test_places_by_the_directory_are_those_of_a_search(tmp_path: Path, spread: str) -> None:
    rng = np.random.default_rng(3)
    steps = rng.integers(0, 900, 300 * _MANY)  # blocks of 256 or fewer: more anchors than it takes to have a directory
    if spread == "crowded":
        steps[: len(steps) // 2] = 0
        steps[1] = 1 << 40
    values = np.cumsum(steps) + (1 << 33) * (spread == "from far on")
    column = ascending(tmp_path, values)
    assert len(column.anchors) >= _MANY
    wanted = np.concatenate([[-5, 0, values[0] - 1, values[-1], values[-1] + 1, 1 << 60], rng.choice(values, 2 * _MANY)])
    wanted = np.concatenate([wanted, rng.integers(0, values[-1] + 9, _MANY), wanted - 1])
    assert column.at(wanted).tolist() == (np.searchsorted(values, wanted, side="right") - 1).tolist()
    assert "_directory" in column.__dict__


def test_order_by_several_keys() -> None:
    rng = np.random.default_rng(5)
    for top in (1, 7, 1 << 16, 1 << 17, 1 << 45):
        keys = [rng.integers(-top, top, 3000), rng.integers(0, top, 3000)]
        assert argsort(*keys).tolist() == np.lexsort(keys[::-1]).tolist()
    assert argsort(np.empty(0, np.int64)).tolist() == []
    columns = Parts(np.arange(4), np.arange(4) * 2, np.arange(4) * 3)
    for which in (np.array([3, 1]), np.array([False, True, False, True])):
        assert sorted(chosen(columns, which).tokens.tolist()) == [3, 9]


@pytest.mark.parametrize("share", [0.5, 0.001])
def test_bits(share: float) -> None:
    rng = np.random.default_rng(7)
    bits, told = unmarked(50_001), np.zeros(50_001, np.bool_)
    for _ in range(3):
        numbers = np.flatnonzero(rng.random(50_001) < share)
        mark(bits, numbers)
        told[numbers] = True
    mark(bits, np.empty(0, np.int64))
    assert marked(bits, np.arange(50_001)).tolist() == told.tolist()


def test_gaps_are_found_by_their_bits_as_by_a_search(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    bounds = np.cumsum(rng.integers(1, 9_000, 4_001))
    begin, end = bounds[:-1:2], bounds[1::2]
    size = np.minimum(end - begin, rng.integers(1, 6_000, len(begin)))
    missing = np.concatenate([[0], np.cumsum(size), [size.sum()]])
    folders = [tmp_path / name for name in ("begins", "missing")]
    for folder in folders:
        folder.mkdir()
    gaps = Gaps(ascending(folders[0], np.append(begin, bounds[-1] + 10_000)), ascending(folders[1], missing))
    fed = np.ones(bounds[-1] + 10_000, np.bool_)
    for first, tokens in zip(begin.tolist(), size.tolist(), strict=True):
        fed[first : first + tokens] = False
    low = rng.integers(0, bounds[-1], 2 * _FEW)
    high = low + rng.integers(1, 9_000, len(low))
    lost = np.concatenate([[0], np.cumsum(~fed)])
    assert gaps.touch(low, high).tolist() == (lost[high] > lost[low]).tolist()
    assert gaps.touch(low[:9], high[:9]).tolist() == (lost[high] > lost[low])[:9].tolist()
    assert gaps.before(low).tolist() == lost[low].tolist()
    which, first, last = gaps.leave(np.arange(len(low)), low, high)
    assert all(fed[a:b].all() for a, b in zip(first[:500].tolist(), last[:500].tolist(), strict=True))
    kept = np.bincount(which, weights=last - first, minlength=len(low)).astype(np.int64)
    assert kept.tolist() == (high - low - (lost[high] - lost[low])).tolist()

"""Names of documents, from however many chunks."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from ledger.table.sources import Names


@pytest.mark.parametrize("cuts", [[], [1], [3, 3, 700], [0, 1_000]])
def test_names_come_in_the_order_asked_for(cuts: list[int]) -> None:
    names = [f"shelf/{number}" for number in range(1_000)]
    bounds = [0, *cuts, 1_000]
    chunks = [pa.array(names[first:end], pa.string()) for first, end in itertools.pairwise(bounds)]
    wanted = np.random.default_rng(2).integers(0, 1_000, 3_000)
    assert Names(chunks).take(wanted).to_pylist() == [names[number] for number in wanted]
    assert Names(chunks).take(np.empty(0, np.int64)).to_pylist() == []

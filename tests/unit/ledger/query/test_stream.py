"""Documents in order: the short way of a single pass gives what sums over everything give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks._generated import Size, _pieces, make, open_ledger
from ledger.query.ledger import Ledger
from ledger.query.stream import Training


@pytest.fixture(scope="module")
def size() -> Size:
    return Size(30_000)


@pytest.fixture(scope="module")
def ledger(size: Size, tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    folder = tmp_path_factory.mktemp("generated") / "table"
    make(folder, size)
    return open_ledger(folder, size)


@pytest.mark.parametrize("many", [1, 1 << 30], ids=["shortcuts", "searches"])
def test_equals_the_slow_sums(size: Size, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    monkeypatch.setattr("ledger.query.stream._CHUNK", 700)
    monkeypatch.setattr("ledger.table.arrays._MANY", many)
    monkeypatch.setattr("ledger.table.gaps._FEW", many)
    batches = [np.stack(batch) for batch in _pieces(size)]
    sample, document, _, length = np.concatenate(batches, axis=1)
    (segment,) = ledger.journal.segments
    trained = ledger.trained([segment])
    when = np.full(size.samples, -1)
    consumption = np.concatenate([np.arange(start, end) for start, end in trained.tolist()])
    when[ledger.plan.order.rows(consumption)] = consumption
    seen: dict[int, list[tuple[int, int]]] = {}
    for row, number, tokens in zip(sample.tolist(), document.tolist(), length.tolist(), strict=True):
        if when[row] >= 0:
            seen.setdefault(number, []).append((int(when[row]), tokens))
    found = list(Training(ledger.table, ledger.plan, trained).in_order())
    shown = [np.concatenate(column) for column in zip(*found, strict=True)]
    expected = {
        number: [len({at for at, _ in parts}), sum(t for _, t in parts), min(parts)[0], max(parts)[0]]
        for number, parts in seen.items()
    }
    assert dict(zip(shown[0].tolist(), np.stack(shown[1:], axis=1).tolist(), strict=True)) == expected
    order = list(zip(shown[3].tolist(), shown[0].tolist(), strict=True))
    assert order == sorted(order) and len(order) == len(expected) > 25_000


def test_the_table_stays_small(size: Size, ledger: Ledger) -> None:
    stored = sum(file.stat().st_size for file in Path(ledger.root).iterdir())
    assert stored < 8 * size.documents + 3_000


def test_numbered_batches_need_no_names(ledger: Ledger) -> None:
    batch = next(ledger.stream("newest", names=False))
    assert batch.schema.names[0] == "doc_index"
    number = batch["doc_index"][0].as_py()
    assert batch["source"][0].as_py() == ledger.table.names[int(ledger.table.groups[number])][0]
    step = ledger.step(batch["first_step"][0].as_py())
    assert str(number) in step.pieces["doc_id"].to_pylist()

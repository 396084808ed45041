"""The document table says what the pieces say, in whatever order samples were packed."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import LedgerError
from ledger.table.arrays import load_ascending, save_ascending
from ledger.table.documents import DocumentTable
from ledger.table.tabulate import Batch, Described, Groups, tabulate

Piece = tuple[int, int, int, int]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 10**6), max_size=700), st.lists(st.integers(-5, 10**9), max_size=30))
def test_ascending_columns(tmp_path_factory: pytest.TempPathFactory, steps: list[int], asked: list[int]) -> None:
    folder = tmp_path_factory.mktemp("column")
    values = np.cumsum(np.array(steps, np.int64))
    column = load_ascending(folder, "a", save_ascending(folder, "a", values))
    assert np.array_equal(column.take(np.arange(len(values))), values)
    wanted = np.array([*asked, *values[:20].tolist(), *(values[:20] - 1).tolist()], np.int64)
    assert np.array_equal(column.at(wanted), np.searchsorted(values, wanted, side="right") - 1)


def packed(rng: np.random.Generator, lengths: list[int], epochs: int, row: int, loose: int) -> tuple[int, list[Piece]]:
    """Samples as the pack stage lays them: rows on the ring with holes in them, then samples of chosen documents."""
    total, train = sum(lengths), len(lengths)
    owner = np.repeat(np.arange(train), lengths)
    inside = np.concatenate([np.arange(length) for length in lengths])
    text = total // row
    pieces: list[Piece] = []
    for epoch in range(epochs):
        turn, base = int(rng.integers(total)), epoch * (text + loose)
        for number in range(text):
            fed = rng.random(row) > 0.15
            fed[:] |= rng.random() < 0.6
            at = (turn + number * row + np.flatnonzero(fed)) % total
            cuts = np.flatnonzero((np.diff(owner[at]) != 0) | (np.diff(inside[at]) != 1)) + 1
            pieces += [(base + number, int(owner[p[0]]), int(inside[p[0]]), len(p)) for p in np.split(at, cuts) if len(p)]
        for number in range(text, text + loose):
            chosen = rng.integers(0, train + 2, 3).tolist()
            pieces += [(base + number, document, 0, int(rng.integers(1, 40))) for document in chosen]
    return text + loose, pieces


def table_of(folder: Path, samples: int, epochs: int, lengths: list[int], pieces: list[Piece], parts: int = 3) -> DocumentTable:
    documents = [Described(np.array(lengths), np.zeros(len(lengths), np.int64), True)]
    documents.append(Described(np.array([7, 9]), np.ones(2, np.int64), False))
    rows = np.array(pieces, np.int64).reshape(-1, 4)
    cuts = np.searchsorted(rows[:, 0], np.linspace(0, samples * epochs, parts + 1)[1:-1].astype(int))
    batches = [Batch(*part.T) for part in np.split(rows, cuts)]
    groups = Groups({("plays", "en", "MIT"): 0, ("rows", "en", "MIT"): 1})
    return tabulate(folder, samples, epochs, documents, groups, batches)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(3, 40), st.integers(0, 5))
def test_equals_the_pieces(tmp_path_factory: pytest.TempPathFactory, seed: int, epochs: int, row: int, loose: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 60, int(rng.integers(2, 30))).tolist()
    lengths[0] += 40
    samples, pieces = packed(rng, lengths, epochs, row, loose)
    check(table_of(tmp_path_factory.mktemp("table") / "t", samples, epochs, lengths, pieces), pieces, len(lengths) + 2)


def check(table: DocumentTable, pieces: list[Piece], documents: int) -> None:
    """Both directions against sums over the pieces."""
    by_document: dict[tuple[int, int], int] = defaultdict(int)
    for sample, document, _, length in pieces:
        by_document[document, sample] += length
    found = table.parts_of(np.arange(documents))
    expected = sorted((document, sample, tokens) for (document, sample), tokens in by_document.items())
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected
    rows = table.samples * table.epochs
    held = list(zip(*(column.tolist() for column in table.pieces_of(np.arange(rows))), strict=True))
    assert held == sorted(held) and merged(held) == merged(pieces)


def merged(pieces: list[Piece]) -> list[Piece]:
    """Sorted, with pieces that touch made one; two of a sample that begin at the same token are two."""
    found: list[Piece] = []
    for sample, document, offset, length in sorted(pieces):
        if found and found[-1][:2] == (sample, document) and found[-1][2] + found[-1][3] == offset and offset:
            found[-1] = (*found[-1][:3], found[-1][3] + length)
        else:
            found.append((sample, document, offset, length))
    return found


def test_any_order_of_pieces_gives_the_same_answers(tmp_path: Path) -> None:
    """Samples that follow no line at all are loose, every one."""
    rng = np.random.default_rng(5)
    lengths = [30] * 12
    samples, pieces = packed(rng, lengths, 2, 16, 2)
    turned = rng.permutation(samples * 2)
    moved = sorted((int(turned[piece[0]]), *piece[1:]) for piece in pieces)
    table = table_of(tmp_path / "t", samples, 2, lengths, moved)
    assert table.followers.sum() < samples
    check(table, moved, 14)


def test_a_masking_epoch_without_text_and_empty_samples(tmp_path: Path) -> None:
    lengths = [20, 20]
    pieces = [(0, 0, 0, 10), (2, 0, 12, 8), (2, 1, 0, 2), (9, 1, 3, 5), (11, 1, 0, 30)]
    table = table_of(tmp_path / "t", 4, 3, lengths, pieces, parts=5)
    check(table, pieces, 4)
    assert table.pieces_of(np.array([1, 4, 7])).which.size == 0


def test_bytes_do_not_depend_on_the_batches(tmp_path: Path) -> None:
    samples, pieces = packed(np.random.default_rng(1), [40] * 20, 2, 32, 3)
    for parts in (1, 7):
        table_of(tmp_path / str(parts), samples, 2, [40] * 20, pieces, parts)
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "7").iterdir())
    for name in files:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "7" / name).read_bytes()


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([(1, 0, 0, 5), (0, 0, 5, 5)], "out of order"),
        ([(0, 0, 0, 5), (8, 0, 5, 5)], "outside the packed samples"),
        ([(0, 4, 0, 5)], "of document 4, but there are 4"),
    ],
)
def test_refuses_pieces_that_cannot_be(tmp_path: Path, pieces: list[Piece], message: str) -> None:
    with pytest.raises(LedgerError, match=message):
        table_of(tmp_path / "t", 4, 2, [20, 20], pieces, parts=1)
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_cut_short_is_named(tmp_path: Path) -> None:
    table_of(tmp_path / "t", 4, 2, [20, 20], [(0, 0, 0, 10)])
    file = tmp_path / "t" / "rows.offsets"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(LedgerError, match=r"rows.offsets: \d+ bytes, expected"):
        DocumentTable.load(tmp_path / "t")


def test_masking_epochs_that_were_not_begun_are_left_out(tmp_path: Path) -> None:
    samples, pieces = packed(np.random.default_rng(3), [50] * 9, 2, 20, 2)
    table = table_of(tmp_path / "t", samples, 2, [50] * 9, pieces)
    everything, first = table.parts_of(np.arange(11)), table.parts_of(np.arange(11), 1)
    inside = everything.row < samples
    assert all(np.array_equal(column[inside], one) for column, one in zip(everything, first, strict=True))
    assert inside.any() and not inside.all()


def test_documents_in_any_order_and_more_than_once(tmp_path: Path) -> None:
    samples, pieces = packed(np.random.default_rng(4), [50] * 9, 2, 20, 2)
    table = table_of(tmp_path / "t", samples, 2, [50] * 9, pieces)
    asked = np.array([7, 2, 7, 10, 0])
    found = table.parts_of(asked)
    for place, document in enumerate(asked.tolist()):
        alone = table.parts_of([document])
        assert np.array_equal(found.row[found.which == place], alone.row)
        assert np.array_equal(found.tokens[found.which == place], alone.tokens)
    with pytest.raises(IndexError, match="documents 0 to 10"):
        table.parts_of([11])

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.order import Order, permute, unpermute

SIZES = [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 1023, 1024, 1025, 4096, 4097]
PUBLISHED_SAMPLES = 208_000_000  # about GLM-130B's size


def mix(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def draw(state: int, number: int) -> int:
    return mix((state + number * 0x9E3779B97F4A7C15) % 2**64)


def permute_one(seed: int, epoch: int, index: int, samples: int) -> int:
    """The formula of the module's docstring once more, in plain integers."""
    half = max(1, ((samples - 1).bit_length() + 1) // 2)
    epoch_key = draw(draw(seed, 1), epoch + 1)
    while True:
        left, right = index >> half, index % 2**half
        for number in range(8):
            left, right = right, left ^ mix((right + draw(epoch_key, number + 1)) % 2**64) % 2**half
        index = left << half | right
        if index < samples:
            return index


def test_mix_is_splitmix64() -> None:
    # First outputs of the generator with seed 1234567, as its authors' C code prints them.
    assert [draw(1234567, n) for n in (1, 2, 3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_known_answers() -> None:
    """These values decide what published checkpoints were trained on: they must never change."""
    assert permute(0, 0, np.arange(10), 10).tolist() == [3, 9, 5, 2, 4, 0, 7, 8, 1, 6]
    assert permute(1234, 3, np.arange(0, 1000, 125), 1000).tolist() == [492, 61, 824, 676, 363, 564, 796, 276]
    big = permute(2**64 - 1, 10**6, [0, 1, PUBLISHED_SAMPLES - 1], PUBLISHED_SAMPLES)
    assert big.tolist() == [203420959, 71002575, 105540469]
    assert Order(42, 100, 3).rows([0, 99, 100, 250, 299, 300, 12345]).tolist() == [2, 28, 188, 283, 280, 79, 15]


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(1, 2**40), st.data())
def test_numpy_equals_plain_integers(seed: int, epoch: int, samples: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, samples - 1))
    assert int(permute(seed, epoch, index, samples)) == permute_one(seed, epoch, index, samples)


@pytest.mark.parametrize("samples", SIZES)
def test_bijection(samples: int) -> None:
    for epoch in range(3):
        image = permute(7, epoch, np.arange(samples), samples)
        assert np.array_equal(np.sort(image), np.arange(samples))
        assert np.array_equal(unpermute(7, epoch, image, samples), np.arange(samples))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(1, 3000))
def test_bijection_of_any_size(seed: int, epoch: int, samples: int) -> None:
    image = permute(seed, epoch, np.arange(samples), samples)
    assert np.array_equal(np.sort(image), np.arange(samples))
    assert np.array_equal(unpermute(seed, epoch, image, samples), np.arange(samples))
    assert np.array_equal(
        permute(seed, epoch, unpermute(seed, epoch, np.arange(samples), samples), samples), np.arange(samples)
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 4), st.integers(1, 9), st.integers(1, 7), st.integers(0, 2000))
def test_no_world_size_changes_what_is_consumed(samples: int, epochs: int, ranks: int, batch: int, first: int) -> None:
    """Ranks that take every n-th sample of a batch, and a restart anywhere, read the same rows as one rank in one go."""
    order, total = Order(17, samples, epochs), 3 * ranks * batch
    consumption = np.arange(first, first + total)
    alone = order.rows(consumption)
    together = np.empty_like(alone)
    for rank in range(ranks):
        for start in range(0, total, ranks * batch):
            mine = np.arange(start + rank, start + ranks * batch, ranks)
            together[mine] = order.rows(first + mine)
    assert np.array_equal(together, alone)
    which, back = order.consumptions(alone, first + total)
    assert set(zip(which.tolist(), back.tolist(), strict=True)) >= set(enumerate(consumption.tolist()))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 1000), st.integers(2, 2**40))
def test_inverse_round_trip(seed: int, epoch: int, samples: int) -> None:
    index = np.random.default_rng(epoch).integers(0, samples, 2000)
    image = permute(seed, epoch, index, samples)
    assert image.min() >= 0 and image.max() < samples
    assert np.array_equal(unpermute(seed, epoch, image, samples), index)


def test_published_size() -> None:
    index = np.random.default_rng(0).integers(0, PUBLISHED_SAMPLES, 200_000)
    image = permute(1234, 0, index, PUBLISHED_SAMPLES)
    assert np.unique(image).size == np.unique(index).size
    assert np.array_equal(unpermute(1234, 0, image, PUBLISHED_SAMPLES), index)


def test_does_not_depend_on_how_it_is_asked() -> None:
    """Batch size, world size and restarts are only ways of slicing the same sequence."""
    order = Order(5, 1237, 2)
    whole = order.rows(np.arange(100_000))
    for slices in (1, 3, 64):
        parts = [order.rows(part) for part in np.array_split(np.arange(100_000), slices)]
        assert np.array_equal(np.concatenate(parts), whole)
    ranks = [order.rows(np.arange(rank, 100_000, 8)) for rank in range(8)]
    assert np.array_equal(np.stack(ranks, axis=1).ravel(), whole)
    assert np.array_equal(order.rows(np.arange(100_000).reshape(100, 1000)), whole.reshape(100, 1000))


def test_every_epoch_reads_its_masking_epoch_once_in_an_order_of_its_own() -> None:
    order = Order(9, 500, 2)
    epochs = order.rows(np.arange(2000)).reshape(4, 500)
    for epoch, rows in enumerate(epochs):
        assert np.array_equal(np.sort(rows), np.arange(500) + epoch % 2 * 500)
    assert not np.array_equal(epochs[0], epochs[2])
    assert not np.array_equal(Order(10, 500, 2).rows(np.arange(500)), epochs[0])


def test_looks_shuffled() -> None:
    """Places of a sample over many epochs are uniform, and neighbours do not stay neighbours."""
    samples, epochs = 100, 4000
    places = permute(3, np.arange(epochs)[:, None], np.arange(samples)[None, :], samples)
    for column in (0, 1, 50, 99):
        counts = np.bincount(places[:, column], minlength=samples)
        chi2 = float(((counts - epochs / samples) ** 2 / (epochs / samples)).sum())
        assert 50 < chi2 < 160  # 99 degrees of freedom: outside with probability below 1e-4
    big = permute(3, 0, np.arange(100_000), 100_000)
    assert abs(np.corrcoef(big[:-1], big[1:])[0, 1]) < 0.02
    assert np.mean(np.abs(np.diff(big)) == 1) < 1e-3


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 500))
def test_consumptions_invert_rows(samples: int, epochs: int, until: int) -> None:
    order = Order(11, samples, epochs)
    consumed = order.rows(np.arange(until))
    which, consumption = order.consumptions(np.arange(samples * epochs), until)
    expected = [(row, c) for row in range(samples * epochs) for c in np.flatnonzero(consumed == row).tolist()]
    assert list(zip(which.tolist(), consumption.tolist(), strict=True)) == expected


def test_consumptions_keep_the_callers_rows() -> None:
    order = Order(1, 10, 1)
    which, consumption = order.consumptions([7, 3, 7], until=20)
    assert which.tolist() == [0, 0, 1, 1, 2, 2]
    assert order.rows(consumption).tolist() == [7, 7, 3, 3, 7, 7]


def test_empty() -> None:
    order = Order(0, 10, 1)
    assert order.rows([]).size == 0
    assert [part.size for part in order.consumptions([], 100)] == [0, 0]
    assert [part.size for part in order.consumptions([1, 2], 0)] == [0, 0]


@pytest.mark.parametrize("arguments", [(-1, 1, 1), (2**64, 1, 1), (0, 0, 1), (0, 1, 0), (0, 2**61, 2)])
def test_refuses_nonsense(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"seed|samples"):
        Order(*arguments)


def test_refuses_places_that_do_not_exist() -> None:
    order = Order(0, 10, 2)
    with pytest.raises(ValueError, match="consumption index -1"):
        order.rows([3, -1])
    with pytest.raises(ValueError, match="row 20 is outside the 20"):
        order.consumptions([20], 5)
    with pytest.raises(ValueError, match="outside"):
        permute(0, 0, 10, 10)


@pytest.mark.parametrize("samples", [1, 2, 3, 700, 5_000, 70_000])
def test_looked_up_rounds_are_the_computed_ones(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many indices of one epoch go through tables, few of them or several epochs through the formula."""
    index = np.arange(samples)
    looked_up = [function(99, 3, index, samples) for function in (permute, unpermute)]
    monkeypatch.setattr("ledger.order._TABLED", -1)
    assert [function(99, 3, index, samples).tolist() for function in (permute, unpermute)] == [x.tolist() for x in looked_up]
    epochs = np.where(index % 2, 3, 4)
    mixed = permute(99, epochs, index, samples)
    assert mixed[1::2].tolist() == looked_up[0][1::2].tolist()

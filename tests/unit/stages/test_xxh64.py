"""XXH64 of one run of bytes and of many at once, against the reference library."""

from __future__ import annotations

import random

import numpy as np
import xxhash

from stages import _vectors, _xxh64


def test_one_run_of_every_length_with_any_seed() -> None:
    generator = random.Random(7)
    for length in range(200):
        data, seed = generator.randbytes(length), generator.randrange(2**64)
        assert _xxh64.digest(data, seed) == xxhash.xxh64_intdigest(data, seed)


def test_many_runs_of_every_length_in_any_order() -> None:
    generator = random.Random(8)
    lengths = [*range(200), *(generator.randrange(120) for _ in range(900))]  # more than go through at once
    generator.shuffle(lengths)
    runs = [generator.randbytes(length) for length in lengths]
    data = np.frombuffer(b"".join(run + b"|" for run in runs) + bytes(_vectors.SLACK), np.uint8)
    starts = np.cumsum([0, *(length + 1 for length in lengths)])
    for step in (1, 3):
        count = len(runs) - step + 1
        hashes = np.zeros(count, np.uint64)
        _xxh64.hash_runs(data, starts, step, count, _xxh64.lanes(), hashes)
        assert hashes.tolist() == [xxhash.xxh64_intdigest(b"|".join(runs[at : at + step])) for at in range(count)]


def test_no_run_leaves_everything_as_it_was() -> None:
    hashes = np.full(3, 5, np.uint64)
    _xxh64.hash_runs(np.zeros(40, np.uint8), np.zeros(2, np.int64), 1, 0, _xxh64.lanes(), hashes)
    assert hashes.tolist() == [5, 5, 5]


def test_many_runs_of_sixteen_bytes() -> None:
    data = random.Random(9).randbytes(16 * 33)
    hashes = np.zeros(33, np.uint64)
    _xxh64.hash_sixteens(np.frombuffer(data, np.uint8), np.uint64(2**64 - 5), hashes)
    assert hashes.tolist() == [xxhash.xxh64_intdigest(data[16 * at : 16 * at + 16], 2**64 - 5) for at in range(33)]

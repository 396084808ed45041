"""MinHash signatures of whole Arrow columns, bit-identical to datasketch's.

The definition is `datasketch.MinHash(num_perm, seed, scheme="affine32", hashfunc=hash32)` updated with the UTF-8 bytes of
`_ngrams.shingles` (MinHash: Broder, "On the resemblance and containment of documents", 1997). A kernel computes the same over
the bytes of the column, without making a string of any shingle.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages import _jit, _units, _vectors, _xxh64

_kernel = _jit.kernels(__file__, _units.__file__, _xxh64.__file__, _vectors.__file__)
_CHUNK = 2048  # hashes that go through all permutations together: they stay in the first-level cache
_USUAL = 4  # values of a band, for which there is a quicker way
_MOST = np.uint32(0xFFFFFFFF)
_M1, _M2 = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)


class Signed(NamedTuple):
    """Signatures of m texts: uint32[m, permutations]; fingerprints: uint64[m, 2]; lengths in characters: int64[m]."""

    signatures: NDArray[np.uint32]
    fingerprints: NDArray[np.uint64]
    characters: NDArray[np.int64]

    @classmethod
    def room(cls, texts: int, permutations: int) -> Signed:
        """What `sign` can fill."""
        return cls(np.empty((texts, permutations), np.uint32), np.empty((texts, 2), np.uint64), np.empty(texts, np.int64))

    def part(self, begin: int, end: int) -> Signed:
        """Some rows, without a copy."""
        return Signed(self.signatures[begin:end], self.fingerprints[begin:end], self.characters[begin:end])


def hash32(data: bytes) -> int:
    """The `hashfunc` for datasketch: the low 32 bits of XXH64."""
    return _units.digest(data) & 0xFFFFFFFF


@lru_cache(maxsize=4)
def permutations(count: int, seed: int) -> NDArray[np.uint32]:
    """The multipliers (odd) and summands of affine32, uint32[2, count], drawn as datasketch draws them."""
    generator = np.random.RandomState(seed)
    factors = generator.randint(0, 2**31, count, np.uint32) * np.uint32(2) + np.uint32(1)
    return np.array([factors, generator.randint(0, 2**32, count, np.uint32)])


def sign(
    texts: pa.Array,
    sizes: NDArray[np.int64],
    seeds: NDArray[np.uint64],
    limit: int,
    permutations: NDArray[np.uint32],
    room: Signed | None = None,
) -> Signed:
    """Signatures and fingerprints of texts.

    Args:
        texts: string array of m texts.
        sizes: units of a shingle for each text, int64[m].
        seeds: of the fingerprints, uint64[m]; see `_units.fingerprints`.
        limit: characters of a text whose shingles count; its fingerprint is of the whole text.
        permutations: of `permutations`.
        room: for m texts, which is filled; by default it is made.
    """
    data, offsets = _units.utf8(texts)
    signed = Signed.room(len(texts), permutations.shape[1]) if room is None else room
    _sign(data, offsets, sizes, seeds, limit, permutations, _units.tables(), signed)
    return signed


def band_keys(signatures: NDArray[np.uint32], seeds: NDArray[np.uint64], bands: int, rows: int) -> NDArray[np.uint64]:
    """XXH64 of each band's values (little-endian), uint64[bands, m]; documents with different seeds share no bucket."""
    keys: NDArray[np.uint64] = _band_keys(signatures.view(np.uint8), seeds, bands, rows)
    return keys


@_kernel
def _mix(value: Any) -> Any:
    """The finalizer of MurmurHash3, with which affine32 begins."""
    value = np.uint32(value)
    value = np.uint32(np.uint32(value ^ (value >> np.uint32(16))) * _M1)
    value = np.uint32(np.uint32(value ^ (value >> np.uint32(13))) * _M2)
    return np.uint32(value ^ (value >> np.uint32(16)))


@_kernel
def _minimise(hashes: Any, begin: int, end: int, permutations: Any, mixed: Any, signature: Any) -> None:
    """Lower `signature` to the permuted values of hashes[begin:end]; one permutation at a time over many hashes."""
    count = end - begin
    for number in range(count):
        mixed[number] = _mix(hashes[begin + number])
    rows = len(signature) // _vectors.ROWS * _vectors.ROWS
    for row in range(0, rows, _vectors.ROWS):
        _vectors.lower(mixed, count, permutations[0], permutations[1], signature, row)
    for row in range(rows, len(signature)):
        factor, summand, least = permutations[0, row], permutations[1, row], signature[row]
        for number in range(count):
            least = min(least, np.uint32(factor * mixed[number] + summand))
        signature[row] = least


@_kernel
def _sign(text: Any, offsets: Any, sizes: Any, seeds: Any, limit: int, permutations: Any, table: Any, signed: Any) -> None:
    most = _units.longest(offsets)
    room = _units.rooms(most)
    hashes, mixed = np.empty(most + 1, np.uint64), np.empty(_CHUNK, np.uint32)
    signed.signatures[:] = _MOST
    for number in range(len(sizes)):
        begin, end = offsets[number], offsets[number + 1]
        units, length = _units.normalise(text, begin, end, table, room)
        signed.fingerprints[number] = _units.fingerprint(text, begin, end, room, units, length, seeds[number])
        signed.characters[number], stop = _units.characters(text, begin, end), end
        if signed.characters[number] > limit:
            stop = _units.capped(text, begin, end, limit)
            units, length = _units.normalise(text, begin, stop, table, room)
        count = _units.hash_normalised(text, begin, stop, sizes[number], room, units, length, hashes)
        for first in range(0, count, _CHUNK):
            _minimise(hashes, first, min(count, first + _CHUNK), permutations, mixed, signed.signatures[number])


@_kernel
def _band_keys(signatures: Any, seeds: Any, bands: int, rows: int) -> Any:
    keys, size, few = np.empty((bands, len(seeds)), np.uint64), 4 * rows, np.empty(bands, np.uint64)
    for number in range(len(seeds)):
        if rows == _USUAL:
            _xxh64.hash_sixteens(signatures[number], seeds[number], few)
            keys[:, number] = few
            continue
        for band in range(bands):
            keys[band, number] = _units.xxh64(signatures[number], size * band, size * (band + 1), seeds[number])
    return keys

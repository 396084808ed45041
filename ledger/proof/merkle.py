"""Merkle trees as in RFC 6962, section 2.1: one hash for a set of documents, and short proofs of who is in it.

Leaf hash: SHA-256(0x00 || leaf); node hash: SHA-256(0x01 || left || right); a tree of n leaves splits at the largest power of
two below n. The prefixes keep a node from passing as a leaf. Sorted leaves make absence provable too: two leaves that stand
side by side, with the missing one between them.
"""

from __future__ import annotations

import bisect
import hashlib
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import overload

import numpy as np
import numpy.typing as npt

_GROUP = 10  # 2**10 leaves below each hash that is kept
_TASK = 1 << 17  # leaves that are hashed together; a multiple of a group
_DIGEST = 32
_WORDS = 4  # of 64 bits in a digest


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of a leaf's content."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of a node above two hashes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class InclusionProof:
    """Proof that a leaf stands at a place of a tree.

    Attributes:
        leaf: content of the leaf.
        index: its place, from 0.
        size: leaves of the tree.
        path: hashes beside the way from the leaf to the root, lowest first.
    """

    leaf: bytes
    index: int
    size: int
    path: tuple[bytes, ...]

    def holds(self, root: bytes) -> bool:
        """Whether the proof leads to `root` (RFC 9162, section 2.1.3.2)."""
        if not 0 <= self.index < self.size:
            return False
        node, last, current = self.index, self.size - 1, leaf_hash(self.leaf)
        for sibling in self.path:
            if last == 0:
                return False
            if node % 2 or node == last:
                current = node_hash(sibling, current)
                while node % 2 == 0 and node:
                    node, last = node // 2, last // 2
            else:
                current = node_hash(current, sibling)
            node, last = node // 2, last // 2
        return last == 0 and current == root


@dataclass(frozen=True)
class AbsenceProof:
    """Proof that a leaf is not in a tree of sorted leaves: its neighbours, side by side; None beyond an end of the tree."""

    leaf: bytes
    before: InclusionProof | None
    after: InclusionProof | None

    def holds(self, root: bytes) -> bool:
        """Whether the proof shows that `leaf` is not below `root`."""
        before, after = self.before, self.after
        if before is None and after is None:
            return root == hashlib.sha256().digest()  # the empty tree
        if any(proof is not None and not proof.holds(root) for proof in (before, after)):
            return False
        if before is None or after is None:
            at_end = before.index == before.size - 1 if before else after is not None and after.index == 0
        else:
            at_end = before.size == after.size and before.index + 1 == after.index
        return at_end and (before is None or before.leaf < self.leaf) and (after is None or self.leaf < after.leaf)


class Digests(Sequence[bytes]):
    """Hashes of 32 bytes, end to end in memory: ten million of them are one object."""

    def __init__(self, joined: bytes) -> None:
        self.joined = joined

    def __len__(self) -> int:
        return len(self.joined) // _DIGEST

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Digests: ...
    def __getitem__(self, index: int | slice) -> bytes | Digests:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise ValueError("only unbroken stretches can be taken out")
            return Digests(self.joined[start * _DIGEST : max(start, stop) * _DIGEST])
        start = range(len(self))[index] * _DIGEST
        return self.joined[start : start + _DIGEST]

    @classmethod
    def of_set(cls, digests: Sequence[str]) -> Digests:
        """Hexadecimal SHA-256 digests, each once and in ascending order.

        Raises:
            ValueError: one of them is not 64 hexadecimal digits.
        """
        joined = bytes.fromhex("".join(digests))  # which passes over blanks
        if not set(map(len, digests)) <= {2 * _DIGEST} or len(joined) != _DIGEST * len(digests):
            raise ValueError("a SHA-256 digest has 64 hexadecimal digits")
        rows = np.frombuffer(joined, ">u8").reshape(-1, _WORDS)
        rows = rows[np.argsort(rows[:, 0].astype(np.uint64))]
        near = rows[1:, 0] == rows[:-1, 0]
        tied = np.flatnonzero(np.append(near, False) | np.insert(near, 0, False))  # runs that share their first 8 bytes
        rows[tied] = rows[tied][np.lexsort(rows[tied].T[::-1])]
        (after,) = np.nonzero(near)
        again = after[(rows[after] == rows[after + 1]).all(1)] + 1
        return cls(np.delete(rows, again, axis=0).tobytes())


class MerkleTree:
    """A tree over leaves in the order given.

    Kept are the leaves and the hashes of whole groups of 1,024 of them and above; what lies inside a group is computed again
    for a proof.
    """

    def __init__(self, leaves: Iterable[bytes], workers: int = 1) -> None:
        """Hash the leaves; `Digests` with `workers` above 1 in as many processes, which pays from some hundred thousand on."""
        self.leaves: Sequence[bytes] = leaves if isinstance(leaves, Digests) else list(leaves)
        tasks = (self.leaves[at : at + _TASK] for at in range(0, len(self.leaves), _TASK))
        if workers > 1 and isinstance(self.leaves, Digests) and len(self.leaves) > _TASK:
            with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
                groups = [group for found in pool.map(_groups, tasks) for group in found]
        else:
            groups = [group for task in tasks for group in _groups(task)]
        self._above = _levels(groups)

    @classmethod
    def of_set(cls, digests: Iterable[str], workers: int = 1) -> MerkleTree:
        """The tree of a set of hexadecimal SHA-256 digests: each once, in ascending order.

        Raises:
            ValueError: one of them is none.
        """
        return cls(Digests.of_set(list(digests)), workers)

    @property
    def root(self) -> bytes:
        """The root; SHA-256 of nothing for an empty tree."""
        return self._above[-1][0] if self.leaves else hashlib.sha256().digest()

    def prove(self, index: int) -> InclusionProof:
        """Proof for the leaf at `index`.

        Raises:
            IndexError: there is no such leaf.
        """
        if not 0 <= index < len(self.leaves):
            raise IndexError(f"leaf {index} of {len(self.leaves)}")
        group = index >> _GROUP
        first = group << _GROUP
        inside = _levels(_leaf_hashes(self.leaves[first : first + (1 << _GROUP)]))
        path = _beside(inside, index - first) + _beside(self._above, group)
        return InclusionProof(self.leaves[index], index, len(self.leaves), tuple(path))

    def prove_membership(self, leaf: bytes) -> InclusionProof | AbsenceProof:
        """Proof that `leaf` is in a tree of sorted leaves (see `of_set`), or that it is not."""
        place = bisect.bisect_left(self.leaves, leaf)
        if place < len(self.leaves) and self.leaves[place] == leaf:
            return self.prove(place)
        before = self.prove(place - 1) if place > 0 else None
        after = self.prove(place) if place < len(self.leaves) else None
        return AbsenceProof(leaf, before, after)


def _groups(leaves: Sequence[bytes]) -> list[bytes]:
    """Hashes of the groups of leaves, of which all but the last are full."""
    level = _leaf_hashes(leaves)
    for _ in range(_GROUP):
        level = _above(level)
    return level


def _leaf_hashes(leaves: Sequence[bytes]) -> list[bytes]:
    if not isinstance(leaves, Digests):
        return [leaf_hash(leaf) for leaf in leaves]
    return _hashed(0, np.frombuffer(leaves.joined, np.uint8).reshape(-1, _DIGEST)) if leaves else []


def _above(below: list[bytes]) -> list[bytes]:
    """The next level; an odd one rises as it is: the RFC's split, seen from below."""
    even = len(below) & ~1
    if not even:
        return below
    return _hashed(1, np.frombuffer(b"".join(below[:even]), np.uint8).reshape(-1, 2 * _DIGEST)) + below[even:]


def _hashed(prefix: int, rows: npt.NDArray[np.uint8]) -> list[bytes]:
    """SHA-256 of each row behind a byte."""
    sha256, width = hashlib.sha256, rows.shape[1] + 1
    prefixed = np.full((len(rows), width), prefix, np.uint8)
    prefixed[:, 1:] = rows
    return [sha256(row).digest() for (row,) in struct.iter_unpack(f"{width}s", prefixed.data)]


def _levels(lowest: list[bytes]) -> list[list[bytes]]:
    levels = [lowest]
    while len(levels[-1]) > 1:
        levels.append(_above(levels[-1]))
    return levels


def _beside(levels: list[list[bytes]], place: int) -> list[bytes]:
    """Hashes beside the way from a place of the lowest level to the highest."""
    path = []
    for level in levels[:-1]:
        if place ^ 1 < len(level):
            path.append(level[place ^ 1])
        place //= 2
    return path

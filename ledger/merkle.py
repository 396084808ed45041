"""Merkle trees as in RFC 6962, section 2.1: one hash for a set of documents, and short proofs of who is in it.

Leaf hash: SHA-256(0x00 || leaf); node hash: SHA-256(0x01 || left || right); a tree of n leaves splits at the largest power of
two below n. The prefixes keep a node from passing as a leaf. Sorted leaves make absence provable too: two leaves that stand
side by side, with the missing one between them.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np

_GROUP = 10  # 2**10 leaves below each hash that is kept
_TASK = 1 << 17  # leaves that are hashed together; a multiple of a group
_DIGEST = 32


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


class MerkleTree:
    """A tree over leaves in the order given.

    Kept are the leaves and the hashes of whole groups of 1,024 of them and above; what lies inside a group is computed again
    for a proof.
    """

    def __init__(self, leaves: Iterable[bytes], workers: int = 1) -> None:
        """Hash the leaves; with `workers` above 1 in as many processes, which pays from some hundred thousand leaves on."""
        self.leaves: Sequence[bytes] = list(leaves)
        if workers > 1 and len(self.leaves) > _TASK:
            widths = np.fromiter(map(len, self.leaves), np.int64, len(self.leaves))
            starts = range(0, len(self.leaves), _TASK)
            tasks = ((b"".join(self.leaves[at : at + _TASK]), widths[at : at + _TASK]) for at in starts)  # bytes travel quickly
            with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
                groups = [group for found in pool.map(_groups_of_joined, tasks) for group in found]
        else:
            groups = _groups(self.leaves)
        self._above = _levels(groups)

    @classmethod
    def of_set(cls, digests: Iterable[str], workers: int = 1) -> MerkleTree:
        """The tree of a set of hexadecimal digests: each once, in ascending order."""
        return cls(_ascending([bytes.fromhex(digest) for digest in digests]), workers)

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
        inside = _levels([leaf_hash(leaf) for leaf in self.leaves[first : first + (1 << _GROUP)]])
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
    sha256, found = hashlib.sha256, []
    for start in range(0, len(leaves), 1 << _GROUP):
        level = [sha256(b"\x00" + leaf).digest() for leaf in leaves[start : start + (1 << _GROUP)]]
        while len(level) > 1:
            level = _above(level)
        found += level
    return found


def _groups_of_joined(task: tuple[bytes, Any]) -> list[bytes]:
    """`_groups` of leaves that lie end to end, given their sizes."""
    joined, widths = task
    ends = np.cumsum(widths)
    return _groups([joined[at:end] for at, end in zip((ends - widths).tolist(), ends.tolist(), strict=True)])


def _above(below: list[bytes]) -> list[bytes]:
    """The next level; an odd one rises as it is: the RFC's split, seen from below."""
    sha256 = hashlib.sha256
    pairs = zip(below[::2], below[1::2], strict=False)
    return [sha256(b"\x01" + left + right).digest() for left, right in pairs] + below[len(below) & ~1 :]


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


def _ascending(digests: list[bytes]) -> list[bytes]:
    """Each once, in ascending order. Many are sorted by their first 8 bytes, and by the rest where these are equal."""
    if len(digests) < _TASK or {len(digest) for digest in digests} != {_DIGEST}:
        return sorted(set(digests))
    joined = b"".join(digests)
    start = np.ndarray(len(digests), ">u8", joined, strides=(_DIGEST,)).astype(np.uint64)
    order = np.argsort(start)
    start = start[order]
    tied = np.zeros(len(order) + 1, np.bool_)
    tied[1:-1] = start[1:] == start[:-1]
    single = order[~(tied[1:] | tied[:-1])]
    ascending = np.frombuffer(joined, f"V{_DIGEST}")[single].tobytes()
    found = [ascending[at : at + _DIGEST] for at in range(0, len(ascending), _DIGEST)]
    rest = sorted({digests[number] for number in order[tied[1:] | tied[:-1]].tolist()})
    return list(heapq.merge(found, rest)) if rest else found

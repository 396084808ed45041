"""Merkle trees as in RFC 6962, section 2.1: one hash for a set of documents, and short proofs of who is in it.

Leaf hash: SHA-256(0x00 || leaf); node hash: SHA-256(0x01 || left || right); a tree of n leaves splits at the largest power of
two below n. The prefixes keep a node from passing as a leaf. Sorted leaves make absence provable too: two leaves that stand
side by side, with the missing one between them.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


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
    """A tree over leaves in the order given."""

    def __init__(self, leaves: Iterable[bytes]) -> None:
        self.leaves: Sequence[bytes] = list(leaves)
        self._levels = [[leaf_hash(leaf) for leaf in self.leaves]]
        while len(below := self._levels[-1]) > 1:
            level = [node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
            self._levels.append(level + below[len(level) * 2 :])  # an odd one rises as it is: the RFC's split, from below

    @classmethod
    def of_set(cls, digests: Iterable[str]) -> MerkleTree:
        """The tree of a set of hexadecimal digests: each once, in ascending order."""
        return cls(sorted({bytes.fromhex(digest) for digest in digests}))

    @property
    def root(self) -> bytes:
        """The root; SHA-256 of nothing for an empty tree."""
        return self._levels[-1][0] if self.leaves else hashlib.sha256().digest()

    def prove(self, index: int) -> InclusionProof:
        """Proof for the leaf at `index`.

        Raises:
            IndexError: there is no such leaf.
        """
        if not 0 <= index < len(self.leaves):
            raise IndexError(f"leaf {index} of {len(self.leaves)}")
        path, place = [], index
        for level in self._levels[:-1]:
            sibling = place ^ 1
            if sibling < len(level):
                path.append(level[sibling])
            place //= 2
        return InclusionProof(self.leaves[index], index, len(self.leaves), tuple(path))

    def prove_membership(self, leaf: bytes) -> InclusionProof | AbsenceProof:
        """Proof that `leaf` is in a tree of sorted leaves (see `of_set`), or that it is not."""
        place = bisect.bisect_left(self.leaves, leaf)
        if place < len(self.leaves) and self.leaves[place] == leaf:
            return self.prove(place)
        before = self.prove(place - 1) if place > 0 else None
        after = self.prove(place) if place < len(self.leaves) else None
        return AbsenceProof(leaf, before, after)

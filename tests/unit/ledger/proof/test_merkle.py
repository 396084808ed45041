from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.proof.merkle import AbsenceProof, Digests, InclusionProof, MerkleTree, leaf_hash, node_hash

# The leaves and roots with which implementations of Certificate Transparency test themselves.
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(1, 9))
def test_known_roots(size: int) -> None:
    assert MerkleTree(LEAVES[:size]).root.hex() == ROOTS[size - 1]


def test_empty_tree() -> None:
    assert MerkleTree([]).root.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    with pytest.raises(IndexError, match="leaf 0 of 0"):
        MerkleTree([]).prove(0)


def recursive_root(leaves: list[bytes]) -> bytes:
    """The RFC's own definition."""
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(recursive_root(leaves[:split]), recursive_root(leaves[split:]))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 70))
def test_every_leaf_is_proved_and_nothing_else(size: int) -> None:
    leaves = [hashlib.sha256(bytes([number])).digest() for number in range(size)]
    tree = MerkleTree(leaves)
    assert tree.root == recursive_root(leaves)
    for index, leaf in enumerate(leaves):
        proof = tree.prove(index)
        assert proof.holds(tree.root) and proof.leaf == leaf
        assert len(proof.path) <= (size - 1).bit_length()
        assert not replace(proof, leaf=b"other").holds(tree.root)
        assert not replace(proof, index=index + 1).holds(tree.root)
        assert not replace(proof, path=(*proof.path, leaf)).holds(tree.root)
        assert not replace(proof, path=proof.path[1:]).holds(tree.root) or not proof.path
        assert not proof.holds(leaf_hash(leaf)) or size == 1


def test_a_node_does_not_pass_as_a_leaf() -> None:
    tree = MerkleTree(LEAVES[:4])
    pair = leaf_hash(LEAVES[0]) + leaf_hash(LEAVES[1])
    right = node_hash(leaf_hash(LEAVES[2]), leaf_hash(LEAVES[3]))
    assert not InclusionProof(pair, 0, 2, (right,)).holds(tree.root)


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def test_a_set_has_one_root() -> None:
    digests = [digest(number) for number in range(100)]
    assert MerkleTree.of_set([*digests, digests[3]]).root == MerkleTree.of_set(reversed(digests)).root
    assert MerkleTree.of_set(digests).root != MerkleTree.of_set(digests[1:]).root


@pytest.mark.parametrize("size", [0, 1, 2, 3, 50])
def test_membership_is_proved_either_way(size: int) -> None:
    tree = MerkleTree.of_set(digest(number) for number in range(size))
    for number in range(200):
        leaf = bytes.fromhex(digest(number))
        proof = tree.prove_membership(leaf)
        assert isinstance(proof, InclusionProof) == (number < size)
        assert proof.leaf == leaf and proof.holds(tree.root)


def test_false_absence_is_refused() -> None:
    tree = MerkleTree.of_set(digest(number) for number in range(50))
    leaves = tree.leaves
    assert not AbsenceProof(leaves[5], tree.prove(4), tree.prove(6)).holds(tree.root)  # neighbours that are none
    assert not AbsenceProof(leaves[5], tree.prove(4), tree.prove(5)).holds(tree.root)  # it is the neighbour
    assert not AbsenceProof(leaves[5], tree.prove(4), None).holds(tree.root)  # not the end of the tree
    assert not AbsenceProof(leaves[5], None, tree.prove(6)).holds(tree.root)
    assert not AbsenceProof(leaves[5], None, None).holds(tree.root)
    absent = tree.prove_membership(bytes(32))
    assert isinstance(absent, AbsenceProof) and absent.holds(tree.root)
    assert not replace(absent, leaf=b"\xff" * 32).holds(tree.root)  # on the wrong side of its neighbour


@pytest.mark.parametrize("size", [1023, 1024, 1025, 2048, 5000])
def test_trees_of_more_than_one_group(size: int) -> None:
    leaves = sorted(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(size))
    tree = MerkleTree(leaves)
    assert tree.root == recursive_root(leaves)
    for index in (0, 1023 % size, 1024 % size, size // 2, size - 1):
        assert tree.prove(index).holds(tree.root)
    absent = tree.prove_membership(hashlib.sha256(b"absent").digest())
    assert isinstance(absent, AbsenceProof) and absent.holds(tree.root)


def test_a_set_in_order() -> None:
    """Digests that share their first bytes, some of which come twice, among many."""
    digests = [hashlib.sha256(number.to_bytes(4, "big")).hexdigest() for number in range(500)]
    near = [digests[9][:16] + "00" * 24, digests[9][:16] + "ff" * 24, digests[9][:40] + "00" * 12]
    digests += [digests[7], digests[7], *near, *near]
    expected = sorted({bytes.fromhex(digest) for digest in digests})
    leaves = Digests.of_set(digests[::-1])
    assert list(leaves) == expected
    assert [leaves[0], leaves[-1], *leaves[3:5]] == [expected[0], expected[-1], *expected[3:5]]
    assert MerkleTree(leaves).root == MerkleTree(expected).root == recursive_root(expected)
    with pytest.raises(IndexError):
        leaves[len(leaves)]


def test_what_is_no_digest_is_refused() -> None:
    for wrong in ("00", "0" * 62 + "  ", "zz" * 32):
        with pytest.raises(ValueError):
            MerkleTree.of_set([digest(1), wrong])


def test_processes_give_the_same_tree() -> None:
    leaves = [number.to_bytes(32, "big") for number in range((1 << 17) + 3000)]
    assert MerkleTree(Digests(b"".join(leaves)), workers=2).root == MerkleTree(leaves).root

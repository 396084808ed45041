"""The one-file verifier: Ed25519 against RFC 8032's own vectors, and every way in which an envelope or a proof may be wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger import verifier
from ledger.proof.merkle import InclusionProof, MerkleTree, leaf_hash
from ledger.verifier import InvalidError, check_proof, public_key_bytes, read_statement, root_of, verify_ed25519

# RFC 8032, section 7.1: public key, message, signature of TEST 1, 2, 3 and SHA(abc).
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
]


@pytest.mark.parametrize(("key", "message", "signature"), VECTORS)
def test_vectors_of_rfc_8032(key: str, message: str, signature: str) -> None:
    public, text, signed = bytes.fromhex(key), bytes.fromhex(message), bytes.fromhex(signature)
    assert verify_ed25519(public, text, signed)
    assert not verify_ed25519(public, text + b"x", signed)
    for place in (0, 31, 32, 63):
        altered = bytearray(signed)
        altered[place] ^= 1
        assert not verify_ed25519(public, text, bytes(altered))
    assert not verify_ed25519(bytes(32), text, signed) and not verify_ed25519(public, text, signed[:63])


def test_a_signature_has_one_form() -> None:
    """s + L is refused (malleability), and so is a point whose y is not reduced."""
    key, message, signature = (bytes.fromhex(part) for part in VECTORS[1])
    s = int.from_bytes(signature[32:], "little") + 2**252 + 27742317777372353535851937790883648493
    assert not verify_ed25519(key, message, signature[:32] + s.to_bytes(32, "little"))
    assert not verify_ed25519((2**255 - 18).to_bytes(32, "little"), message, signature)


def test_agrees_with_the_library_that_signs() -> None:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    for number in range(8):
        key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([number] * 32))
        message = bytes(range(number * 11))
        assert verify_ed25519(key.public_key().public_bytes_raw(), message, key.sign(message))


@pytest.mark.parametrize("size", [*range(1, 18), 31, 32, 33])
def test_paths_are_those_of_the_ledgers_trees(size: int) -> None:
    tree = MerkleTree([bytes([number]) for number in range(size)])
    for index in range(size):
        proof = tree.prove(index)
        assert root_of(proof.leaf, index, size, list(proof.path)) == tree.root
        if proof.path:
            with pytest.raises(InvalidError):
                root_of(proof.leaf, index, size, list(proof.path[:-1]))
        with pytest.raises(InvalidError):
            root_of(proof.leaf, index, size, [*proof.path, leaf_hash(b"")])


def _place(proof: InclusionProof) -> dict[str, Any]:
    return {"index": proof.index, "path": [base64.b64encode(node).decode() for node in proof.path]}


def _neighbour(tree: MerkleTree, index: int) -> dict[str, Any]:
    return {"document": tree.leaves[index].hex(), **_place(tree.prove(index))}


LEAVES = [bytes([number]) * 32 for number in range(10, 110, 10)]
TREE = MerkleTree(LEAVES)
ROOT = {"size": len(LEAVES), "merkleRoot": TREE.root.hex()}
EMPTY = {"size": 0, "merkleRoot": MerkleTree([]).root.hex()}
STATEMENT: dict[str, Any] = {
    "_type": verifier.STATEMENT,
    "predicate": {
        "checkpoint": {"name": "step-000001"},
        "documents": EMPTY,
        "consumed": {"documents": ROOT, "order": EMPTY},
    },
}
PAYLOAD = json.dumps(STATEMENT).encode()
BELONGS = {"statement": hashlib.sha256(PAYLOAD).hexdigest(), "set": "consumed"}


def _absence(leaf: bytes, before: int | None, after: int | None) -> dict[str, Any]:
    sides = {"before": before, "after": after}
    return {
        **BELONGS,
        "kind": "absence",
        "document": leaf.hex(),
        **{name: None if index is None else _neighbour(TREE, index) for name, index in sides.items()},
    }


@pytest.mark.parametrize(("leaf", "before", "after"), [(b"\x0b", 0, 1), (b"\x01", None, 0), (b"\xff", 9, None)])
def test_absence(leaf: bytes, before: int | None, after: int | None) -> None:
    assert "is not in what step-000001 consumed" in check_proof(_absence(leaf * 32, before, after), STATEMENT, PAYLOAD)


def test_nothing_is_in_an_empty_set() -> None:
    proof = {**BELONGS, "set": "training", "kind": "absence", "document": "00" * 32, "before": None, "after": None}
    assert "is not in the training set" in check_proof(proof, STATEMENT, PAYLOAD)


@pytest.mark.parametrize(
    ("proof", "message"),
    [
        (_absence(LEAVES[1], 0, 2), "side by side"),
        (_absence(LEAVES[1], 0, 1), "not behind it"),
        (_absence(LEAVES[1], 1, 2), "not before it"),
        (_absence(b"\x01" * 32, None, 1), "side by side"),
        (_absence(b"\xff" * 32, 8, None), "side by side"),
        (_absence(LEAVES[1], None, None), "the set is not empty"),
        ({**BELONGS, "kind": "inclusion", "document": LEAVES[1].hex(), **_place(TREE.prove(2))}, "does not lead"),
        (
            {**BELONGS, "kind": "inclusion", "document": LEAVES[1].hex(), **_place(TREE.prove(1)), "index": 1.0},
            "leaf 1.0 of 10",
        ),
        ({**BELONGS, "kind": "inclusion", "statement": "00"}, "another statement"),
        ({**BELONGS, "kind": "hearsay", "document": "00"}, "unknown kind"),
    ],
)
def test_proofs_of_nothing(proof: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        check_proof(proof, STATEMENT, PAYLOAD)


def test_other_statements_and_keys_are_refused() -> None:
    with pytest.raises(InvalidError, match="not an in-toto Statement v1"):
        read_statement(b'{"_type": "https://in-toto.io/Statement/v0.1"}')
    for text in ("", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "-----BEGIN PRIVATE KEY-----"):
        with pytest.raises(InvalidError, match="public key"):
            public_key_bytes(text)


@pytest.mark.parametrize(
    ("proof", "status", "said"),
    [
        (lambda: json.dumps(_absence(b"\x0b" * 32, 0, 1)), 0, "ok       document 0b"),
        (lambda: json.dumps(_absence(LEAVES[1], 0, 2)), 1, "side by side"),
        (lambda: "[]", 1, "TypeError"),
        (lambda: json.dumps({"proofs": []}), 1, "there is no proof in it"),
        (lambda: json.dumps({"proofs": [_absence(b"\x0b" * 32, 0, 1), _absence(LEAVES[1], 0, 2)]}), 1, "side by side"),
        (lambda: "{", 1, "JSONDecodeError"),
    ],
)
def test_runs_alone(tmp_path: Path, proof: Callable[[], str], status: int, said: str) -> None:
    """A copy of the one file, without this project or any other package in reach."""
    copy = tmp_path / "verifier.py"
    copy.write_bytes(Path(verifier.__file__).read_bytes())
    (tmp_path / "statement.json").write_bytes(PAYLOAD)
    (tmp_path / "proof.json").write_text(proof())
    command = [sys.executable, "-I", "-S", str(copy), "--unsigned", "statement.json", "proof.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "") and said in done.stdout
    assert "no signature was checked" in done.stdout


def test_an_envelope_needs_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        verifier.main(["--envelope", "x.json"])
    assert "--envelope needs --public-key" in capsys.readouterr().err

"""Proofs for `ledger/verifier.py` to check: a document is in a set or is not (some 3 kB of JSON), or what a step consumed.

A proof names the SHA-256 of the statement that it belongs to, so it says nothing of another. Paths are base64, lowest first.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.dataset as ds

from ledger import LedgerError
from ledger.journal import Segment
from ledger.proof.consumption import Consumption
from ledger.proof.merkle import AbsenceProof, InclusionProof, MerkleTree
from ledger.query import Ledger

Set = Literal["consumed", "training"]
IDS: Literal["training-ids"] = "training-ids"  # the set of the SHA-256 of ids


@dataclass(frozen=True)
class Prover:
    """Makes proofs for one statement.

    Attributes:
        consumption: the project's.
        segment: what left the checkpoint that the statement is about.
        payload: the statement's bytes, as signed.
        predicate: what it says.
    """

    consumption: Consumption
    segment: Segment
    payload: bytes
    predicate: dict[str, Any]

    @classmethod
    def of(cls, root: Path, payload: bytes) -> Prover:
        """Open the project that a statement is about.

        Raises:
            LedgerError: not a statement of the attest stage, or of another project.
        """
        ledger = Ledger(root)
        try:
            predicate = json.loads(payload)["predicate"]
            weights = predicate["checkpoint"]["weights_sha256"]
        except (ValueError, LookupError, TypeError) as error:
            raise LedgerError(f"not a statement about a checkpoint: {error!r}") from error
        return cls(Consumption(ledger), ledger.journal.path_to(weights)[-1], payload, predicate)

    def document(self, digest: str, which: Set = "consumed") -> dict[str, Any]:
        """Proof that the document with this raw_sha256 is in a set, or that it is not.

        Raises:
            LedgerError: not a SHA-256, or the documents that lie here are not those of the statement.
        """
        try:
            leaf = bytes.fromhex(digest)
        except ValueError as error:
            raise LedgerError(f"{digest!r}: not a SHA-256 digest in hexadecimal") from error
        if len(leaf) != 32:
            raise LedgerError(f"{digest!r}: not a SHA-256 digest of 64 hexadecimal digits")
        if which == "consumed":
            leaves, stated = self.consumption.documents(self.segment), self.predicate["consumed"]["documents"]
        else:
            leaves, stated = self.consumption.training_set(), self.predicate["documents"]
        tree = self._checked(MerkleTree.of_set(leaves), stated, "documents")
        return membership(tree.prove_membership(leaf), which, self.payload)

    def step(self, number: int) -> dict[str, Any]:
        """Proof of what a step consumed, and in which order.

        Raises:
            LedgerError: the checkpoint was not trained on that step, or its order is not that of the statement.
        """
        index = 0
        for segment in self.consumption.ledger.journal.ancestry(self.segment):
            if not segment.first_step <= number <= segment.last_step or segment.skips(number):
                index += len(self.consumption.own_leaves(segment))
                continue
            index += sum(not segment.skips(step) for step in range(segment.first_step, number))
            (step,) = self.consumption.steps(segment, number)
            tree = self._checked(self.consumption.tree(self.segment), self.predicate["consumed"]["order"], "order")
            place = {"step": step.step, "first_sample": step.first_sample, "samples": step.samples, "records": step.rows()}
            return {"statement": _digest(self.payload), "kind": "step", **place, **_place(tree.prove(index))}
        raise LedgerError(f"no segment that led to checkpoint {self.segment.checkpoint} was trained on step {number}")

    def _checked(self, tree: MerkleTree, stated: dict[str, Any], what: str) -> MerkleTree:
        if tree.root.hex() != stated["merkleRoot"]:
            raise LedgerError(
                f"{self.consumption.ledger.root}: the {what} that lie here have another Merkle root than the statement. "
                "Remedy: prove in the project as it was when the statement was signed (`git checkout`, `dvc checkout`)"
            )
        return tree


def membership(proof: InclusionProof | AbsenceProof, which: str, payload: bytes | None) -> dict[str, Any]:
    """A proof as the verifier reads it; `payload` is the statement that it belongs to, None where there is none yet."""
    facts = {"statement": _digest(payload) if payload is not None else None, "set": which, "document": proof.leaf.hex()}
    if isinstance(proof, InclusionProof):
        return facts | {"kind": "inclusion", **_place(proof)}
    before, after = (side and {"document": side.leaf.hex(), **_place(side)} for side in (proof.before, proof.after))
    return facts | {"kind": "absence", "before": before, "after": after}


def digest_of(root: Path, doc_id: str) -> str:
    """raw_sha256 of a document by its id, of one that was dropped or held out too.

    Raises:
        LedgerError: neither the corpus nor the labelled rows have it.
    """
    files = [*sorted((root / "data/corpus/documents").glob("*.parquet")), root / "data/instruct/documents.parquet"]
    for file in files:
        if file.is_file():
            table = ds.dataset(file).to_table(columns=["raw_sha256"], filter=ds.field("doc_id") == doc_id)
            if table.num_rows:
                return str(table["raw_sha256"][0].as_py())
    raise LedgerError(f"no document {doc_id!r} in {root / 'data'}. Remedy: `glm lineage seen --doc` names similar ones")


def _digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def _place(proof: InclusionProof) -> dict[str, Any]:
    return {"index": proof.index, "path": [base64.b64encode(node).decode() for node in proof.path]}

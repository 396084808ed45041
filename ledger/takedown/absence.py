"""Proof that what was taken down is in no part of the build that lies here, and a list of the checkpoints that still know it.

Two Merkle trees of sorted leaves (`ledger.proof.merkle`) are made from the tables that training read: one over the raw hashes
of all documents and one over the SHA-256 of their ids; the attest stage's statements name both roots. A proof of absence is two
neighbours with the missing leaf between them. A hash that other records of the same file bear too is still there, and
says nothing; then the id's proof stands alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from ledger import LedgerError
from ledger.proof.consumption import id_digest
from ledger.proof.merkle import AbsenceProof, InclusionProof, MerkleTree
from ledger.proof.prover import IDS, membership
from ledger.tombstones import FILE, Document, Tombstones, read

_TRAINED = ("data/decontaminate/train/documents", "data/instruct/documents.parquet")
_HELDOUT = "data/decontaminate/heldout/documents"


@dataclass(frozen=True)
class Proof:
    """What shows that a document is gone. `by_hash` is None where the hash is not its alone; `heldout`: rows on that side."""

    document: Document
    by_id: InclusionProof | AbsenceProof
    by_hash: InclusionProof | AbsenceProof | None
    heldout: int

    @property
    def absent(self) -> bool:
        """Whether every part of it says so."""
        return not self.heldout and all(isinstance(proof, AbsenceProof) for proof in (self.by_id, self.by_hash or self.by_id))


@dataclass(frozen=True)
class Absence:
    """The proofs of all tombstones against two roots; `attested`: the files of data/attest that name both roots."""

    ids: bytes
    hashes: bytes
    attested: tuple[str, ...]
    proofs: tuple[Proof, ...]

    @property
    def holds(self) -> bool:
        """Whether all documents are gone and every proof leads to its root."""
        return all(
            proof.absent and proof.by_id.holds(self.ids) and (proof.by_hash is None or proof.by_hash.holds(self.hashes))
            for proof in self.proofs
        )

    def named_by(self, statement: bytes) -> bool:
        """Whether a statement names both roots."""
        return all(root.hex().encode() in statement for root in (self.ids, self.hashes))

    def to_json(self, statement: bytes | None) -> dict[str, Any]:
        """What `ledger/verifier.py` checks against a statement (None: none names the roots yet), and what it is about."""
        proofs: list[dict[str, Any]] = []
        for proof in self.proofs:
            proofs.append({"doc_id": proof.document.doc_id, **membership(proof.by_id, IDS, statement)})
            if proof.by_hash is not None:
                proofs.append({"doc_id": proof.document.doc_id, **membership(proof.by_hash, "training", statement)})
        documents = [
            {"doc_id": p.document.doc_id, "raw_sha256": p.document.raw_sha256, "absent": p.absent, "heldout": p.heldout}
            for p in self.proofs
        ]
        roots = {"documentIds": self.ids.hex(), "documents": self.hashes.hex()}
        return {"roots": roots, "attested": list(self.attested), "holds": self.holds, "asked": documents, "proofs": proofs}


@dataclass(frozen=True)
class Remains:
    """A checkpoint or an export that was shown what was taken down, and the folders of this project where it still lies."""

    checkpoint: str
    weights_sha256: str
    asked: tuple[str, ...]
    folders: tuple[str, ...]


def prove(root: Path) -> Absence:
    """Proofs for every document of the tombstone file.

    Raises:
        LedgerError: no tombstone file, or no build.
    """
    stones = read(root / FILE)
    documents = pa.concat_tables([_table(root / path) for path in _TRAINED], promote_options="permissive")
    ids = MerkleTree.of_set(id_digest(doc_id) for doc_id in documents["doc_id"].to_pylist())
    hashes = MerkleTree.of_set(documents["raw_sha256"].to_pylist())
    heldout = _table(root / _HELDOUT).to_pylist()
    proofs = []
    for document in stones.documents:
        by_hash = hashes.prove_membership(bytes.fromhex(document.raw_sha256)) if document.alone else None
        rows = sum(_is(document, row) for row in heldout)
        proofs.append(Proof(document, ids.prove_membership(bytes.fromhex(id_digest(document.doc_id))), by_hash, rows))
    attested = [
        file.relative_to(root).as_posix()
        for file in sorted((root / "data/attest").rglob("*.json"))
        for text in [file.read_text(encoding="utf-8")]
        if all(tree.root.hex() in text for tree in (ids, hashes))
    ]
    return Absence(ids.root, hashes.root, tuple(attested), tuple(proofs))


def remains(root: Path, stones: Tombstones) -> list[Remains]:
    """The checkpoints that the tombstones remember, in the order in which these name them."""
    asked: dict[tuple[str, str], list[str]] = {}
    for entry in stones.entries:
        for holder in entry.held_by:
            asked.setdefault((holder.checkpoint, holder.weights_sha256), []).append(entry.asked)
    lying = dict(_lying(root, {digest for _, digest in asked}))
    return [
        Remains(name, digest, tuple(what), tuple(sorted(folder for folder, held in lying.items() if held == digest)))
        for (name, digest), what in asked.items()
    ]


def _lying(root: Path, digests: set[str]) -> Iterator[tuple[str, str]]:
    """(folder, digest) of every folder of the project whose records name weights with one of the digests."""
    records = [
        *(root / "data").glob("*/*/*.json"),
        *(root / "data").glob("*/*/*/*.json"),
        *(root / "runs").rglob("manifest.json"),
    ]
    for file in sorted({record for record in records if record.name in ("manifest.json", "config.json")}):
        text = file.read_text(encoding="utf-8")
        for digest in digests:
            if digest in text:
                yield file.parent.relative_to(root).as_posix(), digest


def _is(document: Document, row: dict[str, str]) -> bool:
    return row["doc_id"] == document.doc_id or (document.alone and row["raw_sha256"] == document.raw_sha256)


def _table(path: Path) -> pa.Table:
    if not path.exists():
        raise LedgerError(f"{path}: no such file or folder. Remedy: run `dvc repro`")
    return ds.dataset(path, format="parquet").to_table(columns=["doc_id", "raw_sha256"])

"""Signing: a key, and the DSSE envelope (in-toto) of a statement, made outside the outputs of the stages.

What a stage writes depends on its declared inputs alone, and neither a key nor a git commit is one. So the statements in
`data/attest/statements/` are unsigned; signing adds `predicate.build`, what is true of the place of signing (git commit,
environment lock, digest of the attest stage's own manifest), and puts an envelope where nothing is rebuilt. Ed25519
signatures are deterministic (RFC 8032): the same statement, commit and key give the same bytes again.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ledger import LedgerError, canonical_json
from ledger.verifier import PAYLOAD_TYPE, InvalidError, open_envelope, public_key_bytes

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

STATEMENTS = "data/attest/statements"
LOCKS = ("constraints.txt", "dvc.lock")


def make_key(path: Path, project: Path) -> Path:
    """Write a new Ed25519 private key (PEM, PKCS #8, readable by its owner only) and `path`.pub; returns the latter.

    Raises:
        LedgerError: there is a key already, or the place is inside the project, from where it would be published.
    """
    from cryptography.hazmat.primitives import serialization
    from securesystemslib.signer import CryptoSigner

    if path.resolve().is_relative_to(project.resolve()):
        raise LedgerError(f"{path}: inside the project, from where it would be published. Remedy: a path outside of it")
    if path.exists():
        raise LedgerError(f"{path}: exists; a key is never overwritten. Remedy: another path, or remove it yourself")
    signer = CryptoSigner.generate_ed25519()
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(signer.private_bytes)
    public = path.with_name(path.name + ".pub")
    loaded = serialization.load_pem_private_key(signer.private_bytes, password=None)
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    public.write_bytes(loaded.public_key().public_bytes(*form))
    return public


def load_key(path: Path) -> CryptoSigner:
    """The signer of a private key file.

    Raises:
        LedgerError: the file is absent, or no Ed25519 key in PEM.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise LedgerError(f"{path}: no such key. Remedy: `glm attest keygen --key {path}`") from error
    except (ValueError, TypeError) as error:
        raise LedgerError(f"{path}: not a private key in PEM without a password: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise LedgerError(f"{path}: not an Ed25519 key. Remedy: make one with `glm attest keygen`")
    return CryptoSigner(key)


def statement_file(root: Path, checkpoint: str) -> Path:
    """The unsigned statement of a checkpoint.

    Raises:
        LedgerError: the attest stage wrote none for it; the message names those that there are.
    """
    file = root / STATEMENTS / f"{checkpoint}.json"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in (root / STATEMENTS).glob("*.json"))) or "none"
        raise LedgerError(f"{file}: no statement of checkpoint {checkpoint!r}. Known: {known}. Remedy: `dvc repro attest`")
    return file


def build_facts(root: Path, commit: str | None = None) -> dict[str, Any]:
    """`predicate.build`: what signing adds to a statement.

    Args:
        root: the project.
        commit: the git commit, for a project that is not a git work tree; asked from git otherwise.

    Raises:
        LedgerError: no commit, or files that the graph declares differ from it.
    """
    locks = {name: _sha256(root / name) for name in LOCKS if (root / name).is_file()}
    if missing := [name for name in LOCKS if name not in locks]:
        raise LedgerError(f"{root}: no {', '.join(missing)}: the environment or the build is not locked. Remedy: restore them")
    return {
        "gitCommit": commit or _commit(root),
        "environmentLock": {"name": LOCKS[0], "sha256": locks[LOCKS[0]]},
        "buildLock": {"name": LOCKS[1], "sha256": locks[LOCKS[1]]},
        "ran": _ran(root),
        "attestManifest": _sha256(root / "data/attest/manifest.json"),
    }


def sign(statement: dict[str, Any], build: dict[str, Any], signer: CryptoSigner) -> str:
    """The envelope, as JSON text, of a statement with its `predicate.build`."""
    from securesystemslib.dsse import Envelope

    signed = {**statement, "predicate": {**statement["predicate"], "build": build}}
    envelope = Envelope(canonical_json(signed).encode(), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), indent=1, sort_keys=True) + "\n"


def read_envelope(path: Path, public_key: Path) -> bytes:
    """The payload of an envelope file, its signature checked.

    Raises:
        LedgerError: a file is absent or damaged, or no signature is by the key.
    """
    try:
        return open_envelope(json.loads(path.read_bytes()), public_key_bytes(public_key.read_text(encoding="utf-8")))
    except InvalidError as error:
        raise LedgerError(f"{path}: {error}") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise LedgerError(f"{path}: not a DSSE envelope, or {public_key} is not a public key: {error!r}") from error


def _commit(root: Path) -> str:
    """The commit of the work tree, in which everything that decides the outputs must stand as it lies here."""
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
        code = {dep for stage in stages for dep in stage.get("deps", []) if not dep.startswith("data/")}
        changed = _git(root, "status", "--porcelain", "--", *sorted(code), "dvc.yaml", "params.yaml", *LOCKS)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LedgerError(
            f"{root}: git names no commit ({error}). Remedy: sign in the git work tree, or give --commit"
        ) from error
    if changed:
        files = ", ".join(line[3:] for line in changed.splitlines()[:3])
        raise LedgerError(f"{root}: not what commit {commit[:12]} holds: {files}. Remedy: commit, `dvc repro`, then sign")
    return commit


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout


def _ran(root: Path) -> dict[str, Any]:
    """Interpreter and libraries that the training ran with, by its run record; empty where the record was not kept."""
    file = root / "runs/pretrain/run.json"
    if not file.is_file():
        return {}
    record = json.loads(file.read_text(encoding="utf-8"))
    return {"python": record.get("python"), "versions": record.get("versions", {})}


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise LedgerError(f"{path}: no such file. Remedy: `dvc repro` or `dvc pull`")
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""Checks a signed statement about a checkpoint, and proofs about its documents. One file, standard library only.

    python verifier.py --envelope step-000400.dsse.json --public-key key.pub [--weights model.safetensors] [PROOF ...]

Copy it, read it, run it anywhere with Python 3.10 or later: it trusts the public key and nothing else. What it checks, in this
order: the Ed25519 signature (RFC 8032) of the DSSE envelope; that the payload is an in-toto Statement v1; that `--weights`
are a subject of it; and for each proof that it belongs to this statement and leads to a Merkle root (RFC 6962) in it:

- inclusion: the document with this raw_sha256 is in the set (`consumed` by the checkpoint, or the `training` set);
- absence: it is not, for its neighbours in the sorted set stand side by side; in the set `training-ids` a document goes by
  the SHA-256 of its id;
- step: the training step consumed these stretches of documents, in this order.

It prints one line for each and ends with status 0 where everything holds, 1 where something does not, 2 for a call it does not
understand. `--unsigned STATEMENT` in place of the envelope checks proofs against a statement whose signature nobody checked.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


class InvalidError(ValueError):
    """Something does not hold; the message says what."""


# Ed25519, RFC 8032 section 5.1: the curve -x^2 + y^2 = 1 + d x^2 y^2 over the integers modulo p, points as (X, Y, Z, T).
_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)  # a square root of -1
Point = tuple[int, int, int, int]


def _add(a: Point, b: Point) -> Point:
    """Sum of two points (section 5.1.4)."""
    low, high = (a[1] - a[0]) * (b[1] - b[0]) % _P, (a[1] + a[0]) * (b[1] + b[0]) % _P
    c, d = 2 * a[3] * b[3] * _D % _P, 2 * a[2] * b[2] % _P
    e, f, g, h = high - low, d - c, d + c, high + low
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _multiply(scalar: int, point: Point) -> Point:
    """`scalar` times a point. Nothing here is secret, so it need not take the same time for every scalar."""
    total: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = _add(total, point)
        point, scalar = _add(point, point), scalar >> 1
    return total


def _point(data: bytes) -> Point:
    """The point that 32 bytes encode (section 5.1.3)."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if len(data) != 32 or y >= _P:
        raise InvalidError("not a point of the curve")
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if x * x % _P != square:
        x = x * _ROOT % _P
    if x * x % _P != square or (x == 0 and sign):
        raise InvalidError("not a point of the curve")
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P


_BASE = _point((4 * pow(5, -1, _P) % _P).to_bytes(32, "little"))


def verify_ed25519(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) of `message` is by the holder of `public_key` (32 bytes); RFC 8032, section 5.1.7."""
    try:
        a, r = _point(public_key), _point(signature[:32])
    except InvalidError:
        return False
    s = int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or s >= _L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little") % _L
    left, right = _multiply(s, _BASE), _add(r, _multiply(k, a))
    return (left[0] * right[2] - right[0] * left[2]) % _P == 0 and (left[1] * right[2] - right[1] * left[2]) % _P == 0


def public_key_bytes(pem: str) -> bytes:
    """The 32 bytes of an Ed25519 public key in PEM (SubjectPublicKeyInfo, RFC 8410)."""
    lines = [line.strip() for line in pem.strip().splitlines()]
    if lines[:1] != ["-----BEGIN PUBLIC KEY-----"] or lines[-1:] != ["-----END PUBLIC KEY-----"]:
        raise InvalidError("the public key is not PEM (-----BEGIN PUBLIC KEY-----)")
    der = base64.b64decode("".join(lines[1:-1]))
    if len(der) != 44 or der[:12] != bytes.fromhex("302a300506032b6570032100"):
        raise InvalidError("the public key is not one of Ed25519")
    return der[12:]


def pae(payload_type: str, payload: bytes) -> bytes:
    """What a DSSE signature signs: type and payload with their lengths."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def open_envelope(envelope: dict[str, Any], public_key: bytes) -> bytes:
    """The payload of a DSSE envelope; raises InvalidError where no signature in it is by `public_key`."""
    payload = base64.b64decode(envelope["payload"], validate=True)
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise InvalidError("the payload is of type {!r}, not {!r}".format(envelope["payloadType"], PAYLOAD_TYPE))
    message = pae(envelope["payloadType"], payload)
    signatures = [base64.b64decode(entry["sig"], validate=True) for entry in envelope["signatures"]]
    if not any(verify_ed25519(public_key, message, signature) for signature in signatures):
        raise InvalidError("no signature of the envelope is by the holder of the public key: altered, or signed by another")
    return payload


def read_statement(payload: bytes) -> dict[str, Any]:
    """The statement in a payload; raises InvalidError where it is of another type."""
    statement = json.loads(payload)
    if statement.get("_type") != STATEMENT:
        raise InvalidError("not an in-toto Statement v1")
    return statement


def root_of(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root to which an inclusion path leads (RFC 9162, section 2.1.3.2)."""
    if type(index) is not int or not 0 <= index < size:
        raise InvalidError(f"leaf {index} of {size}")
    node, last, current = index, size - 1, hashlib.sha256(b"\x00" + leaf).digest()
    for sibling in path:
        if last == 0:
            raise InvalidError("the path is too long")
        if node % 2 or node == last:
            current = hashlib.sha256(b"\x01" + sibling + current).digest()
            while node % 2 == 0 and node:
                node, last = node // 2, last // 2
        else:
            current = hashlib.sha256(b"\x01" + current + sibling).digest()
        node, last = node // 2, last // 2
    if last:
        raise InvalidError("the path is too short")
    return current


def _leads_to(tree: dict[str, Any], leaf: bytes, place: dict[str, Any]) -> None:
    """Raises InvalidError where a path does not lead from the leaf to the tree's root in the statement."""
    path = [base64.b64decode(node, validate=True) for node in place["path"]]
    if root_of(leaf, place["index"], tree["size"], path).hex() != tree["merkleRoot"]:
        raise InvalidError("its path does not lead to the statement's Merkle root")


def check_proof(proof: dict[str, Any], statement: dict[str, Any], payload: bytes) -> str:
    """What a proof shows, in one sentence; raises InvalidError where it shows nothing about this statement."""
    if proof["statement"] != hashlib.sha256(payload).hexdigest():
        raise InvalidError("the proof belongs to another statement")
    predicate = statement["predicate"]
    name = predicate["checkpoint"]["name"]
    if proof["kind"] == "step":
        return _check_step(proof, predicate["consumed"]["order"], name)
    trees = {"consumed": predicate["consumed"]["documents"], "training": predicate["documents"]}
    if proof["set"] == "training-ids":
        trees["training-ids"] = predicate["documentIds"]
    tree, leaf = trees[proof["set"]], bytes.fromhex(proof["document"])
    where = f"what {name} consumed" if proof["set"] == "consumed" else f"the training set of {name}"
    what = "document {}".format(proof["document"])
    if proof["set"] == "training-ids":
        if hashlib.sha256(proof["doc_id"].encode()).digest() != leaf:
            raise InvalidError("the proof is about another id than it says")
        what = "document of id {!r}".format(proof["doc_id"])
    if proof["kind"] == "inclusion":
        _leads_to(tree, leaf, proof)
        return f"{what} is in {where}"
    if proof["kind"] != "absence":
        raise InvalidError("unknown kind of proof {!r}".format(proof["kind"]))
    _check_neighbours(proof, tree, leaf)
    return f"{what} is not in {where}"


def _check_neighbours(proof: dict[str, Any], tree: dict[str, Any], leaf: bytes) -> None:
    before, after = proof["before"], proof["after"]
    for neighbour in (before, after):
        if neighbour is not None:
            _leads_to(tree, bytes.fromhex(neighbour["document"]), neighbour)
    if before is None and after is None:
        if tree["size"]:
            raise InvalidError("no neighbours, but the set is not empty")
        return
    place = before["index"] + 1 if before is not None else 0
    if place != (after["index"] if after is not None else tree["size"]):
        raise InvalidError("its neighbours do not stand side by side")
    if before is not None and not bytes.fromhex(before["document"]) < leaf:
        raise InvalidError("the neighbour before it is not before it")
    if after is not None and not leaf < bytes.fromhex(after["document"]):
        raise InvalidError("the neighbour behind it is not behind it")


def _check_step(proof: dict[str, Any], tree: dict[str, Any], name: str) -> str:
    records = b"".join(
        struct.pack(">I32sII", sample, bytes.fromhex(document), offset, length)
        for sample, document, offset, length in proof["records"]
    )
    leaf = struct.pack(">QQQ", proof["step"], proof["first_sample"], proof["samples"]) + hashlib.sha256(records).digest()
    _leads_to(tree, leaf, proof)
    documents = len({record[1] for record in proof["records"]})
    return f"step {proof['step']} of {name} consumed {proof['samples']} samples, of {documents} documents, in the order given"


def check_weights(statement: dict[str, Any], path: str) -> str:
    """Which subject of the statement a file is; raises InvalidError where it is none."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    for subject in statement["subject"]:
        if subject["digest"]["sha256"] == digest.hexdigest():
            return "{} is {}".format(path, subject["name"])
    raise InvalidError(f"{path} (SHA-256 {digest.hexdigest()}) is no subject of the statement")


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _proofs(path: str) -> list[dict[str, Any]]:
    """The proofs in a file: one, or all in the list `proofs`."""
    content = json.loads(_read(path))
    proofs = list(content["proofs"]) if isinstance(content, dict) and "proofs" in content else [content]
    if not proofs:
        raise InvalidError("there is no proof in it")
    return proofs


def _payload(options: argparse.Namespace) -> bytes:
    if options.unsigned is not None:
        print("WARNING  the statement is taken as it lies there: no signature was checked")
        return _read(options.unsigned)
    public_key = public_key_bytes(_read(options.public_key).decode())
    payload = open_envelope(json.loads(_read(options.envelope)), public_key)
    print(f"ok       signature of {options.envelope}, by the key {public_key.hex()}")
    return payload


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="verifier.py", description="Check a signed statement, and proofs of what it says.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--envelope", metavar="FILE", help="DSSE envelope with the statement")
    source.add_argument("--unsigned", metavar="FILE", help="statement without a signature")
    parser.add_argument("--public-key", metavar="FILE", help="Ed25519 public key, PEM")
    parser.add_argument("--weights", metavar="FILE", action="append", default=[], help="file that must be a subject")
    parser.add_argument("proofs", metavar="PROOF", nargs="*", help="proofs, JSON: one, or a list `proofs` of them")
    options = parser.parse_args(arguments)
    if options.envelope is not None and options.public_key is None:
        parser.error("--envelope needs --public-key: a signature by nobody in particular shows nothing")
    return options


def main(arguments: list[str]) -> int:
    """The command; returns its status."""
    options = _options(arguments)
    failed = 0
    try:
        payload = _payload(options)
        statement = read_statement(payload)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        print(f"FAILED   {options.envelope or options.unsigned}: {error}")
        return 1
    checks = [(path, lambda path=path: check_weights(statement, path)) for path in options.weights]
    for path in options.proofs:
        try:
            proofs = _proofs(path)
        except (OSError, ValueError, LookupError, TypeError) as error:
            failed += _failed(path, error)
            continue
        checks += [(path, lambda proof=proof: check_proof(proof, statement, payload)) for proof in proofs]
    for path, check in checks:
        try:
            print("ok       " + check())
        except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
            failed += _failed(path, error)
    return 1 if failed else 0


def _failed(path: str, error: Exception) -> int:
    print(f"FAILED   {path}: {error if isinstance(error, InvalidError | OSError) else repr(error)}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

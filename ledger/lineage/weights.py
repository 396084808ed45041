"""A checkpoint's weights as they lie in its folder, against the SHA-256 that the journal names.

One file, or shards with an index that has the size and SHA-256 of each, where the model was spread over processes; the journal
then names the index.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


def weights_file(folder: Path) -> Path:
    """The file whose SHA-256 stands for all weights of a checkpoint."""
    return folder / INDEX if not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file() else folder / WEIGHTS


def damage(folder: Path, weights_sha256: str | None) -> list[str]:
    """What is wrong with the weights below `folder`, with the SHA-256 that each file should have; empty where all is well."""
    file = weights_file(folder)
    if not file.is_file():
        return [f"its weights are not those that the journal names: no {WEIGHTS}, which had SHA-256 {weights_sha256}"]
    found = _sha256(file)
    if found != weights_sha256:
        return [f"its weights are not those that the journal names: {file.name} has SHA-256 {found}, not {weights_sha256}"]
    if file.name == WEIGHTS:
        return []
    shards: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["shards"]
    return [wrong for name, facts in sorted(shards.items()) if (wrong := _damage_of(folder / name, **facts)) is not None]


def _damage_of(shard: Path, bytes: int, sha256: str) -> str | None:
    """What is wrong with a shard of `bytes` bytes, if anything."""
    if not shard.is_file():
        return f"shard {shard.name} is missing, which had SHA-256 {sha256}"
    size = shard.stat().st_size
    if size != bytes:
        return f"shard {shard.name} has {size} bytes of {bytes}, which had SHA-256 {sha256}"
    found = _sha256(shard)
    return None if found == sha256 else f"shard {shard.name} is altered: SHA-256 {found}, not {sha256}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Shards of tensors and their index: written piece by piece, checked before they are read, read for any tensor-parallel rank.

The index has the form that the Hugging Face libraries read (`weight_map`: tensor to file), and beside it the size and SHA-256
of every file. A tensor that tensor parallelism cuts stands there in parts named `NAME@RANK/SIZE`; what every rank holds whole,
and everything at size 1, stands once, under its own name. Moments of the optimizer are stored as `QUANTITY.NAME`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.parallel.split import part, split_of, whole

INDEX = "model.safetensors.index.json"
_PART = re.compile(r"(.+)@(\d+)/(\d+)")
_RESTORE = "Remedy: restore the folder from a copy (`dvc checkout`), or make it again"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written; the message names the file."""


@dataclass(frozen=True)
class ShardFile:
    """What the index says of a file.

    Attributes:
        bytes: its size.
        sha256: of its content, hex.
        tensors: names in it.
    """

    bytes: int
    sha256: str
    tensors: tuple[str, ...]


def stored_name(name: str, rank: int, size: int) -> str:
    """Under which name tensor-parallel rank `rank` of `size` stores its part of the parameter or moment `name`."""
    return name if size == 1 or split_of(name) is None else f"{name}@{rank}/{size}"


def sha256_of(file: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_shards(folder: Path, stem: str, tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> dict[str, ShardFile]:
    """Write `STEM-NNNNN.safetensors` below `folder`, holding no more than one of them in memory.

    Args:
        folder: exists.
        stem: begin of the files' names.
        tensors: by stored name, as they come.
        shard_bytes: a file is closed before it would be larger; a tensor larger than that gets a file of its own.
    """
    written: dict[str, ShardFile] = {}
    held: dict[str, Tensor] = {}
    size = 0

    def close() -> None:
        file = folder / f"{stem}-{len(written) + 1:05d}.safetensors"
        save_file(held, file)
        file.chmod(0o644)  # safetensors writes for the owner alone
        written[file.name] = ShardFile(file.stat().st_size, sha256_of(file), tuple(sorted(held)))
        held.clear()

    for name, tensor in tensors:
        if held and size + tensor.nbytes > shard_bytes:
            close()
            size = 0
        held[name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    if held:
        close()
    return written


def write_index(folder: Path, files: Mapping[str, ShardFile]) -> None:
    """Write the index of `files`, all of which lie in `folder`.

    Raises:
        CheckpointError: two files hold a tensor of the same name.
    """
    weight_map: dict[str, str] = {}
    for file, facts in files.items():
        for name in facts.tensors:
            if weight_map.setdefault(name, file) != file:
                raise CheckpointError(f"{folder / INDEX}: {name} is in {weight_map[name]} and in {file}")
    index = {
        "metadata": {"total_size": sum(facts.bytes for facts in files.values())},
        "shards": {file: {"bytes": facts.bytes, "sha256": facts.sha256} for file, facts in files.items()},
        "weight_map": weight_map,
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def to_json(files: Mapping[str, ShardFile]) -> str:
    """What a rank tells the one that writes the index."""
    return json.dumps({name: asdict(file) for name, file in files.items()}, sort_keys=True) + "\n"


def from_json(text: str) -> dict[str, ShardFile]:
    """The inverse of `to_json`."""
    return {name: ShardFile(file["bytes"], file["sha256"], tuple(file["tensors"])) for name, file in json.loads(text).items()}


class Shards:
    """The tensors of a folder with an index, whole or in parts, for a reader with any tensor-parallel size.

    A file is compared with its size and SHA-256 before the first tensor is taken from it; files nobody asks for stay unread.

    Attributes:
        folder: where they lie.
        sizes: for each name, in how many parts it is stored.
    """

    def __init__(self, folder: Path) -> None:
        """Read the index.

        Raises:
            CheckpointError: it is absent or damaged, or parts are missing in it.
        """
        self.folder = folder
        try:
            index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            self._files = {file: (int(facts["bytes"]), str(facts["sha256"])) for file, facts in index["shards"].items()}
            self._where: dict[str, str] = index["weight_map"]
        except FileNotFoundError as error:
            raise CheckpointError(f"{folder / INDEX}: no such file. {_RESTORE}") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder / INDEX}: not an index of shards: {error}. {_RESTORE}") from error
        self.sizes = self._sizes()
        self._good: set[str] = set()

    def _sizes(self) -> dict[str, int]:
        found: dict[str, set[tuple[int, int]]] = defaultdict(set)
        for stored, file in self._where.items():
            if file not in self._files or Path(file).name != file:
                raise CheckpointError(
                    f"{self.folder / INDEX}: {stored} is in {file!r}, which is none of its shards. {_RESTORE}"
                )
            match = _PART.fullmatch(stored)
            name, rank, size = (match[1], int(match[2]), int(match[3])) if match else (stored, 0, 1)
            found[name].add((rank, size))
        for name, parts in found.items():
            size = next(iter(parts))[1]
            if parts != {(rank, size) for rank in range(size)}:
                raise CheckpointError(f"{self.folder / INDEX}: parts of {name} are missing or of several sizes. {_RESTORE}")
        return {name: len(parts) for name, parts in found.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.sizes)

    def __contains__(self, name: str) -> bool:
        return name in self.sizes

    def read(self, name: str, rank: int = 0, size: int = 1) -> Tensor:
        """What tensor-parallel rank `rank` of `size` holds of `name`, from however many parts it is stored in.

        Raises:
            CheckpointError: it is not here, a shard is missing, truncated or altered, or the tensor cannot be cut so.
        """
        if name not in self.sizes:
            raise CheckpointError(f"{self.folder / INDEX}: holds no tensor {name}. {_RESTORE}")
        stored = self.sizes[name]
        if stored == size:
            return self._read(stored_name(name, rank, size))
        full = whole(name, [self._read(stored_name(name, other, stored)) for other in range(stored)])
        try:
            return part(name, full, rank, size).contiguous()
        except ValueError as error:
            raise CheckpointError(f"{self.folder}: {name}: {error}") from error

    def _read(self, stored: str) -> Tensor:
        file = self._where[stored]
        self.check(file)
        try:
            with safe_open(self.folder / file, framework="pt") as tensors:
                tensor: Tensor = tensors.get_tensor(stored)
        except SafetensorError as error:
            raise CheckpointError(f"{self.folder / file}: no tensor {stored} in it, as the index says: {error}") from error
        return tensor

    @property
    def total_bytes(self) -> int:
        """Size of all shards."""
        return sum(size for size, _ in self._files.values())

    @property
    def files(self) -> list[str]:
        """Names of the shards."""
        return sorted(self._files)

    def check(self, file: str) -> None:
        """Compare a shard with its size and SHA-256 in the index, once.

        Raises:
            CheckpointError: missing, truncated or altered.
        """
        if file in self._good:
            return
        path, (size, digest) = self.folder / file, self._files[file]
        if not path.is_file():
            raise CheckpointError(f"{path}: this shard is missing; the index has it with SHA-256 {digest}. {_RESTORE}")
        found = path.stat().st_size
        if found != size:
            raise CheckpointError(f"{path}: {found} bytes where the index has {size}, with SHA-256 {digest}. {_RESTORE}")
        if (other := sha256_of(path)) != digest:
            raise CheckpointError(f"{path}: altered: SHA-256 {other} where the index has {digest}. {_RESTORE}")
        self._good.add(file)


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

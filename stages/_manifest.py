"""Deterministic records of files: canonical JSON, SHA-256, `manifest.json`, atomic writes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
SCHEMA = "glm-rebuild/manifest/1"
_REMEMBERED_FROM = 1 << 16  # bytes; smaller files, code among them, are always read
_SETTLED = 2_000_000_000  # ns that a file must have lain still: a clock's tick later a change would look like no change


def canonical(data: Any) -> str:
    """JSON with sorted keys and one trailing newline: equal data gives equal bytes."""
    return json.dumps(data, ensure_ascii=False, sort_keys=True, indent=1, allow_nan=False) + "\n"


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(data: Any) -> str:
    """Hex SHA-256 of the canonical JSON of `data`."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()


def write_atomic(path: Path, text: str) -> None:
    """Write text beside `path`, fsync, rename: readers see the old file or the new one, never half of one."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def describe_folder(folder: Path, threads: int = 1) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below `folder`, by relative POSIX path, without the manifest itself."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    with ThreadPoolExecutor(threads) as pool:
        digests = pool.map(sha256_file, files) if threads > 1 else map(sha256_file, files)
        return {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
            for path, digest in zip(files, digests, strict=True)
        }


def input_digest(path: Path, memory: Path | None = None) -> str:
    """Digest of a declared input: a stage output by its manifest, any other folder by its files, a file by its bytes.

    With `memory`, a folder, digests of large files are kept there and taken again while the file's size, inode and times of
    change stay the same; see `_Remembered`.
    """
    if (path / MANIFEST).is_file():
        return sha256_file(path / MANIFEST)
    single = path.is_file()
    files = [path] if single else sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    remembered = _Remembered(memory, path)
    digests = {file.relative_to(path).as_posix(): remembered.sha256(file) for file in files}
    remembered.keep()
    return digests["."] if single else sha256_json(digests)


class _Remembered:
    """Digests of the files of one input, as they were when these were last read.

    What is kept only saves reading: an entry counts while size, inode, mtime and ctime (which no program can set back) are
    those of the file, and it is kept only where all of them had settled before the file was read. A memory that is absent,
    damaged or was changed by hand is as good as none: it carries its own digest.
    """

    def __init__(self, memory: Path | None, path: Path) -> None:
        name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
        self._file = memory / f"{name}.json" if memory is not None else None
        self._old: dict[str, list[Any]] = {}
        self._new: dict[str, list[Any]] = {}
        if self._file is not None and self._file.is_file():
            try:
                stored = json.loads(self._file.read_text(encoding="utf-8"))
                if stored["sha256"] == sha256_json(stored["files"]):
                    self._old = stored["files"]
            except (ValueError, KeyError, TypeError):
                self._old = {}

    def sha256(self, file: Path) -> str:
        """SHA-256 of a file, read where nothing reliable is known of it."""
        before = time.time_ns()
        state = _state(file)
        if self._file is None or state[0] < _REMEMBERED_FROM:
            return sha256_file(file)
        known = self._old.get(str(file))
        digest = str(known[-1]) if known is not None and known[:-1] == state else sha256_file(file)
        if max(state[2:]) + _SETTLED < before and _state(file) == state:
            self._new[str(file)] = [*state, digest]
        return digest

    def keep(self) -> None:
        """Write what is known now, where it is more or other than before."""
        if self._file is not None and self._new != self._old:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._file, canonical({"sha256": sha256_json(self._new), "files": self._new}))


def _state(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to the disk."""
    for path in [folder, *folder.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

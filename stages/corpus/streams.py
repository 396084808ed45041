"""Decompression that is counted while it streams, so that no file becomes more than the limits allow."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

_BLOCK = 1 << 18
_STEP = 1 << 14
_GRACE = 16 * 2**20  # bytes of output below which any ratio is harmless


@dataclass(frozen=True)
class Limits:
    """How far compressed bytes may expand; see `params.Params`."""

    max_expansion: float = 200.0
    max_member_bytes: int = 2**40

    def check(self, produced: int, consumed: int) -> None:
        """Whether `produced` bytes may have come out of `consumed`.

        Raises:
            ExpansionError: they are too many.
        """
        if produced > self.max_member_bytes:
            raise ExpansionError(f"more than {self.max_member_bytes} bytes come out of it, max_member_bytes")
        if produced > _GRACE and produced > self.max_expansion * max(consumed, 1):
            raise ExpansionError(f"{produced} bytes came out of {consumed}, max_expansion is {self.max_expansion:g}")


class ExpansionError(ValueError):
    """A compressed file grows beyond the limits: a decompression bomb, or a limit that is too low."""


def decompressed(name: str, stream: IO[bytes], limits: Limits) -> IO[bytes]:
    """The stream behind a `.bz2`, `.gz`, `.tgz`, `.xz` or `.zst` file; any other name is passed through.

    Reading it raises EOFError, OSError, ValueError or lzma.LZMAError where the compressed bytes are cut or damaged, and
    ExpansionError where they become too many.
    """
    inner = _decompressor(name, stream)
    if inner is None:
        return stream
    return io.BufferedReader(_Guard(inner, stream.tell, limits), _BLOCK)


def guarded(stream: IO[bytes], consumed: Callable[[], int], limits: Limits) -> IO[bytes]:
    """`stream`, counted: `consumed` tells how many compressed bytes it has come from so far."""
    return io.BufferedReader(_Guard(stream, consumed, limits), _BLOCK)


def _decompressor(name: str, stream: IO[bytes]) -> Any:
    if name.endswith(".bz2"):
        return bz2.BZ2File(stream)
    if name.endswith((".gz", ".tgz")):
        return gzip.GzipFile(fileobj=stream)
    if name.endswith(".xz"):
        return lzma.LZMAFile(stream)
    if name.endswith(".zst"):
        from fastwarc.stream_io import ZstdReader

        return ZstdReader(stream)
    return None


class _Guard(io.RawIOBase):
    """Hands out what is there as soon as it is there: a longer read would lose what stands before a cut."""

    def __init__(self, inner: Any, consumed: Callable[[], int], limits: Limits) -> None:
        self._read = inner.read1 if hasattr(inner, "read1") else lambda size: inner.read(min(size, _STEP))
        self._consumed, self._limits = consumed, limits
        self._produced = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._produced

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        block = self._read(len(view))
        view[: len(block)] = block
        self._produced += len(block)
        self._limits.check(self._produced, self._consumed())
        return len(block)

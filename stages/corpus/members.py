"""The members of a gzip file one by one, each decompressed whole by libdeflate, which takes two thirds of zlib's time.

Python's own modules, and the parser of web archives, stream through zlib or its like. The wheel `deflate` carries libdeflate,
which wants a member whole, before and behind. Its C functions are called directly: the Python ones beside them must be told
where a member ends, which only decompressing it can say.
"""

from __future__ import annotations

import ctypes
import io
import mmap
from collections import deque
from functools import cache
from importlib import import_module
from typing import IO, Any

import pyarrow as pa

_MAGIC = b"\x1f\x8b\x08"
_DONE, _TOO_SMALL = 0, 3  # of libdeflate_result
_ROOM, _GROWTH = 1 << 20, 4  # bytes that a member may come to, at first; and how many times more at each further try
_RELEASED_EVERY = 1 << 26  # bytes of the file that are in memory, at most


class Members:
    """What comes out of a gzip file of many members, as a stream to read once, and where in the file each part of it began.

    Attributes:
        failed: whether it ended before the file did: at a member that is damaged, cut off or too large, or that somebody asked
            for the inside of. Another reader has to go on from there, and to say what is wrong.
        consumed: bytes of the file that it has come from so far.
        last: the last four bytes that came out.
    """

    def __init__(self, file: mmap.mmap, largest: int) -> None:
        self.failed, self.consumed, self.last = False, 0, b""
        self._file, self._data, self._largest = file, pa.py_buffer(file), largest
        self._start, self._size = self._data.address, self._data.size
        library = _libdeflate()
        self._free, self._decompress = library.libdeflate_free_decompressor, library.libdeflate_gzip_decompress_ex
        self._decompressor = ctypes.c_void_p(library.libdeflate_alloc_decompressor())
        taken, given = ctypes.c_size_t(), ctypes.c_size_t()
        self._taken, self._given = taken, given
        self._counts = ctypes.byref(taken), ctypes.byref(given)
        self._make_room(min(_ROOM, largest))
        self._block, self._read = b"", 0
        self._produced = self._released = 0
        self._begin: deque[tuple[int, int]] = deque([(0, 0)])  # of members: in what comes out, and in the file

    def read(self, size: int) -> bytes:
        """Up to `size` bytes of one member; none at the end."""
        block, start = self._block, self._read
        while start == len(block) and not self.failed and self.consumed < self._size:
            block, start = self._member(), 0
            self._block = block
        self._read = min(start + size, len(block))
        return block if self._read - start == len(block) else block[start : self._read]

    def tell(self) -> int:
        """Bytes that have been read."""
        return self._produced - len(self._block) + self._read

    def offset(self, position: int) -> int:
        """Where in the file the member begins that `position` of what comes out is the beginning of; asked in ascending order.

        Raises:
            ValueError: it stands inside a member. The file is not of the kind that this is for, and counts as failed.
        """
        begin = self._begin
        while len(begin) > 1 and begin[1][0] <= position:
            begin.popleft()
        if begin[0][0] != position:
            self.failed = True
            raise ValueError(f"no member begins at byte {position} of what comes out")
        return begin[0][1]

    def close(self) -> None:
        """Give back what is not memory of Python's own; nothing can be read any more."""
        self._free(self._decompressor)
        self._size = 0
        del self._data

    def _member(self) -> bytes:
        """The next member, or nothing where it has failed."""
        at = self.consumed
        while True:
            found = self._decompress(
                self._decompressor, self._start + at, self._size - at, self._target, len(self._room), *self._counts
            )
            if found != _TOO_SMALL or len(self._room) >= self._largest:
                break
            self._make_room(min(_GROWTH * len(self._room), self._largest))
        if found != _DONE:
            self.failed = True
            return b""
        block = bytes(self._room[: self._given.value])
        self._begin.append((self._produced, at))
        self._produced += len(block)
        self.consumed += self._taken.value
        self.last = (self.last + block[-4:])[-4:]
        if self.consumed - self._released >= _RELEASED_EVERY:
            self._released = self.consumed & -mmap.PAGESIZE
            self._file.madvise(mmap.MADV_DONTNEED, 0, self._released)
        return block

    def _make_room(self, size: int) -> None:
        buffer = ctypes.create_string_buffer(size)
        self._room, self._target = memoryview(buffer), ctypes.addressof(buffer)  # the view keeps the buffer


def members(stream: IO[bytes], largest: int) -> Members | None:
    """The members of a gzip file on this machine, up to `largest` bytes each; None where it is none, or without libdeflate."""
    try:
        number, start = stream.fileno(), stream.tell()
    except (AttributeError, io.UnsupportedOperation):
        return None
    magic = stream.read(len(_MAGIC))
    stream.seek(start)
    if start or magic != _MAGIC or _libdeflate() is None:
        return None
    return Members(mmap.mmap(number, 0, access=mmap.ACCESS_READ), largest)


@cache
def _libdeflate() -> Any:
    """The library inside the wheel; None where that is not installed, or keeps its functions to itself."""
    try:
        library = ctypes.CDLL(str(import_module("deflate._deflate").__file__))
        allocate, free = library.libdeflate_alloc_decompressor, library.libdeflate_free_decompressor
        decompress = library.libdeflate_gzip_decompress_ex
    except (ImportError, OSError, AttributeError):
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    allocate.restype, free.argtypes = pointer, [pointer]
    decompress.argtypes = [pointer, pointer, size, pointer, size, pointer, pointer]
    return library

"""numba with its machine code kept between processes, as long as the kernels' sources stay the same, and tables likewise."""

from __future__ import annotations

import gc
import hashlib
import importlib
import os
import sys
import unicodedata
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

_UNUSED = ("scipy", "cffi")


def _load_numba() -> ModuleType:
    """numba, loaded as if scipy and cffi were not installed, where nothing has loaded them yet.

    numba loads both before its first kernel runs, the one to find the BLAS of it, the other to know its pointers: a quarter of
    a process's start, and no kernel here calls BLAS or C. Nor does the collector of garbage look through the hundred thousand
    objects that this makes: none of them ever goes.
    """
    hidden = [name for name in _UNUSED if name not in sys.modules]
    collecting = gc.isenabled()
    gc.disable()
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # by which Python says that it cannot be imported
    try:
        for name in ("numba.np.arraymath", "numba.core.typing.cffi_utils"):
            importlib.import_module(name)
        return importlib.import_module("numba")
    finally:
        for name in hidden:
            del sys.modules[name]
        gc.freeze()
        if collecting:
            gc.enable()


numba = _load_numba()
_FOLDER = Path(__file__).parents[1] / ".cache" / "numba"


def _folder(*sources: str) -> Path:
    """Where to keep what is made of some source files; NUMBA_CACHE_DIR goes before the project's own cache folder."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(Path(source).read_bytes()).digest() for source in sources))
    return Path(numba.config.CACHE_DIR or _FOLDER) / digest.hexdigest()[:16]


def kernels(*sources: str) -> Callable[[Callable[..., Any]], Any]:
    """A decorator like `numba.njit` for the kernels of one module.

    numba drops kept code when the file of a function changes, but not when a kernel that it calls from another file does. So
    code is kept in a folder named by all of `sources`: the module's own file and those of the modules whose kernels it calls.
    Where no folder can be written, each process compiles anew.
    """
    folder = _folder(*sources)

    def decorate(function: Callable[..., Any]) -> Any:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(folder)  # read when a function is decorated
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return numba.njit(cache=True, nogil=True)(function)
        except (OSError, RuntimeError):  # RuntimeError: numba found no folder that it may write
            return numba.njit(nogil=True)(function)
        finally:
            numba.config.CACHE_DIR = before

    return decorate


def kept(name: str, make: Callable[[], Mapping[str, NDArray[Any]]], *sources: str) -> dict[str, NDArray[Any]]:
    """The arrays that `make` gives, which follow from `sources` and this Python's Unicode alone; made once and then read.

    Args:
        name: different for each table of the same sources.
        make: asks `unicodedata` for every character, say, which takes as long as loading numba.
        sources: the files of all code that it runs.
    """
    file = _folder(*sources) / f"{name}-{unicodedata.unidata_version}-{sys.version_info.minor}.npz"
    try:
        with np.load(file) as stored:
            return dict(stored)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # not there yet, or damaged
        arrays = dict(make())
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        partial.replace(file)
    except OSError:  # a folder that cannot be written, or is full
        with suppress(OSError):
            partial.unlink()
    return arrays

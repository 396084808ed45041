"""numba with its machine code kept between processes, as long as the kernels' sources stay the same."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def _load_numba() -> ModuleType:
    """numba, loaded as if scipy were not installed, where nothing has loaded that yet.

    numba loads scipy before its first kernel runs, to find the BLAS of it: a fifth of a process's start, and no kernel here
    calls BLAS.
    """
    hidden = "scipy" not in sys.modules
    if hidden:
        sys.modules["scipy"] = None  # type: ignore[assignment]  # by which Python says that it cannot be imported
    try:
        importlib.import_module("numba.np.arraymath")
        return importlib.import_module("numba")
    finally:
        if hidden:
            del sys.modules["scipy"]


numba = _load_numba()
_FOLDER = Path(__file__).parents[1] / ".cache" / "numba"


def kernels(*sources: str) -> Callable[[Callable[..., Any]], Any]:
    """A decorator like `numba.njit` for the kernels of one module.

    numba drops kept code when the file of a function changes, but not when a kernel that it calls from another file does. So
    code is kept in a folder named by all of `sources`: the module's own file and those of the modules whose kernels it calls.
    NUMBA_CACHE_DIR goes before the project's own cache folder; where neither can be written, each process compiles anew.
    """
    digest = hashlib.sha256(b"".join(hashlib.sha256(Path(source).read_bytes()).digest() for source in sources))
    folder = Path(numba.config.CACHE_DIR or _FOLDER) / digest.hexdigest()[:16]

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

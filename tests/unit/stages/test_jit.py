"""Kernels: what a process that runs one loads, and what it leaves as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import _jit

ROOT = Path(__file__).resolve().parents[3]


def run(program: str) -> str:
    """What a new Python prints that can import the stages."""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_kernel_runs_without_scipy_which_can_still_be_imported() -> None:
    program = """
import sys
import numpy as np
from stages import _jit

@_jit.numba.njit
def total(values):
    return values.sum()

print(total(np.arange(5)), sorted(name for name in sys.modules if name.startswith("scipy")))
import scipy.linalg
print(scipy.linalg.norm([3.0, 4.0]))
"""
    assert run(program).splitlines() == ["10 []", "5.0"]


def test_scipy_stays_where_something_has_loaded_it() -> None:
    assert run("import scipy, sys; from stages import _jit; print(sys.modules['scipy'] is scipy)") == "True"


def test_stages_start_numpy_without_threads_unless_told_otherwise() -> None:
    assert run("import stages, numpy, os; print(len(os.listdir('/proc/self/task')))") == "1"
    asked = "import os; os.environ['OPENBLAS_NUM_THREADS'] = '2'; import stages; print(os.environ['OPENBLAS_NUM_THREADS'])"
    assert run(asked) == "2"


def test_tables_are_made_once_and_again_where_they_are_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_jit.numba.config, "CACHE_DIR", str(tmp_path))
    source = tmp_path / "source.py"
    source.write_text("one")
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"values": np.arange(5, dtype=np.uint16), "others": np.zeros(2)}

    def ask() -> list[int]:
        found: list[int] = _jit.kept("some", make, str(source))["values"].tolist()
        return found

    assert [ask(), ask()] == [[0, 1, 2, 3, 4]] * 2 and len(made) == 1
    [file] = tmp_path.glob("*/some-*.npz")
    for damage in (file.read_bytes()[:100], b"", file.read_bytes().replace(b"\1\0\2\0\3\0", b"\1\0\2\0\4\0")):
        file.write_bytes(damage)
        made.clear()
        assert [ask(), ask()] == [[0, 1, 2, 3, 4]] * 2 and len(made) == 1
    source.write_text("other")
    assert ask() and len(made) == 2


def test_tables_are_made_anew_where_no_folder_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(_jit.numba.config, "CACHE_DIR", str(tmp_path / "file"))
    assert _jit.kept("some", lambda: {"values": np.ones(1)}, __file__)["values"].tolist() == [1.0]

"""Kernels: what a process that runs one loads, and what it leaves as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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

"""`python -m stages.encode`; see the package."""

from __future__ import annotations

from stages._runner import run_stage
from stages.encode import Params, run

if __name__ == "__main__":
    run_stage("encode", Params, run)

"""`python -m stages.instruct`; see the package."""

from __future__ import annotations

from stages._runner import run_stage
from stages.instruct import Params, run

if __name__ == "__main__":
    run_stage("instruct", Params, run)

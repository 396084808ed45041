"""`python -m stages.clean`; see the package."""

from __future__ import annotations

from stages._runner import run_stage
from stages.clean import Params, run

if __name__ == "__main__":
    run_stage("clean", Params, run)

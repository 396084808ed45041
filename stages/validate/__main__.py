"""`python -m stages.validate`; see the package."""

from __future__ import annotations

from stages._runner import run_stage
from stages.validate import Params, run

if __name__ == "__main__":
    run_stage("validate", Params, run, pandas=True)

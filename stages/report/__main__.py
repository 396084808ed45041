"""`python -m stages.report`; see the package."""

from __future__ import annotations

from stages._runner import run_stage
from stages.report import Params, run

if __name__ == "__main__":
    run_stage("report", Params, run)

"""`python -m stages.pack`; see the package."""

from __future__ import annotations

from stages._runner import run_stage
from stages.pack import Params, run

if __name__ == "__main__":
    run_stage("pack", Params, run)

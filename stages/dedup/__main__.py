"""`python -m stages.dedup`; see the package."""

from __future__ import annotations

from stages._runner import run_stage
from stages.dedup import Params, run

if __name__ == "__main__":
    run_stage("dedup", Params, run)

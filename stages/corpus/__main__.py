"""`python -m stages.corpus`; see the package."""

from __future__ import annotations

from stages._runner import run_stage
from stages.corpus import Params, run

if __name__ == "__main__":
    run_stage("corpus", Params, run)

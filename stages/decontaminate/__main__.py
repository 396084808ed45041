"""`python -m stages.decontaminate`; see the package."""

from __future__ import annotations

from stages._runner import run_stage
from stages.decontaminate import Params, run

if __name__ == "__main__":
    run_stage("decontaminate", Params, run)

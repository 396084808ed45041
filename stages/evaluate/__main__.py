"""`python -m stages.evaluate`; see the package."""

from __future__ import annotations

from stages._runner import keep_freed_memory, run_stage
from stages.evaluate import Params, run

if __name__ == "__main__":
    keep_freed_memory()
    run_stage("evaluate", Params, run)

"""`python -m stages.tokenizer`; see the package."""

from __future__ import annotations

from stages._runner import run_stage
from stages.tokenizer import Params, run

if __name__ == "__main__":
    run_stage("tokenizer", Params, run)

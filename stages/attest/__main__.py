"""`python -m stages.attest`; see the package."""

from __future__ import annotations

from stages._runner import run_stage
from stages.attest import Params, run

if __name__ == "__main__":
    run_stage("attest", Params, run)

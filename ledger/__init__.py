"""Who saw what: order formula, batch schedule, journal of training segments, queries over them, Merkle proofs.

Pure numpy, pyarrow and DuckDB: an auditor's laptop answers "which documents made this checkpoint" and "which checkpoints
saw this document" from a project's files alone, without torch, DVC or Prefect.
"""

import json
from typing import Any


class LedgerError(ValueError):
    """The ledger's files are missing, damaged or contradict each other; the message names file, place and remedy."""


def canonical_json(data: Any) -> str:
    """JSON with sorted keys and without blanks: equal data gives equal bytes, and so equal hashes, whatever wrote it."""
    return json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)

"""When stages run: Prefect flows over the graph of dvc.yaml.

Importing any module of this package first sets, as defaults, the environment that Prefect and DVC read.
"""

from __future__ import annotations

import os
from pathlib import Path

QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "DVC_STUDIO_OFFLINE": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
"""No tool phones home."""

PREFECT = {
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_HOME": str(Path.cwd() / ".cache" / "prefect"),
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}
"""The default of 20 s for the server's start is too short for a busy machine."""

for _name, _value in {**QUIET, **PREFECT}.items():
    os.environ.setdefault(_name, _value)
Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only

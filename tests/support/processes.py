"""Looking at processes."""

from __future__ import annotations

from pathlib import Path


def running(pid: int | str) -> bool:
    """Whether the process runs; one that has ended but was not yet reaped does not."""
    try:
        return Path(f"/proc/{str(pid).strip()}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

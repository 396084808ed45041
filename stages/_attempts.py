"""What processes of a stage cost that did not finish it: killed, failed or interrupted, and begun again.

`runs/STAGE/unfinished.json` holds them while the stage is not done; the last entry is the process that works, written anew
every few seconds, so that a kill loses no more than these. The run record of the process that finishes names the others.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

from stages import _manifest

FILE = "unfinished.json"
_EVERY = 10.0  # seconds


class Attempt:
    """One process at work on a stage."""

    def __init__(self, folder: Path, key: str) -> None:
        """Begin.

        Args:
            folder: `runs/STAGE`.
            key: what decides the output; attempts at another one are forgotten.
        """
        self._file, self._key, self._process = folder / FILE, key, os.getpid()
        self._started, self._cpu = time.time(), time.process_time()
        self._earlier = self._read()
        self._beaten = time.monotonic()
        self._write()

    def beat(self) -> None:
        """Remember what was spent so far; called often, it writes seldom."""
        if time.monotonic() - self._beaten >= _EVERY and os.getpid() == self._process:  # no worker that was forked from it
            self._beaten = time.monotonic()
            self._write()

    def finish(self) -> dict[str, Any]:
        """What the run record says of this process and of those before it."""
        own = self._spent()
        self._file.unlink(missing_ok=True)
        return own | ({"unfinished": self._earlier} if self._earlier else {})

    def _spent(self) -> dict[str, Any]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = time.process_time() - self._cpu + children.ru_utime + children.ru_stime
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started))
        return {"started": started, "wall_seconds": round(time.time() - self._started, 3), "cpu_seconds": round(cpu, 3)}

    def _read(self) -> list[dict[str, Any]]:
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            return list(kept["attempts"]) if kept["key"] == self._key else []
        except (OSError, ValueError, KeyError, TypeError):  # absent, or of a disk that was full: nothing is known
            return []

    def _write(self) -> None:
        kept = {"key": self._key, "attempts": [*self._earlier, self._spent()]}
        _manifest.write_atomic(self._file, json.dumps(kept, indent=1, sort_keys=True) + "\n")


def commit_of(root: Path) -> str | None:
    """The git commit that is checked out; None in a folder that is no work tree's own, or where there is no git."""
    command = ["git", "rev-parse", "--show-prefix", "HEAD"]
    try:
        prefix, commit, *_ = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        return None
    return None if prefix else commit

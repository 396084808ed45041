"""Child processes of a flow run: each in a process group of its own, at most `limit` at a time, stopped as a whole.

Killing `dvc` alone leaves its stage running as an orphan that writes beside the next attempt; so a group is always ended
as a group, and its end is awaited.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_GRACE = 10.0  # seconds between asking a group to end and ending it
_TAIL = 40  # lines kept for a message about a failure


@dataclass(frozen=True)
class Finished:
    """How a child ended: its exit status (negative: a signal), its last lines, its wall time in seconds."""

    status: int
    tail: tuple[str, ...]
    seconds: float
    timed_out: bool


class StoppedError(Exception):
    """The flow run is ending: no further child may start."""


class Children:
    """The child processes of one flow run."""

    def __init__(self, limit: int) -> None:
        self._slots = threading.BoundedSemaphore(limit)
        self._running: set[int] = set()  # process group ids
        self._lock = threading.Lock()
        self._closed = False

    def run(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        timeout: float | None = None,
    ) -> Finished:
        """Run `command` in `folder`, hand each line of output to `on_line`, and wait until its whole group is gone.

        Args:
            command: Program and arguments.
            folder: Working directory.
            environment: The child's whole environment.
            on_line: Called with each line of stdout and stderr, in order, without its line end.
            timeout: Seconds after which the group is stopped; None waits for ever.

        Raises:
            StoppedError: `stop` was called before the child could start.
        """
        with self._slots:
            child = self._start(command, folder, environment)
            started = time.monotonic()
            tail: deque[str] = deque(maxlen=_TAIL)
            overdue = threading.Event()

            def stop_late() -> None:
                overdue.set()
                _end_group(child.pid)

            timer = threading.Timer(timeout, stop_late) if timeout else None
            try:
                if timer:
                    timer.start()
                assert child.stdout is not None
                for line in child.stdout:
                    tail.append(line.rstrip("\n"))
                    on_line(tail[-1])
                status = child.wait()
            finally:
                if timer:
                    timer.cancel()
                _end_group(child.pid)  # a stage that died may leave workers behind: they must not meet the next attempt
                child.wait()
                with self._lock:
                    self._running.discard(child.pid)
            return Finished(status, tuple(tail), time.monotonic() - started, overdue.is_set())

    def stop(self) -> None:
        """End every running group, wait for it, and let no further child start."""
        with self._lock:
            self._closed = True
            groups = list(self._running)
        for group in groups:
            _end_group(group)

    def _start(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
        with self._lock:
            if self._closed:
                raise StoppedError(f"not started: {' '.join(command)}")
            child = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._running.add(child.pid)
            return child


def _end_group(group: int) -> None:
    """SIGTERM, after a grace period SIGKILL, and back when no member runs; at once if the group has ended."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        if _alive(group):
            with suppress(ProcessLookupError):  # it ended between the question and the signal
                os.killpg(group, signum)
        deadline = time.monotonic() + _GRACE
        while _alive(group) and time.monotonic() < deadline:
            time.sleep(0.05)


def _alive(group: int) -> bool:
    """Whether a member of process group `group` still runs; one that has ended but was not yet reaped does not count."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, member_of = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended while we looked
            continue
        if int(member_of) == group and state not in "ZX":
            return True
    return False

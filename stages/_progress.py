"""What a stage shows of its progress, and the beat by which a killed stage's cost is known."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stages._attempts import Attempt

_attempt: Attempt | None = None


class Progress:
    """One task's progress: a rich bar with rate and ETA on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, stage: str, description: str, total: float | None, unit: str) -> None:
        self.stage, self.description, self.total, self.unit = stage, description, total, unit
        self.done = 0.0
        self._started = self._spoke = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=_stderr_console(),
            )
            self._bar.start()
            self._task = self._bar.add_task(f"{self.stage}: {self.description}", total=self.total, rate="")
        return self

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Count `amount` units as done; `note` is shown behind the rate."""
        self.done += amount
        if _attempt is not None:
            _attempt.beat()
        now = time.monotonic()
        rate = self.done / max(now - self._started, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=f"{rate:,.1f} {self.unit}/s {note}")
        elif now - self._spoke >= 10:
            self._spoke = now
            self._line(rate, note)

    def __exit__(self, *exc: object) -> None:
        rate = self.done / max(time.monotonic() - self._started, 1e-9)
        if self._bar is not None:
            self._bar.stop()
        else:
            self._line(rate, "done" if exc[0] is None else "stopped")

    def _line(self, rate: float, note: str) -> None:
        share = f"/{self.total:,.0f} ({self.done / self.total:.0%})" if self.total else ""
        left = f", {(self.total - self.done) / rate:,.0f} s left" if self.total and 0 < self.done < self.total else ""
        text = f"{self.stage}: {self.description}: {self.done:,.0f}{share} {self.unit}, {rate:,.1f} {self.unit}/s{left}"
        print(f"{text} {note}".rstrip(), file=sys.stderr, flush=True)


@contextmanager
def beating(attempt: Attempt) -> Iterator[None]:
    """Let every progress display tell what was spent."""
    global _attempt  # noqa: PLW0603 (a process works on one stage)
    _attempt = attempt
    try:
        yield
    finally:
        _attempt = None


def _stderr_console() -> Any:
    from rich.console import Console

    return Console(stderr=True)

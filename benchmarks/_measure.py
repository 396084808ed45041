"""How the benchmarks measure: CPU seconds, the best of interleaved rounds, and one row of the table per comparison."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One line of the table: a value of ours, that of a peer on the same input where there is one, and what was asked.

    `target` bounds the ratio ours : peer where `of` is "ratio", else the value of ours; `sense` is ">=" or "<=". A row
    without a target stands for information. `ours` is None where it could not be measured; `note` then says why.
    """

    section: str
    what: str
    unit: str
    ours: float | None
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    of: str = "ours"
    sense: str = ">="
    target: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """`met` or `MISSED` where the row has a target, else nothing; "not measured" where its value is missing."""
        if self.target is None:
            return ""
        value = self.ratio if self.of == "ratio" else self.ours
        if value is None:
            return "not measured"
        return "met" if (value >= self.target if self.sense == ">=" else value <= self.target) else "MISSED"

    def plain(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self) | {"verdict": self.verdict}


@dataclass(frozen=True)
class Speed:
    """CPU seconds that a piece of work took, and its size: bytes of UTF-8 text and documents (or records)."""

    cpu: float
    bytes: int
    documents: int

    @property
    def megabytes(self) -> float:
        """Million bytes for each CPU second."""
        return self.bytes / 1e6 / max(self.cpu, 1e-9)

    @property
    def rate(self) -> float:
        """Documents for each CPU second."""
        return self.documents / max(self.cpu, 1e-9)


@dataclass(frozen=True)
class Work:
    """Something to time: `run` does it and its result is thrown away; slow peers get a smaller input than fast ones."""

    run: Callable[[], Any]
    bytes: int
    documents: int


def cpu_seconds() -> float:
    """User and system seconds of this process and of its finished children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def interleaved(works: dict[str, Work], rounds: int) -> dict[str, Speed]:
    """The best of `rounds` runs of each piece of work; each round runs all of them, so that a busy spell hits all alike."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, work in works.items():
            started = cpu_seconds()
            work.run()
            best[name] = min(best.get(name, float("inf")), cpu_seconds() - started)
    return {name: Speed(best[name], work.bytes, work.documents) for name, work in works.items()}


def wall_seconds(run: Callable[[], Any]) -> float:
    """Wall seconds of one run."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def peak_bytes() -> int:
    """The most resident memory that this process has had."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def resident_bytes() -> int:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def faster(
    section: str, what: str, ours: Speed, peer: str, theirs: Speed | None, target: float | None = None, note: str = ""
) -> Row:
    """A row that compares two speeds in MB per CPU second; `theirs` is None where the peer is not installed."""
    if theirs is None:
        return Row(section, what, "MB/s", ours.megabytes, peer, of="ratio", note=note or "not installed")
    ratio = ours.megabytes / theirs.megabytes
    return Row(section, what, "MB/s", ours.megabytes, peer, theirs.megabytes, ratio, "ratio", ">=", target, note)


def print_table(rows: Iterable[Row], console: Console) -> None:
    """All rows, one table for each section."""
    sections: dict[str, list[Row]] = {}
    for row in rows:
        sections.setdefault(row.section, []).append(row)
    for name, group in sections.items():
        table = Table(title=name, title_justify="left", title_style="bold")
        for column in ("what", "unit", "ours", "peer", "theirs", "ratio", "target", "", "note"):
            table.add_column(column, justify="right" if column in ("ours", "theirs", "ratio", "target") else "left")
        for row in group:
            target = "" if row.target is None else f"{row.sense} {_short(row.target)}{' x' if row.of == 'ratio' else ''}"
            values = (_short(row.ours), row.peer, _short(row.theirs), _short(row.ratio, " x"), target)
            style = {"MISSED": "red", "not measured": "yellow"}.get(row.verdict)
            table.add_row(row.what, row.unit, *values, row.verdict, row.note, style=style)
        console.print(table)


def _short(value: float | None, suffix: str = "") -> str:
    if value is None:
        return ""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}{suffix}"
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}") + suffix

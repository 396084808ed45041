"""Ranks as processes of this machine: started together, and ended together when one of them dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from model.parallel.plan import PlanError
from stages._runner import StageError

_GRACE = 5.0  # seconds: for others to say why they end, then to end at our request
_REMEDY = "see its messages above; started again, training goes on from the newest state"
_MEMORY = (
    "SIGKILL without a person behind it is most often the kernel short of memory: lower pretrain.micro_batch, or set "
    "pretrain.activation_checkpointing: true; started again, training goes on from the newest state"
)


def run_ranks(entry: Callable[[int, Any], None], job: Any, world: int) -> None:
    """Run `entry(rank, job)` in `world` processes until all have ended.

    Raises:
        StageError: a rank failed or was killed. All others have ended by then, some ten seconds after it at the latest.
    """
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    reports: list[Connection] = []
    try:
        for rank in range(world):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_rank, args=(entry, rank, job, sender), name=f"rank {rank}")
            process.start()
            sender.close()
            processes.append(process)
            reports.append(receiver)
        failure = _first_failure(processes, reports)
    finally:
        _end(processes)
    if failure is not None:
        raise failure


def _rank(entry: Callable[[int, Any], None], rank: int, job: Any, report: Connection) -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        entry(rank, job)
    except BaseException as error:
        when, refused = time.monotonic(), isinstance(error, (StageError, PlanError))
        if not refused:
            traceback.print_exc()
            sys.stderr.flush()
        report.send((not refused, when, rank, str(error) if refused else f"{type(error).__name__}: {error}"))
        report.close()
        os._exit(1)  # leaving collectives of dead peers properly may take for ever


def _follow_parent() -> None:
    """A rank without its parent would wait for the others' next collective until that times out."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _first_failure(processes: Sequence[BaseProcess], reports: Sequence[Connection]) -> StageError | None:
    """Wait for all ranks, or until one fails; then find out which one began."""
    running = list(processes)
    until: float | None = None
    while running and (until is None or time.monotonic() < until):
        wait([process.sentinel for process in running], None if until is None else max(0.0, until - time.monotonic()))
        running = [process for process in running if process.is_alive()]
        if until is None and any(process.exitcode for process in processes):
            until = time.monotonic() + _GRACE  # whoever loses its peer says so too, but is not the cause
    return None if until is None else _cause(processes, reports)


def _cause(processes: Sequence[BaseProcess], reports: Sequence[Connection]) -> StageError:
    """What to tell: who was killed, else who refused, else who failed first, else who aborted over the loss of a peer."""
    world = len(processes)
    codes = [process.exitcode or 0 for process in processes]
    said = sorted(message for message in map(_message, reports) if message is not None)
    for rank, code in enumerate(codes):
        if code < 0 and (-code != signal.SIGABRT or not said):
            killer = signal.Signals(-code)
            remedy = _MEMORY if killer == signal.SIGKILL else _REMEDY
            return StageError(f"rank {rank} of {world} was ended by {killer.name}; the others were stopped", remedy=remedy)
    for failed, _, rank, text in said:
        return StageError(f"rank {rank} of {world} failed: {text}", remedy=_REMEDY) if failed else StageError(text)
    return StageError(f"ranks ended with exit codes {codes} and without a word", remedy=_REMEDY)


def _message(report: Connection) -> tuple[bool, float, int, str] | None:
    """What a rank said at its end, if anything."""
    try:
        message: tuple[bool, float, int, str] | None = report.recv() if report.poll() else None
    except EOFError:
        return None
    return message


def _end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.terminate()
    until = time.monotonic() + _GRACE
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()

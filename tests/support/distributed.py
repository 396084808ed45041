"""Real processes with a real gloo group, for tests of what is parallel.

    results = run_distributed(function, world, folder, *args)      # one result for each rank

`function(rank, *args)` runs in every process behind `start_process_group`. What a rank prints goes to `folder/rank-N.log` and,
tagged, into the message of a failure. When one fails or time is up, all are killed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

_LAST_LINES = 15


def run_distributed(function: Callable[..., Any], world: int, folder: Path, *args: Any, timeout: float = 120.0) -> list[Any]:
    """Results of `function(rank, *args)` by rank.

    Raises:
        AssertionError: a rank raised, died, or was not ready in `timeout` seconds; the message holds the ends of all logs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # One server imports what is slow; ranks are forks of it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.distributed_imports"])
    processes, pipes = [], []
    for rank in range(world):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(function, rank, world, folder, args, sender))
        process.start()
        sender.close()
        processes.append(process)
        pipes.append(receiver)
    try:
        return _collect(pipes, folder, time.monotonic() + timeout)
    finally:
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


def _rank(function: Callable[..., Any], rank: int, world: int, folder: Path, args: tuple[Any, ...], report: Connection) -> None:
    log = os.open(folder / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import torch

    from stages.pretrain.engine import prepare_environment, start_process_group

    torch.set_num_threads(1)
    prepare_environment(folder)
    try:
        start_process_group(rank, world, folder / "rendezvous")
        report.send((True, function(rank, *args)))
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.flush()
        report.send((False, f"rank {rank}: {type(error).__name__}: {error}"))
    report.close()
    os._exit(0)  # a group whose peers are gone need not be left politely


def _collect(pipes: list[Connection], folder: Path, until: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in results]
        ready = wait(waiting, timeout=max(0.0, until - time.monotonic()))
        if not ready:
            raise AssertionError(f"not ready in time: ranks {sorted(set(range(len(pipes))) - set(results))}\n{_logs(folder)}")
        for pipe in ready:
            rank = pipes.index(pipe)  # type: ignore[arg-type]
            try:
                good, value = pipes[rank].recv()
            except EOFError:
                good, value = False, f"rank {rank} died"
            if not good:
                raise AssertionError(f"{value}\n{_logs(folder)}")
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _logs(folder: Path) -> str:
    lines = []
    for file in sorted(folder.glob("rank-*.log")):
        lines += [f"[{file.stem}] {line}" for line in file.read_text(errors="replace").splitlines()[-_LAST_LINES:]]
    return "\n".join(lines)

"""What the ranks of launcher tests do; light to import, for every rank is a fresh interpreter."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from stages._runner import StageError


def write(rank: int, folder: Path) -> None:
    """End well."""
    (folder / f"rank-{rank}").write_text(str(os.getpid()))


def one_is_killed(rank: int, folder: Path) -> None:
    """Rank 1 is killed from outside; the others wait for it as in a collective, without end."""
    write(rank, folder)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def one_refuses(rank: int, folder: Path) -> None:
    """Rank 2 refuses its input; rank 0 says that it lost a peer; rank 1 waits."""
    write(rank, folder)
    if rank == 2:
        time.sleep(0.2)
        raise StageError("loss is nan at step 3", remedy="lower the learning rate")
    if rank == 0:
        raise RuntimeError("connection closed by peer")
    time.sleep(600)


def one_fails(rank: int, folder: Path) -> None:
    """Rank 0 fails first, rank 1 as a consequence."""
    write(rank, folder)
    if rank == 1:
        time.sleep(1.0)
        raise RuntimeError("connection closed by peer")
    raise KeyError("word_embeddings")

"""Ranks that somebody else has started: torchrun, `deepspeed`, Slurm, on one host or several (docs/training.md).

A launcher says by environment variables who a process is: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT. Nothing else
is taken from the host; what the ranks share are the project's folder and a store of torch at the master's address. Rank 0 is
the stage, with its lock, output and records; the others only train, in the scratch folder that it names to them.

No launcher sees every way in which a rank on another host can end, and a collective would wait half an hour for it. So each
rank gives a sign of life every few seconds: rank 0 watches all, all watch rank 0, and whoever fails says why.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages._runner import StageError

if TYPE_CHECKING:
    from torch.distributed import Store

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
BEAT = 2.0  # seconds between signs of life
PATIENCE = 30.0  # without one, a rank counts as dead
_REMEDY = "see its messages on that host; started again, training goes on from the newest state"
_FAILED, _DONE = "failed", b"done"


@dataclass(frozen=True)
class Place:
    """Who a process is: its rank of `world`, and which one of its host it is."""

    rank: int
    world: int
    local_rank: int


def launched(environment: Mapping[str, str], world: int) -> Place | None:
    """What a launcher has said, or None where there was none.

    Args:
        environment: of the process.
        world: processes that the parameters ask for.

    Raises:
        StageError: it has said half of it, or has started another number of processes.
    """
    said = [name for name in VARIABLES if name in environment]
    if not {"RANK", "WORLD_SIZE"} & set(said):
        return None
    missing = [name for name in VARIABLES if name not in environment]
    if missing:
        raise StageError(
            f"a launcher has set {', '.join(said)} and not {', '.join(missing)}",
            remedy="start with torchrun or deepspeed, or set all five; to train without a launcher, set none",
        )
    started = int(environment["WORLD_SIZE"])
    if started != world:
        raise StageError(
            f"the launcher has started {started} processes, the plan is for {world}",
            remedy="set pretrain.data_parallel (times tensor_parallel and pipeline_parallel) to as many as are started",
        )
    return Place(int(environment["RANK"]), started, int(environment["LOCAL_RANK"]))


class Group:
    """The ranks of a launcher, as one of them sees them.

    Attributes:
        place: of this process.
        store: what all can read and write.
    """

    def __init__(
        self, place: Place, store: Store, end: Callable[[int], Any], beat: float = BEAT, patience: float = PATIENCE
    ) -> None:
        """Begin to give signs of life, and to watch; `end` leaves the process, whatever its threads are waiting for."""
        self.place, self.store = place, store
        self._own: Any = store.clone()  # type: ignore[attr-defined]  # a connection of its own: the first one waits in collectives
        self._end, self._beat, self._patience = end, beat, patience
        self._stop = threading.Event()
        self._host = socket.gethostname()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave at the end of the training, rank 0 last, which may keep the store."""
        self._stop.set()
        self._thread.join()
        self._own.set(f"alive/{self.place.rank}", _DONE)
        if self.place.rank == 0:
            until = time.monotonic() + self._patience
            while time.monotonic() < until and not all(self._last(rank) == _DONE for rank in range(1, self.place.world)):
                time.sleep(0.05)

    def fail(self, error: BaseException) -> StageError:
        """Tell all others why this rank ends; gives what to tell its own people."""
        place, refused = self.place, isinstance(error, StageError)
        if not refused:
            traceback.print_exception(error)
            if _lost_a_peer(error):  # whoever began says so, or is found dead
                time.sleep(self._patience + 2 * self._beat)
        text = str(error)
        if not refused:
            text = f"rank {place.rank} of {place.world}, on {self._host}, failed: {type(error).__name__}: {error}. "
            text += f"Remedy: {_REMEDY}"
        self._stop.set()
        self._thread.join()
        self._say(text, self._host)
        return error if isinstance(error, StageError) else StageError(text.partition(". Remedy: ")[0], remedy=_REMEDY)

    def _watch(self) -> None:
        seen: dict[int, tuple[bytes | None, float]] = {}
        watched = range(1, self.place.world) if self.place.rank == 0 else range(1)
        count = 0
        try:
            while True:
                count += 1
                self._own.set(f"alive/{self.place.rank}", str(count))
                if self._own.check([_FAILED]):
                    self._leave(json.loads(self._own.get(_FAILED)))
                    return
                now = time.monotonic()
                for rank in watched:
                    value = self._last(rank)
                    if rank not in seen or value != seen[rank][0]:
                        seen[rank] = value, now
                    elif value not in (None, _DONE) and now - seen[rank][1] > self._patience:
                        said = f"rank {rank} of {self.place.world} has given no sign of life for {self._patience:.0f} s"
                        self._say(f"{said}: the others end. Remedy: {_REMEDY}", "")
                if self._stop.wait(self._beat):
                    return
        except RuntimeError as error:  # torch's store: whoever keeps it is gone
            if not self._stop.is_set():
                kept = f"the store at {os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
                self._leave({"host": "", "text": f"{kept} is gone, and with it rank 0 ({error}). Remedy: {_REMEDY}"})

    def _last(self, rank: int) -> bytes | None:
        name = f"alive/{rank}"
        return bytes(self._own.get(name)) if self._own.check([name]) else None

    def _say(self, text: str, host: str) -> None:
        """Let all know why; the first one to say so is believed."""
        self._own.compare_set(_FAILED, "", json.dumps({"text": text, "host": host}))

    def _leave(self, failed: Mapping[str, str]) -> None:
        """End this process; one of each host says why, but on the host where it was said already."""
        if self.place.local_rank == 0 and failed["host"] != self._host:
            print(f"ERROR: stage pretrain: {failed['text']}", file=sys.stderr, flush=True)
        self._end(1)


def _lost_a_peer(error: BaseException) -> bool:
    """Whether a collective ended because another rank did."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("onnection", "NCCL", "not written their"))


@contextmanager
def joined(place: Place | None) -> Iterator[Group | None]:
    """The ranks of the launcher, met at the master's address; without one, None.

    Raises:
        StageError: this rank failed; all others have been told.
    """
    if place is None:
        yield None
        return
    from torch.distributed import rendezvous

    store, _, _ = next(rendezvous("env://", place.rank, place.world))
    group = Group(place, store, os._exit)
    try:
        yield group
    except BaseException as error:
        raise group.fail(error) from error
    group.close()

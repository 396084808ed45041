"""Ranks of an outside launcher: what they read of it, and how they learn of each other's end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch.distributed import HashStore, Store, TCPStore

from stages._runner import StageError
from stages.pretrain.world import Group, Place, launched

SAID = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node-0", "MASTER_PORT": "29500"}


def test_a_launcher_says_who_a_process_is() -> None:
    assert launched(SAID, 8) == Place(rank=5, world=8, local_rank=1)
    assert launched({}, 8) is None
    assert launched({"MASTER_ADDR": "node-0", "MASTER_PORT": "1"}, 8) is None, "a site's defaults launch nothing"


@pytest.mark.parametrize("missing", sorted(SAID))
def test_half_a_launcher_is_refused_by_name(missing: str) -> None:
    said = {name: value for name, value in SAID.items() if name != missing}
    with pytest.raises(StageError, match=rf"and not {missing}\. Remedy: start with torchrun"):
        launched(said, 8)


def test_another_number_of_processes_is_refused() -> None:
    with pytest.raises(StageError, match=r"has started 8 processes, the plan is for 16\. Remedy: set pretrain\.data_parallel"):
        launched(SAID, 16)


class Ranks:
    """Groups of several ranks over one store, all in this process; `ended` has who was made to leave."""

    def __init__(self) -> None:
        server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.store: Store = server
        self.ended: list[int] = []
        self.groups: list[Group] = []

    def add(self, rank: int, world: int, local_rank: int) -> Group:
        def end(status: int) -> None:
            assert status == 1
            self.ended.append(rank)

        self.groups.append(Group(Place(rank, world, local_rank), self.store, end, beat=0.02, patience=0.4))
        return self.groups[-1]

    def until(self, met: Callable[[], bool]) -> None:
        limit = time.monotonic() + 20
        while not met() and time.monotonic() < limit:
            time.sleep(0.02)


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    made = Ranks()
    yield made
    for group in made.groups:
        group._stop.set()
        group._thread.join()


def test_ranks_that_live_and_end_well_end_nobody(ranks: Ranks) -> None:
    first, second = ranks.add(0, 2, 0), ranks.add(1, 2, 1)
    time.sleep(0.8)
    second.close()
    time.sleep(0.8)  # rank 0 may have a lot to copy when the others are done
    first.close()
    assert ranks.ended == []


def test_a_rank_that_falls_silent_ends_all_others_by_name(ranks: Ranks, capfd: pytest.CaptureFixture[str]) -> None:
    ranks.add(0, 3, 0)
    ranks.add(1, 3, 1)
    silent = ranks.add(2, 3, 0)
    ranks.until(lambda: silent._own.check(["alive/0"]))
    silent._stop.set()
    ranks.until(lambda: len(ranks.ended) == 2)
    assert sorted(ranks.ended) == [0, 1]
    said = capfd.readouterr().err
    assert said.count("rank 2 of 3 has given no sign of life for 0 s: the others end. Remedy: see its messages") == 1


def test_all_see_rank_0_fall_silent(ranks: Ranks, capfd: pytest.CaptureFixture[str]) -> None:
    silent = ranks.add(0, 3, 0)
    ranks.add(1, 3, 1)
    ranks.add(2, 3, 0)
    time.sleep(0.2)
    silent._stop.set()
    ranks.until(lambda: len(ranks.ended) == 2)
    assert sorted(ranks.ended) == [1, 2]
    assert "rank 0 of 3 has given no sign of life" in capfd.readouterr().err


def test_a_refusal_reaches_other_hosts_as_it_was_said(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first = ranks.add(0, 2, 0)
    monkeypatch.setattr(socket, "gethostname", lambda: "node-1")
    second = ranks.add(1, 2, 0)
    refusal = StageError("loss is nan at step 3", remedy="lower the learning rate")
    assert second.fail(refusal) is refusal
    ranks.until(lambda: ranks.ended == [0])
    assert (ranks.ended, first.place.rank) == ([0], 0)
    assert capfd.readouterr().err == "ERROR: stage pretrain: loss is nan at step 3. Remedy: lower the learning rate\n"


def test_a_bug_is_told_with_rank_and_host_and_a_lost_peer_waits_for_the_cause(
    ranks: Ranks, capfd: pytest.CaptureFixture[str]
) -> None:
    bug = ranks.add(1, 3, 0).fail(KeyError("word_embeddings"))
    assert str(bug).startswith(f"rank 1 of 3, on {socket.gethostname()}, failed: KeyError: 'word_embeddings'. Remedy: see")
    assert "KeyError" in capfd.readouterr().err, "with its traceback"
    started = time.monotonic()
    late = ranks.add(2, 3, 1)
    late.fail(RuntimeError("Connection closed by peer [10.0.0.2]:4711"))
    assert time.monotonic() - started > 0.4
    assert b"word_embeddings" in late.store.get("failed"), "the first word stands"


def test_a_store_that_is_gone_takes_its_readers_along(capfd: pytest.CaptureFixture[str]) -> None:
    class Gone(HashStore):
        def clone(self) -> Any:
            return self

        def set(self, key: str, value: Any) -> None:
            raise RuntimeError("Broken pipe")

    ended: list[int] = []
    group = Group(Place(1, 2, 0), Gone(), ended.append, beat=0.02, patience=0.4)
    group._thread.join(10)
    assert ended == [1]
    assert "is gone, and with it rank 0 (Broken pipe)" in capfd.readouterr().err

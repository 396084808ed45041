"""States and the thread that writes them: nothing is visible before it is whole, and no error stays in the thread."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.checkpoint import CheckpointError, read_tensors
from model.checkpoint.shards import write_shards
from stages._runner import StageError
from stages.pretrain.engine import QUANTITIES
from stages.pretrain.identity import check_identity, take_over
from stages.pretrain.saving import Saver, Target, clear_partial
from stages.pretrain.state import TrainingState, gather_receipts, leave_receipt

NAMES = ("word_embeddings.weight", "final_layernorm.weight")


class FakeEngine:
    """One process with two parameters, whose values say quantity and time."""

    def __init__(self, world: int = 1) -> None:
        self.plan, self.place = SimpleNamespace(staged=False, tensor=1, world=world), SimpleNamespace(tensor=0)
        self.now = 0.0

    def stored(self) -> list[str]:
        return list(NAMES)

    def shards(self, quantity: str = "master", wanted: Any = None, device: Any = None) -> dict[str, torch.Tensor]:
        return {name: torch.full((4, 2), QUANTITIES.index(quantity) + self.now) for name in NAMES}

    def counters(self) -> dict[str, Any]:
        return {"updates": 3}


def saver(folder: Path, engine: FakeEngine, written: Any = lambda *_: None) -> Saver:
    (folder / "tokens").write_bytes(b"tokens")
    target = Target(folder / "checkpoints", {"model": {}}, folder / "tokens", {"seed": 1}, 50)
    return Saver(0, engine, target, written)  # type: ignore[arg-type]


def test_what_is_written_is_the_copy_of_the_moment(tmp_path: Path) -> None:
    """The training goes on, and changes its weights, while the thread has not even begun."""
    engine, state, go, order = FakeEngine(), TrainingState(tmp_path), threading.Event(), []
    writer = saver(tmp_path, engine, lambda steps, folder: (go.wait(10), order.append(folder.name)))
    writer.save(state, 4, "step-000004", lambda: order.append("state"))
    engine.now = 9.0
    assert state.newest() is None
    go.set()
    writer.close(failed=False)
    assert order == ["step-000004", "state"], "first the checkpoint, then the state"
    assert state.newest() == 4
    assert check_identity(state, 4, {"seed": 1})["updates"] == 3
    for index, (quantity, tensors) in enumerate(state.load(4, 0, 1).items()):
        assert quantity == QUANTITIES[index]
        assert sorted(tensors) == sorted(NAMES)
        assert all(torch.equal(tensor, torch.full((4, 2), float(index))) for tensor in tensors.values())
    assert torch.equal(read_tensors(tmp_path / "checkpoints/step-000004")[NAMES[0]], torch.zeros(4, 2))


def test_an_error_in_the_thread_surfaces_at_the_next_step(tmp_path: Path) -> None:
    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    state = TrainingState(tmp_path)
    writer = saver(tmp_path, FakeEngine(), full_disk)
    writer.save(state, 4, "step-000004", lambda: None)
    with pytest.raises(OSError, match="No space left"):
        writer.wait()
    with pytest.raises(OSError, match="No space left"):
        writer.check()
    with pytest.raises(OSError, match="No space left"):
        writer.close(failed=False)
    assert state.newest() is None, "no state behind a checkpoint that failed"


def test_a_failed_training_does_not_wait_for_peers_that_are_gone(tmp_path: Path) -> None:
    state = TrainingState(tmp_path)
    writer = saver(tmp_path, FakeEngine(world=2))
    writer.save(state, 4, None, lambda: None)
    writer.close(failed=True)
    assert state.newest() is None
    with pytest.raises(StageError, match=r"ranks \[1\] have not written their share"):
        writer.wait()


def test_the_newest_two_states_stay_and_what_a_kill_left_goes(tmp_path: Path) -> None:
    state = TrainingState(tmp_path)
    writer = saver(tmp_path, FakeEngine())
    for steps in (2, 4, 6):
        writer.save(state, steps, None, lambda: None)
    writer.close(failed=False)
    state.partial(8)
    (tmp_path / "checkpoints/.step-000008.partial").mkdir(parents=True)
    assert state.newest() == 6
    state.clear_partial()
    clear_partial(tmp_path / "checkpoints")
    assert sorted(path.name for path in state.folder.iterdir()) == ["step-000000004", "step-000000006"]
    assert not list((tmp_path / "checkpoints").iterdir())


def test_shares_of_two_ranks_become_one_index(tmp_path: Path) -> None:
    for rank, name in enumerate(NAMES):
        files = write_shards(tmp_path, f"state-{rank}", [(name, torch.full((2,), float(rank)))], 100)
        leave_receipt(tmp_path, rank, files)
    gather_receipts(tmp_path, 2, threading.Event())
    assert {name: float(tensor[0]) for name, tensor in read_tensors(tmp_path).items()} == {NAMES[0]: 0.0, NAMES[1]: 1.0}
    assert not list(tmp_path.glob("rank-*"))


def test_an_altered_state_of_another_training_is_refused(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "here"
    for each in (source, folder):
        each.mkdir()
    with pytest.raises(StageError, match="names no interrupted training with a state"):
        take_over(source, folder, {"seed": 1})
    state = TrainingState(source)
    writer = saver(source, FakeEngine())
    writer.save(state, 4, None, lambda: None)
    writer.close(failed=False)
    with pytest.raises(StageError, match="seed: 1 there, 2 here"):
        take_over(source, folder, {"seed": 2})
    assert TrainingState(folder).newest() is None
    take_over(source, folder, {"seed": 1})
    assert TrainingState(folder).newest() == 4
    shard = sorted((folder / "state/step-000000004").glob("*.safetensors"))[-1]
    data = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(data[:-1] + b"\1")
    with pytest.raises(CheckpointError, match=f"{shard.name}: altered: SHA-256"):
        for tensors in TrainingState(folder).load(4, 0, 1).values():
            dict(tensors)
    for tensors in state.load(4, 0, 1).values():
        dict(tensors)

"""Of which training a state is, and how another number of processes takes one over.

A state lies in a folder keyed by all inputs of the stage, so a training with other inputs never meets it. Two ways lead to one
of other origin all the same: `pretrain.resume_from`, which names the folder of an interrupted training, and a state folder that
somebody copied. Both are compared by what is written here: what decides data, model and updates must be equal; how the
training is spread over processes, how long it is and how often it is saved may differ.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ledger.journal import Journal
from ledger.plan import DataPlan
from model.config import ModelConfig
from stages._manifest import sha256_file
from stages._params import to_plain
from stages._runner import StageError
from stages.pretrain.settings import Params
from stages.pretrain.state import TrainingState, only_writer

_FREE = frozenset({
    "resume_from", "steps", "checkpoint_every", "save_every", "validation", "attention", "compile", "threads", "micro_batch",
    "data_parallel", "tensor_parallel", "pipeline_parallel", "zero_stage", "activation_checkpointing", "shard_bytes",
})  # fmt: skip
_OWN = ("lock", "rendezvous", "torch_extensions")  # of one process group; not taken over


def identity(params: Params, config: ModelConfig, plan: DataPlan, tokenizer: Path) -> dict[str, Any]:
    """What must be equal where a training goes on from a state, as flat JSON."""
    settings = {name: value for name, value in to_plain(params).items() if name not in _FREE}
    data = {name: value for name, value in asdict(plan).items() if name != "steps"}
    parts = {"params": settings, "model": asdict(config), "data": data, "tokenizer": {"sha256": sha256_file(tokenizer)}}
    return dict(sorted(_flat("", parts)))


def _flat(prefix: str, data: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        found += _flat(f"{name}.", value) if isinstance(value, Mapping) else [(name, value)]
    return found


def check_identity(state: TrainingState, steps: int, training: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a state, if it is of this training.

    Raises:
        StageError: it is of another; the message has what changed.
    """
    facts = state.facts(steps)
    stored: Mapping[str, Any] = facts.get("training", {})
    changed = [
        f"{name}: {stored.get(name)} there, {training.get(name)} here"
        for name in sorted(stored.keys() | training.keys())
        if stored.get(name) != training.get(name)
    ]
    if changed:
        raise StageError(
            f"the state behind {steps} steps is of another training: {'; '.join(changed)}",
            file=state.folder,
            remedy="undo the change, or train from the start: empty pretrain.resume_from and remove this folder",
        )
    return facts


def check_journal(journal: Journal, folder: Path, finished: int) -> None:
    """Refuse to go on behind `finished` steps where journal and checkpoints do not tell of the same past.

    A checkpoint's line is safe before the state behind it is there: without it, what a checkpoint saw would be lost unseen.

    Raises:
        StageError: a line, or the folder of a checkpoint, is missing.
    """
    told = set(journal.checkpoints())
    there = {path.name for path in (folder / "checkpoints").glob("step-*")}
    past = {name for name in told | there if int(name.removeprefix("step-")) <= finished}
    for kind, lost in (("line", past - told), ("folder", past - there)):
        if lost:
            raise StageError(
                f"the {kind} of {', '.join(sorted(lost))} is missing, but {finished} steps are finished",
                file=folder / ("journal.jsonl" if kind == "line" else "checkpoints"),
                remedy=f"restore it; or remove {folder}, and train from the start",
            )


def take_over(source: Path, folder: Path, training: Mapping[str, Any]) -> None:
    """Let the training in `folder`, which has no state yet, begin where the one in `source` stands.

    Raises:
        StageError: there is no such training or state, it is still running, or is of other inputs.
    """
    if TrainingState(folder).newest() is not None:
        return
    if not (source / "state").is_dir() or (steps := TrainingState(source).newest()) is None:
        raise StageError(
            "pretrain.resume_from names no interrupted training with a state",
            file=source,
            remedy=f"set it to a folder's name in {source.parent.name}/ that has one, or leave it empty",
        )
    if any(source.glob("branch-*")):
        raise StageError("this training went back by itself; such a one goes on under its own plan alone", file=source)
    with only_writer(source):
        check_identity(TrainingState(source), steps, training)
        for path in sorted(source.iterdir()):
            if path.is_file() and path.name not in _OWN:
                shutil.copyfile(path, folder / path.name)
        _take_journal(folder, steps)
        for name in ("checkpoints", "anchors"):
            if (source / name).exists():
                _link_tree(source / name, folder / name)
        known = Journal.open(folder / "journal.jsonl").checkpoints()
        for path in (folder / "checkpoints").glob("*"):
            if path.name not in known:
                shutil.rmtree(path)
        _link_tree(source / "state", folder / "state")  # last: with it the training is taken over


def _take_journal(folder: Path, steps: int) -> None:
    """Drop lines of checkpoints behind the state: under another plan they come out with other bytes."""
    segments = list(Journal.open(folder / "journal.jsonl").segments)
    while segments and segments[-1].last_step >= steps:
        segments.pop()
    lines = [segment.to_line() + "\n" for segment in segments]
    (folder / "journal.jsonl").write_text("".join(lines), encoding="utf-8")


def _link_tree(source: Path, target: Path) -> None:
    """Copy a folder whose files are never changed in place; hard links where the file system has them."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=_link)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # no links on this file system
        shutil.copyfile(source, target)

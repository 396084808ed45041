"""The training journal: an append-only, hash-chained tree of training segments, one JSON object a line.

A segment is an unbroken run of steps under one group of settings, from the checkpoint it started at to the one it left.
Training that returns to an earlier checkpoint opens a branch: what a checkpoint was trained on is its path through the tree,
never the range 0..n. Steps and consumption indices count from 0 and ranges include both ends, so the checkpoint behind
`last_step` has `last_step + 1` steps behind it; where a published log counts iterations from 1, iteration i is step i - 1.

Every line carries the hash of the line before it and of itself. The chain shows any change inside the file; a file cut off
at a line's end is shown by whoever remembers a later hash, as each checkpoint's manifest and the attestation do. There is
no clock in it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from ledger import LedgerError, canonical_json

ORIGIN = "0" * 64  # stands for the line before the first


class JournalError(LedgerError):
    """The journal is damaged, or a segment does not fit onto it; the message names the file and the line."""


@dataclass(frozen=True)
class Segment:
    """One line of the journal.

    Attributes:
        parent: checkpoint that training started from; None for a start from scratch.
        first_step, last_step: steps of the segment, both included, skipped ones too.
        first_sample, last_sample: consumption indices of these steps, both included, skipped ones too.
        plan: digest of the data plan (`DataPlan.digest`).
        status: "kept", or "abandoned" where training went back behind this segment because of what happened in it.
        checkpoint: checkpoint that the segment left; a kept segment has one. Training that went back may reach a
            name again: the name then means the newer checkpoint.
        weights_sha256: SHA-256 of the checkpoint's model.safetensors.
        skipped: step ranges whose samples were passed over without training, ascending, both ends included.
        settings: what differs from or adds to the parameters: learning rate, gradient shrink, cause, note.
        index, previous, hash: place in the chain, filled in by `Journal.append`.
    """

    parent: str | None
    first_step: int
    last_step: int
    first_sample: int
    last_sample: int
    plan: str
    status: Literal["kept", "abandoned"]
    checkpoint: str | None = None
    weights_sha256: str | None = None
    skipped: tuple[tuple[int, int], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    index: int = -1
    previous: str = ""
    hash: str = ""

    def to_line(self) -> str:
        """The journal's line, without its line end."""
        return canonical_json(asdict(self))

    def digest(self) -> str:
        """What `hash` has to be: SHA-256 of the canonical JSON of all other fields."""
        body = {key: value for key, value in asdict(self).items() if key != "hash"}
        return hashlib.sha256(canonical_json(body).encode()).hexdigest()

    @classmethod
    def from_line(cls, line: str) -> Segment:
        """The inverse of `to_line`.

        Raises:
            ValueError: not the canonical JSON of a segment.
        """
        data = json.loads(line)
        names = [item.name for item in fields(cls)]
        if not isinstance(data, dict) or sorted(data) != sorted(names):
            raise ValueError(f"expected an object with the fields {', '.join(names)}")
        numbers = [data["index"], data["first_step"], data["last_step"], data["first_sample"], data["last_sample"]]
        data["skipped"] = tuple((first, last) for first, last in data["skipped"])
        if any(type(number) is not int for number in itertools.chain(numbers, *data["skipped"])):
            raise ValueError("steps and samples are whole numbers")
        segment = cls(**data)
        if segment.to_line() != line:
            raise ValueError("not in canonical form")
        return segment

    def skips(self, step: int) -> bool:
        """Whether the samples of `step` were passed over."""
        return any(first <= step <= last for first, last in self.skipped)

    def checkpoint_manifest(self) -> dict[str, Any]:
        """What a checkpoint's manifest.json says of its origin; a pure function of the segment, so anybody can check it."""
        return {
            "step": self.last_step + 1,
            "samples": self.last_sample + 1,
            "parent": self.parent,
            "plan": self.plan,
            "journal": self.hash,
            "weights_sha256": self.weights_sha256,
        }


class Journal:
    """The segments of a journal file, in the order of writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._segments: list[Segment] = []
        self._parents: list[int | None] = []
        self._bytes = 0

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read and verify a journal.

        Raises:
            JournalError: the file is absent, or a line is damaged, incomplete or does not follow from those before it.
        """
        if not path.is_file():
            raise JournalError(f"{path}: no such journal. Remedy: run the pretrain stage, which writes it")
        journal = cls(path)
        data = path.read_bytes()
        *lines, rest = data.split(b"\n")
        for number, line in enumerate(lines, 1):
            journal._read_line(line, number)
        if rest:
            raise JournalError(
                f"{path}, line {len(lines) + 1}: incomplete; a writer was cut off. Remedy: restore the file, or, in the "
                "writer's own scratch folder, let Journal.open drop the line"
            )
        journal._bytes = len(data)
        return journal

    @classmethod
    def open(cls, path: Path) -> Journal:
        """The journal for its one writer: begins an absent one, drops a last line whose writing was cut off.

        Such a line was never acknowledged: `append` returns after the line is on the disk.

        Raises:
            JournalError: a complete line is damaged.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if path.exists() else b""
        if not path.exists() or not data.endswith(b"\n"):
            with path.open("ab") as file:
                file.truncate(data.rfind(b"\n") + 1)
        return cls.read(path)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments, abandoned ones too."""
        return tuple(self._segments)

    @property
    def head(self) -> str:
        """Hash of the last segment: who knows it can tell whether the journal is whole."""
        return self._segments[-1].hash if self._segments else ORIGIN

    def append(self, segment: Segment) -> Segment:
        """Seal a segment and write it to the disk, flushed; returns it with its place in the chain.

        Raises:
            JournalError: it does not fit onto the journal, or somebody else has written to the file.
        """
        sealed = replace(segment, index=len(self._segments), previous=self.head, hash="")
        sealed = Segment.from_line(replace(sealed, hash=sealed.digest()).to_line())  # what a reader will see
        parent = self._check(sealed, f"{self.path}, line {sealed.index + 1}")
        size = self.path.stat().st_size if self.path.exists() else 0
        if size != self._bytes:
            raise JournalError(f"{self.path}: {size} bytes, expected {self._bytes}: it has a second writer. Remedy: stop one")
        line = sealed.to_line().encode() + b"\n"
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._add(sealed, parent)
        self._bytes += len(line)
        return sealed

    def checkpoints(self) -> dict[str, Segment]:
        """The checkpoints by name, in the order of writing; a name used twice stands for the newer."""
        return {segment.checkpoint: segment for segment in self._segments if segment.checkpoint is not None}

    def path_to(self, checkpoint: str) -> list[Segment]:
        """The segments that made a checkpoint, first to last.

        Args:
            checkpoint: its name, or the SHA-256 of its weights (which also finds one whose name was used again).

        Raises:
            JournalError: the journal does not know it; the message lists those that it knows.
        """
        for segment in reversed(self._segments):
            if checkpoint in (segment.checkpoint, segment.weights_sha256):
                return self.ancestry(segment)
        known = ", ".join(self.checkpoints()) or "none"
        raise JournalError(f"{self.path}: unknown checkpoint {checkpoint!r}. Known: {known}")

    def ancestry(self, segment: Segment) -> list[Segment]:
        """A segment of this journal with all that it started from, first to last."""
        path = [segment]
        while (parent := self._parents[path[-1].index]) is not None:
            path.append(self._segments[parent])
        return path[::-1]

    def main_line(self) -> list[Segment]:
        """The path to the newest kept checkpoint; empty where there is none."""
        for segment in reversed(self._segments):
            if segment.status == "kept":
                return self.ancestry(segment)
        return []

    def abandoned(self) -> list[Segment]:
        """The segments that are not on the main line: marked as abandoned, or left behind by a later return."""
        kept = {segment.index for segment in self.main_line()}
        return [segment for segment in self._segments if segment.index not in kept]

    def _read_line(self, line: bytes, number: int) -> None:
        where = f"{self.path}, line {number}"
        try:
            segment = Segment.from_line(line.decode())
        except (ValueError, TypeError) as error:
            raise JournalError(f"{where}: not a segment: {error}") from error
        if segment.index != len(self._segments) or segment.previous != self.head:
            raise JournalError(f"{where}: does not follow the line before it: a line was changed, removed or moved")
        if segment.hash != segment.digest():
            raise JournalError(f"{where}: its hash is not that of its content: the line was changed")
        self._add(segment, self._check(segment, where))

    def _add(self, segment: Segment, parent: int | None) -> None:
        self._segments.append(segment)
        self._parents.append(parent)

    def _check(self, segment: Segment, where: str) -> int | None:
        """Index of the parent segment; raises JournalError where the segment makes no sense after those before it."""
        _check_alone(segment, where)
        if segment.parent is None:
            parent, step, sample = None, 0, 0
        else:
            if segment.parent not in (known := self.checkpoints()):
                raise JournalError(f"{where}: unknown parent {segment.parent!r}. Known: {', '.join(known) or 'none'}")
            before = known[segment.parent]
            parent, step, sample = before.index, before.last_step + 1, before.last_sample + 1
            if segment.status == "kept" and before.status == "abandoned":
                raise JournalError(f"{where}: a kept segment cannot start from {segment.parent}, which was abandoned")
        if (segment.first_step, segment.first_sample) != (step, sample):
            raise JournalError(
                f"{where}: starts at step {segment.first_step}, sample {segment.first_sample}; "
                f"its parent {segment.parent or '(none)'} asks for step {step}, sample {sample}"
            )
        return parent


def _check_alone(segment: Segment, where: str) -> None:
    if segment.last_step < segment.first_step or segment.last_sample < segment.first_sample:
        raise JournalError(f"{where}: the segment ends before it begins")
    if segment.status not in ("kept", "abandoned"):
        raise JournalError(f"{where}: status {segment.status!r}; allowed: kept, abandoned")
    if (segment.checkpoint is None) != (segment.weights_sha256 is None):
        raise JournalError(f"{where}: a checkpoint is named with the SHA-256 of its weights, or not at all")
    if segment.status == "kept" and segment.checkpoint is None:
        raise JournalError(f"{where}: a kept segment leaves a checkpoint")
    after = segment.first_step
    for first, last in segment.skipped:
        if not after <= first <= last <= segment.last_step:
            raise JournalError(f"{where}: skipped steps {first}-{last} are out of order or outside the segment")
        after = last + 1

"""States that a training can go back to, for as long as its policy may want to."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from stages.pretrain.state import TrainingState


class Anchors:
    """Hard links to the states of the newest checkpoints; they cost no space while the states themselves are there.

    Attributes:
        state: where they lie.
    """

    def __init__(self, scratch: Path) -> None:
        (scratch / "anchors").mkdir(exist_ok=True)
        self.state = TrainingState(scratch / "anchors")

    def add(self, state: TrainingState, steps: int, good_after: int) -> None:
        """Keep the state behind `steps` steps; drop those too old to be the newest with `good_after` steps behind it."""
        final = self._folder(steps)
        partial = final.with_name(f".{final.name}")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(state.folder / final.name, partial, copy_function=os.link)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        old = [number for number in self._steps() if number <= steps - good_after]
        for number in old[:-1]:
            shutil.rmtree(self._folder(number))

    def _steps(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.state.folder.glob("step-*"))

    def _folder(self, steps: int) -> Path:
        return self.state.folder / f"step-{steps:09d}"

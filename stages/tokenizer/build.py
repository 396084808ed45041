"""The stage: the model, made by a child process, and then what it does to held-out text.

While the child trains, this process waits, with nothing loaded that reads documents: training wants all the memory there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stages._runner import StageIO
from stages.tokenizer.params import Params
from stages.tokenizer.training import train


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Train, then measure on the held-out documents."""
    path = io.output / "tokenizer.model"
    path.write_bytes(train(_sample(params, io), params))
    from stages.tokenizer.describe import describe

    return describe(path, params, io)


def _sample(params: Params, io: StageIO) -> Iterator[str]:
    """The lines to train on; runs in the child."""
    from stages.tokenizer.describe import training_lines

    yield from training_lines(params, io)

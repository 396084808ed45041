"""What to say where memory runs out: how much the plan foresees, part by part, and what each knob would save."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from stages._runner import StageError
from stages.pretrain.fitting import savings
from stages.pretrain.profile import Profile, layout_of, memory_of

if TYPE_CHECKING:
    from stages.pretrain.trainer import Job

_SIGNS = ("can't allocate memory", "bad_alloc", "out of memory")


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, of Python, of torch's CPU allocator or of a GPU's."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextmanager
def shortage_explained(rank: int, job: Job) -> Iterator[None]:
    """Turn a failed allocation into a sentence that a person can act on.

    Raises:
        StageError: memory ran out inside.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        raise _sentence(error, rank, job) from error


def _sentence(error: BaseException, rank: int, job: Job) -> StageError:
    params, device = job.params, "cuda" if torch.cuda.is_available() else "cpu"
    layout, steps = layout_of(params.plan, params.micro_batch), {params.batch_end: job.plan.steps}
    profile = Profile("this training", job.config, layout, steps, params.precision, params.attention)
    stage = memory_of(profile, device)[params.plan.place(rank).stage]
    parts = ", ".join(f"{name.replace('_', ' ')} {_gb(size)}" for name, size in stage.parts().items() if size)
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    knobs = "; or ".join(f"pretrain.{change} ({_gb(total)})" for change, total in savings(profile, device))
    together = "" if stage.keeps else ", which never all stand together"
    return StageError(
        f"rank {rank} of {params.plan.world} is out of memory ({first}). The plan foresees {_gb(stage.total)} for it; "
        f"parts{together}: {parts}",
        remedy=f"set {knobs or 'nothing: it is as small as it gets; take a larger machine'}; behind each is what the plan then "
        f"foresees. With pretrain.resume_from: {job.scratch.name} it goes on from the newest state, if there is one",
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"

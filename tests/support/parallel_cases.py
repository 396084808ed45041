"""One small training, run by any plan and by a plain loop: what `tests/integration/test_parallel.py` compares.

The plain loop is the truth: torch and the GLM, one process, no engine. It takes the sequences of a step one by one, each
normalised by its own number of targets (facts 3.4), and keeps FP32 masters beside BF16 weights where that is asked for.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import ModelConfig
from model.glm import GLM, Batch, initialise
from model.parallel.split import part
from stages._params import parse
from stages.pretrain.engine import QUANTITIES, Engine, build_engine, parameter_groups
from stages.pretrain.settings import Params

STEPS, BATCH, LENGTH, VOCABULARY = 20, 4, 40, 512
SAVED = 16  # steps before the state that the last ones are run from again
_BASE: dict[str, Any] = {
    "seed": 11,
    "model": {"layers": 4, "hidden": 32, "heads": 4, "ffn": 48, "dropout": 0.0},
    "optimizer": {
        "peak_lr": 5.0e-3, "min_lr": 1.0e-4, "warmup_samples": 1, "decay_samples": 200,
        "beta1": 0.9, "beta2": 0.95, "eps": 1.0e-8, "weight_decay": 0.1, "clip_norm": 1.0,
    },
    "batch_start": BATCH, "batch_end": BATCH, "batch_increment": BATCH, "batch_ramp_samples": 0,
    "steps": STEPS, "micro_batch": 1, "checkpoint_every": 100, "save_every": 100,
    "embedding_gradient_shrink": 0.1, "precision": "fp32", "zero_stage": 1, "data_parallel": 1, "threads": 1,
}  # fmt: skip


State = dict[str, dict[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class Trace:
    """Loss and gradient norm of each step, [STEPS] each, weights behind the last one, whether resuming gave the same."""

    losses: list[float]
    norms: list[float]
    weights: dict[str, NDArray[np.float32]]
    resumed: bool = True


def params(clip: float, **changes: Any) -> Params:
    """Parameters of the training under a plan."""
    optimizer = _BASE["optimizer"] | {"clip_norm": clip}
    return parse(Params, _BASE | {"optimizer": optimizer} | changes, "test")


def config(settings: Params, **changes: Any) -> ModelConfig:
    """Its model."""
    return dataclasses.replace(settings.model.with_data(VOCABULARY, LENGTH), **changes)


def size_of(step: int, settings: Params) -> int:
    """Sequences of a step: BATCH in the first half, `batch_end` from there on."""
    return BATCH if step < STEPS // 2 else settings.batch_end


def batch_of(step: int, size: int = BATCH) -> Batch:
    """Sequences with one to three blocks, padding, and very different numbers of targets."""
    generator = torch.Generator().manual_seed(1_000 + step)
    ids = torch.randint(8, VOCABULARY, (size, LENGTH), generator=generator)
    targets = torch.full((size, LENGTH), -1)
    starts, contexts = torch.full((size, 4), LENGTH), torch.zeros(size, 3, dtype=torch.int64)
    for row in range(size):
        ends = [0, *((LENGTH - 4) * (block + 1) // (row % 3 + 1) for block in range(row % 3 + 1))]
        ends += [ends[-1]] * (4 - len(ends))
        starts[row] = torch.tensor(ends)
        for block, (first, end) in enumerate(pairwise(ends)):
            if first == end:
                continue
            context = (end - first) * (2 if row % 2 else 5) // 6
            contexts[row, block] = context
            targets[row, first + context : end] = torch.randint(8, VOCABULARY, (end - first - context,), generator=generator)
    return Batch(ids, targets, torch.arange(LENGTH).repeat(size, 1), starts, contexts)


def rows(batch: Batch, chosen: Any) -> Batch:
    """Some sequences of a batch."""
    return Batch(*(getattr(batch, field.name)[chosen] for field in dataclasses.fields(Batch)))


def learning_rate(step: int, settings: Params) -> float:
    """Of a step: falling, so that its order matters."""
    return settings.optimizer.peak_lr * (1 - step / (2 * STEPS))


def plain(settings: Params, **changes: Any) -> Trace:
    """The truth: a loop without engine, one process."""
    torch.set_num_threads(1)
    model = GLM(config(settings, **changes))
    initialise(model, settings.seed)
    masters = {name: torch.nn.Parameter(weight.detach().clone()) for name, weight in model.named_parameters()}
    if settings.precision == "bf16":
        model.bfloat16()
    model.embedding_gradient_shrink = settings.embedding_gradient_shrink
    adam = settings.optimizer
    groups = parameter_groups(_Named(masters), adam.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=(adam.beta1, adam.beta2), eps=adam.eps)
    losses, norms = [], []
    for step in range(STEPS):
        size, loss = size_of(step, settings), 0.0
        batch = batch_of(step, size)
        for row in range(size):
            one, *_ = model(rows(batch, slice(row, row + 1)))
            (one / size).backward()
            loss += float(one.detach()) / size
        for name, weight in model.named_parameters():
            assert weight.grad is not None
            masters[name].grad, weight.grad = weight.grad.float(), None
        norms.append(float(torch.nn.utils.clip_grad_norm_(masters.values(), settings.optimizer.clip_norm)))
        losses.append(loss)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        optimizer.step()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(masters[name])
    return Trace(losses, norms, {name: master.detach().numpy() for name, master in masters.items()})


class _Named(torch.nn.Module):
    """Parameters under their own dotted names, for `parameter_groups`."""

    def __init__(self, named: dict[str, torch.nn.Parameter]) -> None:
        super().__init__()
        self._named = named

    def named_parameters(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        return iter(self._named.items())


def by_plan(rank: int, settings: Params, **changes: Any) -> Trace:
    """The same training by the engine of a plan, as rank `rank`; its last steps are run again from a state before them."""
    engine = build_engine(config(settings, **changes), settings, rank)
    first = _steps(engine, settings, range(SAVED))
    state, updates = {quantity: engine.shards(quantity) for quantity in QUANTITIES}, engine.counters()["updates"]
    second = _steps(engine, settings, range(SAVED, STEPS))
    weights = engine.whole()
    engine = build_engine(config(settings, **changes), settings, rank)
    engine.load_shards(state, updates)
    again = _steps(engine, settings, range(SAVED, STEPS))
    resumed = engine.whole()
    same = again == second and all(torch.equal(resumed[name], weight) for name, weight in weights.items())
    losses, norms = [[*before, *behind] for before, behind in zip(first, second, strict=True)]
    return Trace(losses, norms, _numpy(weights), same)


def _steps(engine: Engine, settings: Params, steps: range) -> tuple[list[float], list[float]]:
    losses, norms = [], []
    for step in steps:
        size = size_of(step, settings)
        mine = torch.arange(size).view(-1, settings.data_parallel, settings.micro_batch)[:, engine.place.data]
        batch = batch_of(step, size)
        outputs = engine.train_step([rows(batch, micro) for micro in mine], learning_rate(step, settings))
        meter = torch.tensor([sum(float(loss) for loss, *_ in outputs), float(len(outputs))], dtype=torch.float64)
        total, count = engine.total(meter).tolist()
        losses.append(total / count)
        norms.append(engine.gradient_norm())
    return losses, norms


def begin(rank: int, cases: dict[str, Params]) -> dict[str, State]:
    """Masters and moments of the whole model behind SAVED steps under each plan, by quantity and name."""
    states = {}
    for name, settings in cases.items():
        print(f"begin {name}", flush=True)
        engine = build_engine(config(settings), settings, rank)
        _steps(engine, settings, range(SAVED))
        states[name] = {quantity: _numpy(engine.whole(quantity)) for quantity in QUANTITIES}
    return states


def go_on(rank: int, cases: dict[str, tuple[Params, State]]) -> dict[str, tuple[list[float], list[float]]]:
    """Losses and norms of the steps from SAVED on, under each plan, from such a state."""
    results = {}
    for name, (settings, state) in cases.items():
        print(f"go on {name}", flush=True)
        engine = build_engine(config(settings), settings, rank)
        shards: dict[str, dict[str, Tensor]] = {}
        for quantity, full in state.items():
            for key, _ in engine.model.named_parameters():
                mine = part(key, torch.from_numpy(full[key]), engine.place.tensor, settings.tensor_parallel)
                shards.setdefault(quantity, {})[key] = mine
        engine.load_shards(shards, SAVED)
        results[name] = _steps(engine, settings, range(SAVED, STEPS))
    return results


def _numpy(tensors: dict[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """Tensors travel badly in pipes."""
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def run_cases(rank: int, cases: dict[str, tuple[Params, dict[str, Any]]]) -> dict[str, Trace]:
    """All cases of one number of processes, one after the other."""
    results = {}
    for name, (settings, changes) in cases.items():
        print(f"case {name}", flush=True)  # in the logs of a failure
        results[name] = by_plan(rank, settings, **changes)
    return results


def look(rank: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Three steps with a held-out loss between them, by the engine of a plan; what all ranks know of it."""
    settings = params(1.0, **changes)
    engine = build_engine(config(settings), settings, rank)
    seen: dict[str, Any] = {"losses": []}
    share = settings.data_parallel
    for step in range(3):
        mine = [rows(batch_of(step), slice(row, row + 1)) for row in range(engine.place.data, BATCH, share)]
        seen["losses"].append(_mean(engine, engine.train_step(mine, 1e-3)))
        seen |= {"parts": engine.gradient_norms(), "norm": engine.gradient_norm()}
        seen["held_out"] = _mean(engine, engine.evaluate(mine))
    return seen


def _mean(engine: Engine, outputs: Any) -> float:
    meter = torch.tensor([sum(float(loss) for loss, *_ in outputs), float(len(outputs))], dtype=torch.float64)
    total, count = engine.total(meter).tolist()
    return float(total / count)

"""Speed of a training step on a CPU: the stage's own loop, a bare loop of torch over the same model, and a plain causal GPT.

All three train in one process on the packed samples of a built project, one step of each in turn, so that a busy spell hits all
alike; compared are the medians of each step's ratio. All keep BF16 weights, FP32 masters and moments, and clip. The stage's
loop has what it has in `python -m stages.pretrain`: DeepSpeed, meters, logs, state, journal; a step that writes a state is not
among those that are timed. The GPT has as many parameters, layers and positions, the same vocabulary and width, and the loss at
every position over whole logits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._measure import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.training import TrainingBench
    from model.glm import Batch
    from stages.pretrain.trainer import Job

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {"bare loop, same model": 0.97, "causal GPT": 1.0}
WARM = 2  # steps before the clock runs

Step = Callable[[int], None]


def rows(bench: TrainingBench, changes: dict[str, Any] | None = None) -> list[Row]:
    """Our tokens a second beside both peers'; `changes` to the model are for tests.

    Raises:
        RuntimeError: a loop failed.
    """
    bench.say(f"speed, {bench.steps} steps of each loop in turn")
    request = {"project": str(bench.project), "threads": bench.threads, "steps": bench.steps, "changes": changes or {}}
    found = in_process(request)
    ours, positions = found["seconds"]["ours"], found["positions"]
    result = []
    for peer, target in TARGETS.items():
        theirs = found["seconds"][peer]
        ratio = statistics.median(other / own for own, other in zip(ours, theirs, strict=True))
        cpu = statistics.median(other / own for own, other in zip(found["cpu"]["ours"], found["cpu"][peer], strict=True))
        sizes = f"{found['parameters']['ours'] / 1e6:.2f} : {found['parameters'][peer] / 1e6:.2f} M parameters"
        note = f"{sizes}; by CPU seconds {cpu:.2f} x"
        speeds = [positions / statistics.median(seconds) for seconds in (ours, theirs)]
        what = f"training, {positions:,} positions a step"
        result.append(Row("speed", what, "tokens/s", speeds[0], peer, speeds[1], ratio, "ratio", ">=", target, note))
    share = statistics.median(own / step for own, step in zip(found["overhead"], ours, strict=True))
    result.append(Row("speed", "meters, logs and their files: share of a step", "share", share, sense="<=", target=0.01))
    return result


def in_process(request: dict[str, Any]) -> dict[str, Any]:
    """Measure in a fresh process, with the allocator's settings that the stage gives itself.

    Raises:
        RuntimeError: it failed.
    """
    from stages._runner import _ALLOCATOR

    command = [sys.executable, "-m", "benchmarks._training_speed", json.dumps(request)]
    kept = _ALLOCATOR | {"MALLOC_MMAP_THRESHOLD_": "4000000000"}  # the GPT's whole logits too: it gains, the stage has no such
    environment = os.environ | kept | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"speed failed ({done.returncode}):\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _spend(project: str, threads: int, steps: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Train with all loops in this process, which must be fresh."""
    import torch

    from benchmarks._training_peers import BareLoop, CausalGPT, of_equal_size
    from model.glm import GLM, initialise
    from stages.pretrain.data import PackedSamples
    from stages.pretrain.engine import start_process_group

    with tempfile.TemporaryDirectory() as folder:
        job = _job(Path(project), Path(folder), threads, steps + WARM, changes)
        _prepare(job)
        start_process_group(0, 1, Path(folder) / "rendezvous")
        stage, overhead = _stage_loop(job)
        samples = PackedSamples(job.packed)

        def batches(step: int) -> list[Batch]:
            parts: NDArray[np.int64] = job.plan.rows(step).reshape(-1, job.params.micro_batch)
            return [samples.batch(part) for part in parts]

        model = GLM(job.config)
        initialise(model, job.params.seed)
        model.embedding_gradient_shrink = job.params.embedding_gradient_shrink
        same = BareLoop(model, job.params, lambda batch: model(batch)[0])
        gpt = CausalGPT(of_equal_size(job.config))
        plain = BareLoop(gpt, job.params, lambda batch: gpt.loss(batch.input_ids))
        loops: dict[str, Step] = {
            "ours": stage,
            "bare loop, same model": lambda step: same.step(batches(step), job.params.optimizer.peak_lr),
            "causal GPT": lambda step: plain.step(batches(step), job.params.optimizer.peak_lr),
        }
        seconds, cpu = _in_turn(loops, steps)
        torch.distributed.destroy_process_group()
    sizes = {"ours": model, "bare loop, same model": model, "causal GPT": gpt}
    return {
        "seconds": seconds,
        "cpu": cpu,
        "overhead": overhead[WARM:],
        "positions": int(job.params.batch_end) * job.config.max_sequence,
        "parameters": {name: sum(p.numel() for p in found.parameters()) for name, found in sizes.items()},
    }


def _in_turn(loops: dict[str, Step], steps: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall and CPU seconds of each loop's steps; who goes first changes from step to step."""
    wall: dict[str, list[float]] = {name: [] for name in loops}
    cpu: dict[str, list[float]] = {name: [] for name in loops}
    names = list(loops)
    for step in range(steps + WARM):
        for name in names[step % len(names) :] + names[: step % len(names)]:
            started, used = time.perf_counter(), time.process_time()
            loops[name](step)
            if step >= WARM:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - used)
    return wall, cpu


def _prepare(job: Job) -> None:
    """What `stages.pretrain.trainer.train` sets, for all loops."""
    import torch

    from stages.pretrain.engine import prepare_environment

    prepare_environment(job.scratch)
    torch.set_num_threads(job.params.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _job(project: Path, scratch: Path, threads: int, steps: int, changes: dict[str, Any]) -> Job:
    """The laptop profile at its full batch, on the project's packed samples."""
    from ledger.order import Order
    from ledger.plan import DataPlan
    from stages._params import load_section
    from stages.pretrain.settings import Params
    from stages.pretrain.trainer import Job

    packed, tokenizer = project / "data/pack", project / "data/tokenizer"
    facts = json.loads((packed / "pack.json").read_text(encoding="utf-8"))
    params = load_section(Params, ROOT / "params.yaml", "pretrain")
    params = dataclasses.replace(
        params,
        batch_start=params.batch_end,
        threads=threads,
        steps=steps,
        save_every=10 * steps,
        checkpoint_every=10 * steps,
        model=dataclasses.replace(params.model, **changes),
    )
    vocabulary = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))["padded_size"]
    digest = hashlib.sha256((packed / "manifest.json").read_bytes()).hexdigest()
    plan = DataPlan(Order(params.seed, facts["samples_per_epoch"], facts["epochs"]), params.ramp(), steps + 1, digest)
    config = params.model.with_data(vocabulary, facts["sequence_length"])
    return Job(params, config, plan, packed, tokenizer / "tokenizer.model", scratch)


def _stage_loop(job: Job) -> tuple[Step, list[float]]:
    """The trainer's own step, and a list that gets the seconds which each step spends on meters and logs."""
    from stages.pretrain.logs import Logs
    from stages.pretrain.trainer import Trainer

    trainer, params = Trainer(0, job), job.params
    trainer.meters.begin(trainer._resume())
    logs, overhead = Logs(job.scratch, params, 0), []
    spent = 0.0

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal spent
            started = time.perf_counter()
            result = function(*args, **kwargs)
            spent += time.perf_counter() - started
            return result

        return call

    trainer.meters.step, logs.add = clocked(trainer.meters.step), clocked(logs.add)  # type: ignore[method-assign]

    def step(number: int) -> None:
        nonlocal spent
        spent = 0.0
        trainer._step_and_keep(number, logs)
        overhead.append(spent)

    return step, overhead


if __name__ == "__main__":
    print(json.dumps(_spend(**json.loads(sys.argv[1]))))

"""Memory as `glm plan` foresees it beside what a process takes: the resident peak over a few steps, each case in its own.

It is measured as the stage runs: with its modules and its allocator's settings, a state on its way to the disk in every second
step. Batches are of one [gMASK] block a sequence.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._measure import Row, peak_bytes, resident_bytes

if TYPE_CHECKING:
    from benchmarks.training import TrainingBench
    from model.config import ModelConfig
    from model.glm import Batch

ROOT = Path(__file__).resolve().parents[1]
TARGET = 0.10  # how far the plan may be off
TARGET_SHARE = 0.6  # of the positions: the mean of published [gMASK] targets, 1,200 of 2,000
CASES: dict[str, dict[str, Any]] = {
    "laptop": {"file": "params.yaml", "micro_batch": 8, "micro_batches": 2, "dropout": 0.0},
    # One sequence at a time, for a CPU's patience; without dropout, for its flash kernel has none.
    "125m": {"file": "profiles/125m.yaml", "micro_batch": 1, "micro_batches": 1, "dropout": 0.0},
}
STEPS = 4  # the heap has its size after the first state


def rows(bench: TrainingBench, cases: dict[str, dict[str, Any]] = CASES) -> list[Row]:
    """The plan beside the measure for each case.

    Raises:
        RuntimeError: a case failed.
    """
    found = []
    for name, case in cases.items():
        bench.say(f"memory of {name}")
        spent = in_process(case, bench.threads)
        planned, peak = spent["planned"] / 1e9, spent["peak"] / 1e9
        what = f"{name}: {case['micro_batches']} x {case['micro_batch']} sequences a step"
        note = f"of which {spent['started'] / 1e9:.2f} GB before the model is built"
        found.append(Row("plan", what, "GB planned", planned, "measured", peak, planned / peak, note=note))
        off = abs(planned / peak - 1)
        found.append(Row("plan", f"{name}: plan off by", "share", off, sense="<=", target=TARGET))
    return found


def in_process(case: dict[str, Any], threads: int) -> dict[str, int]:
    """Train in a fresh process: bytes `planned`, `peak`, and `started` with, before there is a model.

    Raises:
        RuntimeError: it failed.
    """
    from stages._runner import _ALLOCATOR

    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment |= _ALLOCATOR | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks._training_plan", json.dumps({"case": case, "threads": threads})]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case['file']} failed ({done.returncode}):\n{done.stderr}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _spend(case: dict[str, Any], threads: int) -> dict[str, int]:
    """Run a few steps in this process, which must be fresh."""
    import torch

    from stages._params import load_section
    from stages.pretrain.engine import prepare_environment, start_process_group
    from stages.pretrain.profile import memory_of, read_profile
    from stages.pretrain.saving import Saver, Target
    from stages.pretrain.settings import Params
    from stages.pretrain.state import TrainingState
    from stages.pretrain.trainer import build_engine

    file, size = ROOT / case["file"], case["micro_batch"] * case["micro_batches"]
    params = load_section(Params, file, "pretrain")
    changed = dataclasses.replace(
        params,
        micro_batch=case["micro_batch"],
        batch_start=size,
        batch_end=size,
        batch_increment=size,
        threads=threads,
        model=dataclasses.replace(params.model, dropout=case["dropout"], **case.get("model", {})),
    )
    profile = read_profile(file)
    config = changed.model.with_data(profile.config.vocabulary, profile.config.max_sequence)
    layout = dataclasses.replace(profile.layout, micro_batch=case["micro_batch"])
    profile = dataclasses.replace(profile, config=config, layout=layout, batches={size: 1})
    with tempfile.TemporaryDirectory() as folder:
        prepare_environment(Path(folder))
        torch.set_num_threads(threads)
        start_process_group(0, 1, Path(folder) / "rendezvous")
        started = resident_bytes()
        engine = build_engine(config, changed, 0)
        generator = torch.Generator().manual_seed(1)
        target = Target(Path(folder), {}, Path(folder) / "none", {}, changed.shard_bytes)
        state, saver = TrainingState(Path(folder)), Saver(0, engine, target, lambda *_: None)
        for step in range(STEPS):
            engine.train_step([_batch(config, case["micro_batch"], generator) for _ in range(case["micro_batches"])], 1e-4)
            if step % 2:
                saver.save(state, step, None, lambda: None)
        saver.close(failed=False)
        peak = peak_bytes()
        torch.distributed.destroy_process_group()
    return {"planned": memory_of(profile, "cpu", TARGET_SHARE)[0].total, "peak": peak, "started": started}


def _batch(config: ModelConfig, sequences: int, generator: Any) -> Batch:
    import torch

    from model.glm import Batch

    shape, length = (sequences, config.max_sequence), config.max_sequence
    context = round((1 - TARGET_SHARE) * length)
    ids, targets = (torch.randint(0, config.vocabulary, shape, generator=generator) for _ in range(2))
    targets[:, :context] = -1
    positions, bounds = torch.arange(length).repeat(sequences, 1), torch.tensor([[0, length]]).repeat(sequences, 1)
    return Batch(ids, targets, positions, bounds, torch.full((sequences, 1), context))


if __name__ == "__main__":
    print(json.dumps(_spend(**json.loads(sys.argv[1]))))

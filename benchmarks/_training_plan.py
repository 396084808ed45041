"""Memory as `glm plan` foresees it beside what a process takes: the resident peak over a few steps, each case in its own.

Blocks go back to the system as soon as they are freed there, so that what is resident is what is in use. The stage itself keeps
freed pages, which is faster and takes more: a row of its own, for information. Batches are of one [gMASK] block a sequence.
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
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}


def rows(bench: TrainingBench, cases: dict[str, dict[str, Any]] = CASES) -> list[Row]:
    """The plan beside the measure for each case.

    Raises:
        RuntimeError: a case failed.
    """
    found = []
    for name, case in cases.items():
        for how in ("freed memory returned", "as the stage runs"):
            bench.say(f"memory of {name}, {how}")
            spent = in_process(case, bench.threads, returned=how == "freed memory returned")
            what = f"{name}: {case['micro_batches']} x {case['micro_batch']} sequences a step, {how}"
            ratio = spent["planned"] / spent["peak"]
            found.append(
                Row(
                    "plan",
                    what,
                    "GB planned",
                    spent["planned"] / 1e9,
                    "measured",
                    spent["peak"] / 1e9,
                    ratio,
                    "ours",
                    "<=",
                    None,
                    f"of which {spent['started'] / 1e9:.2f} GB before the model is built",
                )
            )
            if how == "freed memory returned":
                off = abs(ratio - 1)
                found.append(Row("plan", f"{name}: plan off by", "share", off, sense="<=", target=TARGET))
    return found


def in_process(case: dict[str, Any], threads: int, *, returned: bool) -> dict[str, int]:
    """Train in a fresh process: bytes `planned`, `peak`, and `started` with, before there is a model.

    Raises:
        RuntimeError: it failed.
    """
    from stages._runner import _ALLOCATOR

    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment |= (RETURNED if returned else _ALLOCATOR) | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks._training_plan", json.dumps({"case": case, "threads": threads})]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case['file']} failed ({done.returncode}):\n{done.stderr}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _spend(case: dict[str, Any], threads: int) -> dict[str, int]:
    """Run two steps in this process, which must be fresh."""
    import torch

    from stages._params import load_section
    from stages.pretrain.engine import build_engine, prepare_environment, start_process_group
    from stages.pretrain.plan import memory_of, read_profile
    from stages.pretrain.settings import Params

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
        for _ in range(2):
            engine.train_step([_batch(config, case["micro_batch"], generator) for _ in range(case["micro_batches"])], 1e-4)
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

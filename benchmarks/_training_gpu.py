"""Training on one GPU at four sizes: MFU of the stage's engine, and its ratio to a bare compiled causal GPT of the same shape.

BF16 with FP32 masters, fused attention, every block compiled, no dropout. Each size is a process of its own; both loops take
turns in it. MFU is PaLM's (docs/training.md), with every position counted through the head, as for the GPT. Batches
are of one [gMASK] block a sequence, 60 % of it targets. Without a GPU the section says so; `device="cpu"` runs the same code.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._measure import Row

if TYPE_CHECKING:
    from benchmarks.training import TrainingBench
    from stages.pretrain.settings import Params

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY, LENGTH = 50_304, 1_024
MICRO_BATCHES = 4  # a step
WARM = 3  # steps before the clock runs: compilation is in the first


@dataclasses.dataclass(frozen=True)
class Size:
    """A model by its shape, the sequences of a micro-batch, and the MFU that is asked for."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    micro_batch: int
    target: float | None
    vocabulary: int = VOCABULARY
    length: int = LENGTH


SIZES = {
    "124M": Size(12, 768, 12, 2_048, 32, 0.38),
    "350M": Size(24, 1_024, 16, 2_736, 16, 0.40),
    "760M": Size(24, 1_536, 16, 4_096, 12, 0.42),
    "1.3B": Size(24, 2_048, 16, 5_464, 8, 0.45),
}


def rows(bench: TrainingBench, sizes: dict[str, Size] | None = None, device: str = "cuda") -> list[Row]:
    """MFU and the ratio of both loops' speeds for each size; one row that says so where there is no GPU.

    Raises:
        RuntimeError: a size failed.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return [Row("gpu", "MFU of 124M to 1.3B parameters", "share", None, note="no GPU here: nothing was measured")]
    result = []
    for name, size in (sizes or SIZES).items():
        bench.say(f"{name} on {device}")
        found = in_process({"size": dataclasses.asdict(size), "device": device, "steps": bench.steps, "threads": bench.threads})
        ours, theirs = found["tokens_per_second"]
        what = f"{name}: {MICRO_BATCHES} x {size.micro_batch} sequences of {size.length}, attention {found['attention']}"
        note = f"{found['parameters'][0] / 1e6:.1f} : {found['parameters'][1] / 1e6:.1f} M parameters, {found['gpu']}"
        result.append(Row("gpu", what, "tokens/s", ours, "compiled GPT", theirs, ours / theirs, note=note))
        if found["mfu"] is not None:
            result.append(Row("gpu", f"{name}: MFU", "share", found["mfu"], target=size.target))
    return result


def in_process(request: dict[str, Any]) -> dict[str, Any]:
    """Measure one size in a fresh process.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "benchmarks._training_gpu", json.dumps(request)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{request['size']} failed ({done.returncode}):\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _params(size: Size, threads: int) -> Params:
    from stages._params import load_section
    from stages.pretrain.settings import Params

    params, batch = load_section(Params, ROOT / "profiles/125m.yaml", "pretrain"), size.micro_batch * MICRO_BATCHES
    shape = {name: getattr(size, name) for name in ("layers", "hidden", "heads", "ffn")}
    return dataclasses.replace(
        params,
        model=dataclasses.replace(params.model, dropout=0.0, **shape),
        batch_start=batch, batch_end=batch, batch_increment=batch, micro_batch=size.micro_batch, threads=threads,
        precision="bf16", zero_stage=1, data_parallel=1, tensor_parallel=1, pipeline_parallel=1,
        activation_checkpointing=False, fp32_gradient_sums=False, attention="auto", compile=True,
        validation=None, stability=None,
    )  # fmt: skip


def _spend(size: dict[str, Any], device: str, steps: int, threads: int) -> dict[str, Any]:
    """Train with both loops in this process, which must be fresh."""
    import torch

    from benchmarks._training_peers import BareLoop, CausalGPT, of_equal_size
    from benchmarks._training_plan import _batch
    from model.planning.cluster import recognise
    from model.planning.flops import model_flops_per_token
    from stages.pretrain.engine import _on_device, build_engine, prepare_environment, start_process_group

    shape, cuda = Size(**size), device == "cuda"
    params = _params(shape, threads)
    config = params.model.with_data(shape.vocabulary, shape.length)
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        prepare_environment(Path(folder))
        start_process_group(0, 1, Path(folder) / "rendezvous")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        engine = build_engine(config, params, 0)
        gpt = CausalGPT(of_equal_size(config)).to(device)
        loss = torch.compile(gpt.loss, dynamic=False)  # the model and its loss in one graph, as a fast loop has them
        plain = BareLoop(gpt, params, lambda batch: loss(_on_device(batch, torch.device(device)).input_ids))
        loops = [lambda batches: engine.train_step(batches, 1e-4), lambda batches: plain.step(batches, 1e-4)]
        seconds: list[list[float]] = [[], []]
        for _ in range(WARM + steps):
            batches = [_batch(config, shape.micro_batch, generator) for _ in range(MICRO_BATCHES)]
            for loop, spent, deterministic in zip(loops, seconds, (True, False), strict=True):
                torch.use_deterministic_algorithms(deterministic)  # as the stage trains; the peer takes its fastest kernels
                started = time.perf_counter()
                loop(batches)
                if cuda:
                    torch.cuda.synchronize()
                spent.append(time.perf_counter() - started)
        torch.distributed.destroy_process_group()
    tokens = MICRO_BATCHES * shape.micro_batch * shape.length
    speeds = [tokens / statistics.median(spent[WARM:]) for spent in seconds]
    name = torch.cuda.get_device_name() if cuda else "cpu"
    gpu = recognise(name, torch.cuda.get_device_properties(0).total_memory) if cuda else None
    return {
        "tokens_per_second": speeds,
        "mfu": None if gpu is None else speeds[0] * model_flops_per_token(config) / gpu.peak_flops,
        "parameters": [sum(p.numel() for p in model.parameters()) for model in (engine.model, gpt)],
        "attention": engine.attention,
        "gpu": name,
    }


if __name__ == "__main__":
    print(json.dumps(_spend(**json.loads(sys.argv[1]))))

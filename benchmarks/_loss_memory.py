"""Memory of the loss: hidden states in, loss and gradients out, by each way in a process of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._measure import Row

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.training import TrainingBench

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Case:
    """Positions that carry a loss, width of the hidden states and rows of the head, all FP32."""

    positions: int
    width: int
    vocabulary: int


PUBLISHED_VOCABULARY = Case(positions=2048, width=512, vocabulary=150_528)
TARGET_GB = 0.45


@dataclass(frozen=True)
class Spent:
    """What one way took and found: peak resident bytes less those at the start, CPU seconds, loss and gradients' norm."""

    peak_bytes: int
    cpu_seconds: float
    loss: float
    gradient_norm: float


def rows(bench: TrainingBench, case: Case = PUBLISHED_VOCABULARY) -> list[Row]:
    """Our loss beside the plain one and torch's own chunked one.

    Raises:
        RuntimeError: a way failed, or two ways do not agree on loss and gradients.
    """
    found = {}
    for way in WAYS:
        bench.say(f"loss, {way}")
        found[way] = in_process(way, case, bench.threads)
    ours = found["ours"]
    for way, other in found.items():
        if not (
            math.isclose(ours.loss, other.loss, rel_tol=1e-5)
            and math.isclose(ours.gradient_norm, other.gradient_norm, rel_tol=1e-4)
        ):
            raise RuntimeError(f"ours and {way} disagree: {ours} against {other}")
    what = f"loss and gradients, {case.positions:,} positions x {case.width}, {case.vocabulary:,} entries, FP32"
    result = []
    for way in ("plain", "torch, chunked"):
        peer = found[way]
        target = TARGET_GB if way == "plain" and case == PUBLISHED_VOCABULARY else None
        ratio = ours.peak_bytes / peer.peak_bytes
        note = f"CPU seconds {ours.cpu_seconds:.1f} : {peer.cpu_seconds:.1f}"
        result.append(
            Row("memory", what, "GB", ours.peak_bytes / 1e9, way, peer.peak_bytes / 1e9, ratio, "ours", "<=", target, note)
        )
    return result


def in_process(way: str, case: Case, threads: int) -> Spent:
    """Measure one way in a fresh process.

    Raises:
        RuntimeError: it failed.
    """
    # glibc's settings that keep freed memory would count as peak what is only kept.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment["PYTHONPATH"] = str(ROOT)
    request = json.dumps({"way": way, "threads": threads} | asdict(case))
    command = [sys.executable, "-m", "benchmarks._loss_memory", request]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way} failed ({done.returncode}):\n{done.stderr}")
    return Spent(**json.loads(done.stdout))


def _plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    import torch.nn.functional as F

    return F.cross_entropy(F.linear(hidden, weight), targets)


def _torch_chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    import torch
    import torch.nn.functional as F

    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=128, chunking_method=None)
    return F.linear_cross_entropy(hidden, weight, targets, options=options)


def _ours(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    import torch

    from model.cross_entropy import weighted_cross_entropy

    return weighted_cross_entropy(hidden, weight, targets, torch.full((len(hidden),), 1 / len(hidden)))[0]


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ours": _ours,
    "plain": _plain,
    "torch, chunked": _torch_chunked,
}


def _spend(way: str, threads: int, positions: int, width: int, vocabulary: int) -> Spent:
    """Run one way in this process, which must be fresh."""
    import torch

    from benchmarks._measure import cpu_seconds, peak_bytes, resident_bytes

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.empty(positions, width).normal_(generator=generator).requires_grad_()
    weight = (
        torch.empty(vocabulary, width).normal_(std=0.02, generator=generator).requires_grad_()
    )  # in place: no peak of its own
    targets = torch.randint(0, vocabulary, (positions,), generator=generator)
    start, started = resident_bytes(), cpu_seconds()
    loss = WAYS[way](hidden, weight, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    peak, spent = peak_bytes(), cpu_seconds() - started
    gradients: list[Any] = [hidden.grad, weight.grad]
    norm = math.hypot(*(float(gradient.norm()) for gradient in gradients))
    return Spent(peak - start, spent, float(loss.detach()), norm)


if __name__ == "__main__":
    print(json.dumps(asdict(_spend(**json.loads(sys.argv[1])))))

"""What training costs while it runs: speed, utilisation, memory, and where the time of a step goes.

Times differ from run to run, so none of this reaches an output. It lies in `meters` beside the live state, in the layout of
DVCLive: `metrics.json` has the newest value of each meter and `plots/metrics/NAME.tsv` its history, which `dvc plots show` and
DVC's extension for editors draw. The files are written here and not by the dvclive package, for that imports DVC and opens the
repository, and a stage may do neither.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import torch

from model.config import ModelConfig
from model.parallel.plan import ParallelPlan
from model.planning.cluster import recognise
from model.planning.flops import hardware_flops, model_flops_per_token, utilisation
from stages._manifest import write_atomic
from stages._runner import StageError

PARTS = ("data", "forward_backward", "optimizer", "checkpoint")
TRACE_STEPS = "GLM_TRACE_STEPS"
_SECONDS = 1.0  # between two writes of the newest values: some file systems flush a file that takes another's place


class Stopwatch:
    """Seconds by part of a step. On CUDA by events, which wait for nothing until a step is over; elsewhere by the clock."""

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda
        self._spans: list[tuple[str, Any, Any]] = []

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside as `name`; parts may stand in one another, see `take`."""
        start = self._mark()
        yield
        self._spans.append((name, start, self._mark()))

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, whose calls count as `name`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call

    def take(self) -> dict[str, float]:
        """Seconds of each part since the last call."""
        if self._cuda and self._spans:
            torch.cuda.synchronize()
        seconds = dict.fromkeys(PARTS, 0.0)
        for name, start, end in self._spans:
            seconds[name] += start.elapsed_time(end) / 1000 if self._cuda else end - start
        self._spans.clear()
        return seconds

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Meters:
    """The meters of one rank; the first one's are written down.

    Attributes:
        watch: counts the parts of a step, `forward_backward` with the optimizer inside.
    """

    def __init__(self, folder: Path | None, config: ModelConfig, plan: ParallelPlan) -> None:
        """Write to `folder`, or without one nowhere."""
        self._folder, self._config, self._plan, self._cuda = folder, config, plan, torch.cuda.is_available()
        self.watch = Stopwatch(self._cuda)
        self._log: History | None = None
        self._peak_flops = _peak_flops() if self._cuda else None
        self._started = time.perf_counter()

    def begin(self, finished: int) -> None:
        """Go on behind step `finished`."""
        self.watch.take()
        self._started = time.perf_counter()
        if self._folder is not None:
            self._log = History(self._folder, finished)

    def step(self, number: int, samples: int) -> dict[str, float]:
        """Meters of step `number`, which took everything since the last call, over `samples` sequences."""
        now = time.perf_counter()
        seconds, parts = now - self._started, self.watch.take()
        self._started = now
        parts["forward_backward"] -= parts["optimizer"]
        training = seconds - parts["checkpoint"]
        values = {"seconds/step": seconds} | {f"seconds/{name}": spent for name, spent in parts.items()}
        values |= self._speed(samples, training) | self._memory()
        if self._log is not None:
            self._log.add(number, values)
        return values

    def close(self) -> None:
        """Write down what is newest."""
        if self._log is not None:
            self._log.put()

    def _speed(self, samples: int, seconds: float) -> dict[str, float]:
        """Samples, tokens (positions, as the published run counts them) and FLOPs a second, checkpoints left out."""
        tokens, gpus = samples * self._config.max_sequence, self._plan.world
        hardware = hardware_flops(self._config, samples, recompute=self._plan.activation_checkpointing)
        model = model_flops_per_token(self._config) * tokens
        found = {
            "samples_per_second": samples / seconds,
            "tokens_per_second": tokens / seconds,
            "hardware_tflops": utilisation(hardware, seconds, gpus, 1e12),
            "model_tflops": utilisation(model, seconds, gpus, 1e12),
        }
        if self._peak_flops is not None:
            found["hfu"] = utilisation(hardware, seconds, gpus, self._peak_flops)
            found["mfu"] = utilisation(model, seconds, gpus, self._peak_flops)
        return found

    def _memory(self) -> dict[str, float]:
        """Most bytes this process has held: of the GPU where there is one, else resident."""
        if self._cuda:
            return {"memory/peak_bytes": float(torch.cuda.max_memory_allocated())}
        return {"memory/peak_bytes": 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def console(values: Mapping[str, float]) -> str:
    """The meters in a line."""
    used = f", HFU {values['hfu']:.1%}, MFU {values['mfu']:.1%}" if "hfu" in values else ""
    return (
        f"{values['tokens_per_second']:,.0f} tokens/s, {values['samples_per_second']:,.1f} samples/s, "
        f"{values['hardware_tflops']:.3g} TFLOP/s{used}, {values['memory/peak_bytes'] / 2**30:.2f} GiB"
    )


class History:
    """Meters by step in DVCLive's layout; a resumed training drops what lies behind the state it resumes from."""

    def __init__(self, folder: Path, finished: int) -> None:
        self._newest, self._plots = folder / "metrics.json", folder / "plots" / "metrics"
        self._files: dict[str, TextIO] = {}
        self._values: dict[str, Any] = {}
        self._written = 0.0
        for file in sorted(self._plots.glob("**/*.tsv")):
            write_atomic(file, _rows_until(file, finished))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append one step to each history; `metrics.json` follows at the latest with the next one after a second."""
        newest: dict[str, Any] = {"step": step}
        for name, value in values.items():
            file = self._files.get(name) or self._open(name)
            file.write(f"{step}\t{value!r}\n")
            file.flush()
            inner = newest
            *groups, leaf = name.split("/")
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[leaf] = value
        self._values = newest
        if time.monotonic() - self._written > _SECONDS:
            self.put()

    def put(self) -> None:
        """Write the newest values; no fsync: these may be lost with the machine."""
        self._written = time.monotonic()
        partial = self._newest.with_name(".metrics.json.partial")
        partial.write_text(json.dumps(self._values, indent=4) + "\n", encoding="utf-8")
        partial.replace(self._newest)

    def _open(self, name: str) -> TextIO:
        path = self._plots / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
        if not path.stat().st_size:
            file.write(f"step\t{path.stem}\n")
        self._files[name] = file
        return file


def _rows_until(file: Path, finished: int) -> str:
    header, *rows = file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [row for row in rows if row.endswith("\n") and int(row.partition("\t")[0]) <= finished]
    return "".join([header, *kept])


def _peak_flops() -> float | None:
    gpu = recognise(torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory)
    return None if gpu is None else gpu.peak_flops


class Tracer:
    """torch's profiler over a few steps, where the environment asks for it.

    `GLM_TRACE_STEPS=20-22` leaves what steps 20 to 22 did in `folder`, a JSON file a rank for Perfetto or chrome://tracing.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        """Raises StageError where the variable has another form."""
        asked = os.environ.get(TRACE_STEPS, "")
        match = re.fullmatch(r"(\d+)-(\d+)", asked)
        if asked and (match is None or int(match[1]) > int(match[2])):
            raise StageError(f"{TRACE_STEPS}={asked!r} is not FIRST-LAST", remedy="write it as in 20-22")
        self._steps = range(int(match[1]), int(match[2]) + 1) if match else range(0)
        self._file = folder / f"trace-rank-{rank}.json"
        self._profiler: Any = None

    def before(self, step: int) -> None:
        """Start or stop; called before every step, counted from 1."""
        if self._profiler is None and step in self._steps:
            self._profiler = torch.profiler.profile(record_shapes=True)
            self._profiler.start()
        elif step not in self._steps:
            self.close()

    def close(self) -> None:
        """Write down what was seen, if anything."""
        if self._profiler is not None:
            self._profiler.stop()
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._profiler.export_chrome_trace(str(self._file))
            self._profiler = None

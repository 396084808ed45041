"""Runs one stage: parameters, declared inputs and outputs from `dvc.yaml`, atomic output, manifest, run record.

A stage module ends with `run_stage("NAME", Params, run)`. `run(params, io)` gets its typed parameters and a `StageIO`, writes
below `io.output` and returns its counts. The output folder appears whole (written beside, fsynced, renamed) or not at
all; `manifest.json` inside it is deterministic, `runs/NAME/run.json` outside it holds time, host and versions.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

from stages import _manifest, _storage
from stages._attempts import Attempt, commit_of
from stages._engine import Engine, EngineSettings, read_settings, without_pandas
from stages._errors import StageError
from stages._params import ParamsError, load_section, read_yaml, to_plain
from stages._progress import Progress, beating
from stages._sandbox import Sandbox

__all__ = ["Progress", "StageError", "StageIO", "execute", "keep_freed_memory", "run_stage", "stage_entry"]

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")
_RECORDED = ("torch", "deepspeed", "pyarrow", "sentencepiece", "datasketch", "great-expectations", "numpy", "numba")
_DIGESTS = ".cache/digests"  # of large inputs, so that a start need not read them all again
_ALLOCATOR = {  # read by glibc before Python begins
    # Aligned blocks leave slivers at both ends: kept in a cache for small blocks they split the heap, which grows by the step.
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
    "MALLOC_MMAP_THRESHOLD_": "33554432",  # larger ones, a few in a step, are worth fresh pages: they would not find a hole
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


class StageIO:
    """A stage's hands: declared inputs, the output folder under construction, scratch space, workers, progress.

    A stage either writes below `output` itself, or lets workers do it: `map` runs a function over tasks, `shards` and `target`
    give the addresses of input and output shards as every worker can reach them, `work` of what lies between.
    """

    def __init__(
        self, stage: str, root: Path, deps: list[str], out: str, settings: EngineSettings | None = None, key: str = "default"
    ) -> None:
        self.stage, self.root = stage, root
        self.deps, self.out = deps, out
        self.settings = settings or EngineSettings()
        self.engine = Engine(self.settings)
        self._key = key
        self.output = root / Path(out).parent / f".{Path(out).name}.partial"
        self.runs = root / "runs" / stage
        self.notes: dict[str, Any] = {}

    def input(self, path: str) -> Path:
        """Absolute path of a declared dependency, or of something inside one.

        Raises:
            StageError: it is not declared in dvc.yaml, or it does not exist.
        """
        if not any(path == dep or path.startswith(dep.rstrip("/") + "/") for dep in self.deps):
            raise StageError("input is not declared", file=path, remedy=f"add it to stages.{self.stage}.deps in dvc.yaml")
        absolute = self.root / path
        if not absolute.exists():
            raise StageError("declared input does not exist", file=path, remedy="run `dvc repro`, which makes it first")
        return absolute

    def fingerprint(self, params: Any) -> str:
        """Digest of everything that decides this stage's output: parameters and the content of every dependency."""
        memory = self.root / _DIGESTS
        deps = {dep: _manifest.input_digest(self.root / dep, memory) for dep in self.deps}
        return _manifest.sha256_json({"stage": self.stage, "params": to_plain(params), "deps": deps})

    def scratch(self, key: str) -> Path:
        """Folder that survives a killed run, for work keyed by `key` (see `fingerprint`); never an output."""
        folder = self.runs / "scratch" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def work(self, name: str) -> str:
        """Address of intermediate files: keyed by the stage's fingerprint, there again after a kill, gone after success."""
        return _storage.join(self._base(), "work", name)

    def target(self, relative: str) -> str:
        """Address at which a worker writes the shard `relative` of the stage's output."""
        return _storage.join(self._base(), "out", relative)

    def shards(self, dependency: str, pattern: str = "**/*") -> list[str]:
        """Addresses of the input shards below a declared dependency that match `pattern`, sorted, as workers reach them."""
        folder = self.input(dependency)
        files = sorted(path for path in folder.glob(pattern) if path.is_file())
        if self.settings.exchange is None:
            return [str(path) for path in files]
        base = _storage.join(self._base(), "in", dependency)
        addresses = [_storage.join(base, path.relative_to(folder).as_posix()) for path in files]
        for path, address in zip(files, addresses, strict=True):
            if not _storage.exists(address):
                _storage.copy(str(path), address)
        return addresses

    def expect(self, module: str) -> None:
        """Say that `map` will soon be asked for functions of `module`, so that the workers load it beside this process."""
        self.engine.start(module)

    def map(
        self, function: Callable[[T], R], tasks: Sequence[T], label: str, unit: str = "shards", key: str | None = None
    ) -> list[R]:
        """`function` of every task, in the order of the tasks, run by the workers that runner.yaml sets.

        Args:
            function: of a module's top level; idempotent; its result is small and JSON.
            tasks: small picklable values that name what to read and what to write by address.
            label: what the progress display says is being done to the units.
            unit: what a task is.
            key: name under which results are kept, so that a rerun after a kill skips the finished tasks whose files still
                stand as they were written; None keeps none.
        """
        kept = None if key is None else _storage.join(self._base(), "results", key)
        results: dict[int, R] = {} if kept is None else self._finished(kept, len(tasks))
        with self.progress(label, len(tasks), unit) as progress:
            progress.advance(len(results))
            waiting = {number: task for number, task in enumerate(tasks) if number not in results}
            for number, (result, files) in self.engine.map(_Noting(function), waiting):
                results[number] = result
                if kept is not None:
                    with _storage.atomic_output(_storage.join(kept, f"{number:06d}.json")) as stream:
                        stream.write(json.dumps({"result": result, "files": files}).encode())
                progress.advance()
        return [results[number] for number in range(len(tasks))]

    def _finished(self, kept: str, tasks: int) -> dict[int, Any]:
        """Results that an earlier, killed run kept, by task number; without those whose files were lost or cut since."""
        found = {}
        for address in _storage.listing(kept, ".json"):
            number = int(address.rpartition("/")[2].removesuffix(".json"))
            if number >= tasks:
                continue
            with _storage.open_input(address) as stream:
                record = json.loads(stream.read())
            damaged = next((file for file, size in record["files"].items() if _storage.size(file) != size), None)
            if damaged is None:
                found[number] = record["result"]
            else:
                self.log(f"{damaged} was lost or cut short since an earlier run wrote it: it is made again")
        return found

    def collect(self) -> None:
        """Bring what workers wrote to `target` into the output folder; the runner calls it when the stage is done."""
        base = _storage.join(self._base(), "out")
        for address in _storage.listing(base):
            relative = address.removeprefix(base).lstrip("/")
            _storage.copy(address, str(self.output / relative))

    def forget(self) -> None:
        """Remove everything that was kept for a rerun, of this work and here of earlier ones that were given up too."""
        _storage.remove_tree(self.runs / "work")
        if self.settings.exchange is not None:
            _storage.remove_tree(self._base())

    def _base(self) -> str:
        if self.settings.exchange is not None:
            return _storage.join(self.settings.exchange, self.stage, self._key)
        return str(self.runs / "work" / self._key)

    def progress(self, description: str, total: float | None = None, unit: str = "items") -> Progress:
        """A progress display, used as a context manager; call `advance` on it."""
        return Progress(self.stage, description, total, unit)

    def track(self, items: Iterable[T], description: str, total: float | None = None, unit: str = "items") -> Iterator[T]:
        """Iterate with progress."""
        with self.progress(description, total, unit) as progress:
            for item in items:
                yield item
                progress.advance()

    def log(self, message: str) -> None:
        """One line for the person who watches."""
        print(f"{self.stage}: {message}", file=sys.stderr, flush=True)


def stage_entry(root: Path, stage: str) -> tuple[list[str], str]:
    """The dependencies and the output folder that dvc.yaml declares for `stage`.

    Raises:
        StageError: dvc.yaml is absent, or does not hold the stage with exactly the output `data/STAGE`.
    """
    file = root / "dvc.yaml"
    if not file.is_file():
        raise StageError("no dvc.yaml here", file=file, remedy="run the stage from the project's root, by `dvc repro`")
    stages = read_yaml(file.read_text(encoding="utf-8"))["stages"]
    if stage not in stages:
        raise StageError(f"stage {stage!r} is not in the graph", file=file, remedy="add it to dvc.yaml")
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in stages[stage].get("outs", [])]
    if outs != [f"data/{stage}"]:
        raise StageError(f"expected the single output data/{stage}, found {outs}", file=file)
    return list(stages[stage].get("deps", [])), outs[0]


def run_stage(stage: str, params_class: type[P], run: Callable[[P, StageIO], dict[str, Any]], *, pandas: bool = False) -> None:
    """Run `stage` in the current folder, then leave the process: status 0, or 1 with one line that says what is wrong.

    A stage that works with frames says so by `pandas`; for the others the library is not there (see `without_pandas`).
    """
    if not pandas:
        without_pandas()
    try:
        execute(stage, params_class, run, Path.cwd())
    except (StageError, ParamsError) as error:
        message = str(error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        message = (
            f"the disk is full (file {error.filename or 'unknown'}). Remedy: free space and run `dvc repro` again; "
            "finished stages and scratch work are kept"
        )
    else:
        return
    print(f"ERROR: stage {stage}: {message}", file=sys.stderr, flush=True)
    raise SystemExit(1)


def keep_freed_memory() -> None:
    """Start this process again, once, with an allocator that keeps freed pages; for stages that run a model.

    By default glibc returns large blocks at once, and on a CPU fresh pages cost more than the arithmetic on them.
    """
    missing = {name: value for name, value in _ALLOCATOR.items() if os.environ.get(name) != value}
    if missing:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **missing})


def execute(stage: str, params_class: type[P], run: Callable[[P, StageIO], dict[str, Any]], root: Path) -> Path:
    """Run `stage` in project `root` and return its finished output folder."""
    deps, out = stage_entry(root, stage)
    params = load_section(params_class, root / "params.yaml", stage)
    settings = read_settings(root)
    io = StageIO(stage, root, deps, out, settings)
    key = io.fingerprint(params)
    io = StageIO(stage, root, deps, out, settings, key=key[:16])
    io.runs.mkdir(parents=True, exist_ok=True)
    attempt = Attempt(io.runs, key)
    (root / ".cache").mkdir(exist_ok=True)  # of compiled kernels; what is not there when the sandbox closes stays unreadable
    shutil.rmtree(io.output, ignore_errors=True)
    io.output.mkdir(parents=True)
    temporary = io.runs / "tmp"
    temporary.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(temporary)  # /tmp itself may hold the project, and is then closed to this process
    sandbox = Sandbox(stage, root, [Path(path) for path in [*deps, out, str(io.output), str(io.runs)]])
    io.engine = Engine(settings, sandbox)
    sandbox.enter()
    with _native_denials_explained(sandbox), beating(attempt):
        counts = run(params, io)
        io.engine.close()
        io.collect()
    manifest = {
        "schema": _manifest.SCHEMA,
        "stage": stage,
        "params": to_plain(params),
        "inputs": {dep: _manifest.input_digest(root / dep) for dep in deps if dep.startswith("data/")},
        "counts": counts,
        "files": _manifest.describe_folder(io.output, io.settings.processes),
    }
    _manifest.write_atomic(io.output / _manifest.MANIFEST, _manifest.canonical(manifest))
    _manifest.fsync_tree(io.output)
    final = root / out
    shutil.rmtree(final, ignore_errors=True)
    io.output.replace(final)
    shutil.rmtree(temporary, ignore_errors=True)
    io.forget()
    io.engine.wait()
    _write_run_record(io, final, attempt.finish())
    return final


@dataclass(frozen=True)
class _Noting(Generic[T, R]):
    """A worker's function that also tells which files it wrote, and their sizes."""

    function: Callable[[T], R]

    def __call__(self, task: T) -> tuple[R, dict[str, int]]:
        with _storage.written() as files:
            result = self.function(task)
        return result, files


@contextmanager
def _native_denials_explained(sandbox: Sandbox) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        undeclared = sandbox.explain(error)
        if undeclared is None:
            raise
        raise StageError(str(undeclared)) from error


def _write_run_record(io: StageIO, final: Path, spent: dict[str, Any]) -> None:
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    record = {
        "stage": io.stage,
        **spent,
        "manifest_sha256": _manifest.sha256_file(final / _manifest.MANIFEST),
        "commit": commit_of(io.root),
        "peak_rss_bytes": peak * 1024,
        "host": platform.node(),
        "machine": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in _RECORDED if _installed(name)},
        **io.notes,
    }
    _manifest.write_atomic(io.runs / "run.json", json.dumps(record, indent=1, sort_keys=True) + "\n")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True

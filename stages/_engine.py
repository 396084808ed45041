"""Runs a function over tasks in this process, in processes of this machine (joblib's loky) or on a Ray cluster.

Written once against joblib's interface. A task is a small picklable value that names its shards by address; what it computes
goes into files through `_storage.atomic_output`, and what it returns is small and JSON. Tasks are idempotent: when a worker
dies, those without a result run again, so nothing that a stage makes may depend on the worker, their number or their order.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Annotated, Any, ClassVar, TypeVar

from stages._errors import StageError
from stages._params import OneOf, ParamsError, Positive, load_section, parse
from stages._sandbox import Sandbox, UndeclaredInputError

T = TypeVar("T")
R = TypeVar("R")

SETTINGS = "runner.yaml"
_SHORT = "/tmp"  # TMPDIR may be a long path
_ATTEMPTS = 3  # a task that has killed so many workers is at fault itself


@dataclass(frozen=True)
class EngineSettings:
    """Section `engine` of runner.yaml. No output depends on it, so it is neither a parameter nor a dependency.

    Attributes:
        kind: `inline` (one process), `local` (processes of this machine) or `ray` (a cluster).
        workers: processes; null takes one for each core, or what the cluster offers.
        max_memory: bytes that one stage may fill with data of its own before it goes through files.
        ray_address: of a running cluster; null starts one on this machine.
        exchange: fsspec URL through which shards travel between machines; null: the project's own folder, which all see.
    """

    kind: Annotated[str, OneOf("inline", "local", "ray")] = "inline"
    workers: Positive | None = None
    max_memory: Positive = 2 * 2**30
    ray_address: str | None = None
    exchange: str | None = None

    @property
    def processes(self) -> int:
        """Workers that will run."""
        return 1 if self.kind == "inline" else self.workers or os.cpu_count() or 1


def read_settings(root: Path, environment: Mapping[str, str] = os.environ) -> EngineSettings:
    """Settings of `runner.yaml`, defaults where it is absent; GLM_ENGINE, GLM_WORKERS and GLM_EXCHANGE go before it.

    Raises:
        ParamsError: the file or a variable says something that is not allowed.
    """
    file = root / SETTINGS
    plain = vars(load_section(EngineSettings, file, "engine")) if file.is_file() else {}
    overrides: dict[str, Any] = {
        name: environment[variable]
        for name, variable in (("kind", "GLM_ENGINE"), ("exchange", "GLM_EXCHANGE"))
        if environment.get(variable)
    }
    if environment.get("GLM_WORKERS"):
        if not environment["GLM_WORKERS"].isdigit():
            raise ParamsError(f"environment variable GLM_WORKERS: {environment['GLM_WORKERS']!r} is no number of processes")
        overrides["workers"] = int(environment["GLM_WORKERS"])
    return parse(EngineSettings, plain | overrides, "environment" if overrides else f"{SETTINGS}: engine")


class Engine:
    """One stage's workers.

    Made before the sandbox closes: a cluster of this machine's own keeps its sockets in a folder that must exist by then, and
    whose path must be short (Linux allows an AF_UNIX address 107 bytes, most of which Ray uses itself).
    """

    # Of the process and not of one engine: loky keeps one set of workers, so the next engine starts when the last has ended.
    _ending: ClassVar[Thread | None] = None

    def __init__(self, settings: EngineSettings, sandbox: Sandbox | None = None) -> None:
        self.settings, self._sandbox = settings, sandbox
        self._pool: Any = None
        self._starting: Iterator[None] | None = None
        self._sockets: tempfile.TemporaryDirectory[str] | None = None
        if sandbox is not None and settings.kind == "ray" and settings.ray_address is None:
            self._sockets = tempfile.TemporaryDirectory(prefix="ray-", dir=_SHORT, ignore_cleanup_errors=True)

    def start(self, module: str) -> None:
        """Let the processes of this machine start, and import `module`, while the caller goes on; elsewhere nothing happens."""
        if self.settings.kind == "local" and self.settings.processes > 1 and self._pool is None:
            from joblib import delayed

            self._starting = self._open()(delayed(_import)(module) for _ in range(self.settings.processes))

    def map(self, function: Callable[[T], R], tasks: Mapping[int, T]) -> Iterator[tuple[int, R]]:
        """(number, result) of every task, in order of completion.

        Raises:
            StageError: a task raised one, or workers died again and again.
        """
        if self.settings.kind == "inline" or (self.settings.kind == "local" and self.settings.processes == 1):
            for number, task in tasks.items():
                yield number, function(task)
            return
        waiting = dict(tasks)
        for attempt in range(_ATTEMPTS):
            try:
                for number, result in self._parallel(function, waiting):
                    del waiting[number]
                    yield number, result
            except _worker_deaths() as error:
                if attempt + 1 == _ATTEMPTS:
                    first, how = next(iter(waiting.values())), type(error).__name__
                    raise StageError(
                        f"worker processes died {_ATTEMPTS} times ({how}); {len(waiting)} tasks are left, the first: {first}",
                        remedy=f"give them more memory or set fewer workers in {SETTINGS}; finished shards are kept",
                    ) from error
            else:
                return

    def close(self) -> None:
        """End the workers, those of this machine while the caller goes on; see `wait`."""
        self._settle()
        if self._pool is not None and self.settings.kind == "local":
            Engine._ending = Thread(target=self._end_processes)
            Engine._ending.start()
        else:
            self._end_pool()
        if self._sockets is not None:
            import ray

            ray.shutdown()
            self._sockets.cleanup()

    def wait(self) -> None:
        """Wait for the workers of this machine to be gone, so that their CPU time is counted."""
        if Engine._ending is not None:
            Engine._ending.join()
            Engine._ending = None

    def _parallel(self, function: Callable[[T], R], tasks: dict[int, T]) -> Iterator[tuple[int, R]]:
        from joblib import delayed

        calls = (delayed(_call)(function, number, task, self._sandbox) for number, task in list(tasks.items()))
        try:
            self._settle()
            yield from self._open()(calls)
        except BaseException:  # a pool that has lost a worker, or was left in mid-work, is not used again
            self._end_pool()
            raise

    def _settle(self) -> None:
        """Wait for what `start` asked for: a pool takes the next calls when it is through with the last."""
        for _ in self._starting or ():
            pass
        self._starting = None

    def _open(self) -> Any:
        """joblib's pool of workers, kept from map to map: a worker that starts anew imports everything anew."""
        from joblib import Parallel, parallel_config

        if self._pool is None:
            backend, workers = "loky", self.settings.processes
            if self.settings.kind == "ray":
                self._connect()
                backend, workers = "ray", self.settings.workers or -1
            self.wait()
            with parallel_config(backend=backend, n_jobs=workers):
                pool = Parallel(batch_size=1, pre_dispatch="2*n_jobs", return_as="generator_unordered")
            self._pool = pool.__enter__()
        return self._pool

    def _end_pool(self) -> None:
        self._starting = None
        if self._pool is not None:
            self._pool.__exit__(None, None, None)
            self._pool = None

    def _end_processes(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        self._end_pool()
        get_reusable_executor().shutdown(wait=True)

    def _connect(self) -> None:
        import ray
        from joblib import register_parallel_backend
        from ray.util.joblib.ray_backend import RayBackend

        class Streaming(RayBackend):
            """Ray's backend with results as they come; its pool calls back for each, which is all that joblib needs."""

            supports_return_generator = True

        if not ray.is_initialized():
            path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
            ray.init(
                address=self.settings.ray_address or "local",
                _temp_dir=None if self._sockets is None else self._sockets.name,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                include_dashboard=None if self.settings.ray_address else False,
                log_to_driver=False,
            )
        register_parallel_backend("ray", Streaming)


class _WithoutPandas(MetaPathFinder, Loader):
    """Finds pandas, as torch asks it to, and loads none: an import of it fails as if it were not installed."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """A specification for pandas alone; for all else the next finder is asked."""
        return ModuleSpec(fullname, self) if fullname == "pandas" else None

    def exec_module(self, module: ModuleType) -> None:
        """Raises ModuleNotFoundError."""
        raise ModuleNotFoundError(f"No module named {module.__name__!r}", name=module.__name__)


def without_pandas() -> None:
    """Let no library of this process load pandas.

    pyarrow does, in a third of a second, in every process that makes a table, only to see whether it was given a frame.
    """
    if not any(isinstance(finder, _WithoutPandas) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WithoutPandas())


def _import(module: str) -> None:
    without_pandas()
    import_module(module)


def _call(function: Callable[[T], R], number: int, task: T, sandbox: Sandbox | None) -> tuple[int, R]:
    """Run one task in a worker; an error must survive the way back, so it travels as its message."""
    without_pandas()
    if sandbox is not None:
        sandbox.watch()
    try:
        return number, function(task)
    except UndeclaredInputError as error:
        raise StageError(str(error)) from error


def _worker_deaths() -> tuple[type[BaseException], ...]:
    """The exceptions by which an engine says that a worker is gone; the task itself did not raise."""
    from concurrent.futures.process import BrokenProcessPool

    from joblib.externals.loky.process_executor import TerminatedWorkerError

    deaths: tuple[type[BaseException], ...] = (TerminatedWorkerError, BrokenProcessPool)
    try:
        from ray.exceptions import NodeDiedError, RayActorError, WorkerCrashedError
    except ImportError:
        return deaths
    return (*deaths, RayActorError, WorkerCrashedError, NodeDiedError)

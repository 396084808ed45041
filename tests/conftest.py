"""What every test runs under: quiet tools, one thread, caches of its own; and two fixtures that take time to make."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import make_project

_PRIVATE = Path(tempfile.mkdtemp(prefix="glm-tests-"))
os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "DS_ACCELERATOR": "cpu",
        "DVC_NO_ANALYTICS": "1",
        "DVC_STUDIO_OFFLINE": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
        "PREFECT_HOME": str(_PRIVATE / "prefect"),
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "TERMINAL_WIDTH": "120",
        "TORCH_EXTENSIONS_DIR": str(_PRIVATE / "torch_extensions"),
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first: processes that share the suite then end at nearly the same time."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


def pytest_unconfigure() -> None:
    shutil.rmtree(_PRIVATE, ignore_errors=True)


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    """Makes DVC projects: `project(name, corpus=section, **changes)`; see `tests.support.project.make_project`."""

    def make(name: str, **settings: Any) -> Path:
        return make_project(tmp_path / name, **settings)

    return make


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One Prefect server with a database of its own for all flow runs of the session; harnesses do not nest."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield

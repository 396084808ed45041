"""Small projects that take seconds to make: one of each for a whole session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stages.validate.expect import Validator


@pytest.fixture(scope="session")
def report_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the report reads; to be copied before it is changed."""
    from tests.support.report_project import make_report_project

    return make_report_project(tmp_path_factory.mktemp("report") / "project")


@pytest.fixture(scope="session")
def gate_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the gate reads; to be copied before it is changed."""
    from tests.support import gate_project

    return gate_project.gate_project(tmp_path_factory.mktemp("gate") / "project")


@pytest.fixture(scope="session")
def validator() -> Validator:
    """Great Expectations, which takes seconds to import."""
    from stages.validate.expect import Validator

    return Validator()

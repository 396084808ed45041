"""Checkpoints in shards behind the training: the report and the attestation name a shard that is damaged, with its SHA-256."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ledger.lineage.weights import INDEX
from ledger.query import Ledger
from stages._runner import StageError, StageIO, stage_entry
from stages.report.facts import Facts
from stages.report.training import _segment
from tests.support.ledger_project import REPOSITORY, make_project

CHECKPOINT = "data/pretrain/checkpoints/step-000012"
SHARD = "model-1-00001.safetensors"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("project"), sharded=True).root


def _reports(root: Path) -> list[bool]:
    """Which segments' checkpoints the report finds present and sound."""
    facts, ledger = SimpleNamespace(io=StageIO("report", root, *stage_entry(REPOSITORY, "report"))), Ledger(root)
    return [_segment(cast(Facts, facts), segment, ledger)["present"] for segment in ledger.journal.segments]


def _attests(root: Path) -> list[Any]:
    from stages.attest.evidence import _checkpoints

    io = StageIO("attest", root, *stage_entry(REPOSITORY, "attest"))
    manifest = json.loads((root / "data/pretrain/manifest.json").read_text(encoding="utf-8"))
    return list(_checkpoints(io, Ledger(root), manifest))


def test_sound_shards_are_taken(project: Path) -> None:
    assert _reports(project) == [True, True, False, True]
    found = _attests(project)
    assert [(item.path.rpartition("/")[2], item.parameters) for item in found] == [(INDEX, 24)] * 3


@pytest.mark.parametrize("reader", [_reports, _attests], ids=["report", "attest"])
@pytest.mark.parametrize("harm", ["missing", "157 bytes of 160", "altered"])
def test_a_damaged_shard_stops_the_stage(project: Path, tmp_path: Path, reader: Callable[[Path], Any], harm: str) -> None:
    root = Path(shutil.copytree(project, tmp_path / "copy"))
    shard = root / CHECKPOINT / SHARD
    digest = json.loads((root / CHECKPOINT / INDEX).read_text())["shards"][SHARD]["sha256"]
    content = shard.read_bytes()
    shard.unlink()
    if harm != "missing":
        shard.write_bytes(content[:-3] if "of" in harm else content[:-1] + b"x")
    with pytest.raises(StageError, match=rf"step-000012 has other weights .*{SHARD} (is|has) {harm}.*{digest}"):
        reader(root)

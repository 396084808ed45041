"""Weights in one file or in shards: what is missing, cut short or altered is named, with the SHA-256 that it should have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.lineage.verify import verify
from ledger.lineage.weights import INDEX, WEIGHTS, damage
from stages._manifest import sha256_file
from tests.support.ledger_project import Project, make_project

CHECKPOINT = "data/pretrain/checkpoints/step-000012"
SHARD = "model-1-00001.safetensors"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"), sharded=True)


@pytest.fixture
def folder(project: Project, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project.root, tmp_path / "copy")) / CHECKPOINT


def _alter(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + b"x")


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (Path.unlink, f"shard {SHARD} is missing, which had SHA-256 {{digest}}"),
    (
        lambda file: file.write_bytes(file.read_bytes()[:-3]),
        f"shard {SHARD} has 157 bytes of 160, which had SHA-256 {{digest}}",
    ),
    (_alter, f"shard {SHARD} is altered: SHA-256 {{now}}, not {{digest}}"),
]


@pytest.mark.parametrize(("harm", "words"), DAMAGES, ids=["missing", "truncated", "altered"])
def test_a_damaged_shard_is_named_with_its_sha256(folder: Path, harm: Callable[[Path], None], words: str) -> None:
    digest = json.loads((folder / INDEX).read_text())["shards"][SHARD]["sha256"]
    harm(folder / SHARD)
    now = sha256_file(folder / SHARD) if (folder / SHARD).exists() else ""
    (said,) = damage(folder, sha256_file(folder / INDEX))
    assert said == words.format(digest=digest, now=now)
    failed = {check.name: check.detail for check in verify(folder.parents[3]) if not check.ok}
    assert failed["checkpoint step-000012"] == said
    assert SHARD in failed["stage pretrain"]


def test_sound_shards_pass_and_another_index_does_not(project: Project, folder: Path) -> None:
    assert [check for check in verify(project.root) if not check.ok] == []
    _alter(folder / INDEX)
    (said,) = damage(folder, sha256_file(project.root / CHECKPOINT / INDEX))
    assert said.startswith(
        f"its weights are not those that the journal names: {INDEX} has SHA-256 {sha256_file(folder / INDEX)}"
    )


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    assert damage(tmp_path, "5" * 64) == [
        f"its weights are not those that the journal names: no {WEIGHTS}, which had SHA-256 {'5' * 64}"
    ]

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.lineage.verify import verify
from tests.support.ledger_project import STAGES, Project, make_project, seal


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def copy(project: Project, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project.root, tmp_path / "copy"))


def failures(root: Path) -> dict[str, str]:
    return {check.name: check.detail for check in verify(root) if not check.ok}


def test_a_sound_project_passes(project: Project) -> None:
    checks = list(verify(project.root))
    assert all(check.ok for check in checks)
    names = [check.name for check in checks]
    assert {f"stage {stage}" for stage in STAGES} <= set(names)
    assert {"journal", "data plan", "checkpoint step-000006", "checkpoint step-000018"} <= set(names)


def edit(path: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new, 1))

    return apply


@pytest.mark.parametrize(
    ("damage", "check", "detail"),
    [
        (edit("data/corpus/sources.json", "rights of", "wrongs of"), "stage corpus", "changed sources.json"),
        (lambda root: (root / "data/pack/samples-00000.arrow").unlink(), "stage pack", "missing samples-00000.arrow"),
        (lambda root: (root / "data/dedup/x").write_text("x"), "stage dedup", "not in the manifest: x"),
        (lambda root: seal(root, "clean", {"more": 1}), "stage dedup", "made from another data/clean"),
        (lambda root: (root / "data/clean/manifest.json").write_text("{}"), "stage clean", "is not a manifest"),
        (
            edit("data/pretrain/journal.jsonl", "loss spike", "all fine"),
            "ledger",
            "line 3: its hash is not that of its content",
        ),
        (edit("data/pretrain/plan.json", '"seed": 1234', '"seed": 4321'), "stage pretrain", "changed plan.json"),
        (
            edit("data/pretrain/checkpoints/step-000012/manifest.json", '"samples": ', '"samples": 9'),
            "checkpoint step-000012",
            "its manifest is not what the journal says of it",
        ),
        (
            lambda root: (root / "data/pretrain/checkpoints/step-000012/model.safetensors").write_bytes(b"other"),
            "checkpoint step-000012",
            "its weights are not those that the journal names",
        ),
        (
            lambda root: (root / "data/pretrain/checkpoints/step-000012").rename(root / "data/pretrain/checkpoints/mine"),
            "checkpoint mine",
            "the journal does not know it",
        ),
    ],
)
def test_damage_is_named(copy: Path, damage: Callable[[Path], None], check: str, detail: str) -> None:
    damage(copy)
    assert detail in failures(copy)[check]


def test_a_resealed_plan_still_has_to_agree_with_the_journal(copy: Path) -> None:
    """Whoever changes the batch ramp and makes all digests new is found by the sample numbers in the journal."""
    plan = copy / "data/pretrain/plan.json"
    data = json.loads(plan.read_text())
    data["ramp"]["ramp_samples"] += 12
    plan.write_text(json.dumps(data))
    seal(copy, "pretrain")
    detail = {check.name: check.detail for check in verify(copy)}["data plan"]
    assert "followed by 0 segments; 4 segments followed another plan: [0, 1, 2, 3]" in detail


def test_many_findings_are_counted(copy: Path) -> None:
    for number in range(7):
        (copy / f"data/dedup/x{number}").write_text("x")
    assert failures(copy)["stage dedup"].endswith("and 4 more")


def test_an_empty_folder_does_not_pass(tmp_path: Path) -> None:
    assert "holds no stage output" in failures(tmp_path)["stages"]

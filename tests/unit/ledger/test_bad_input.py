"""What an auditor may be handed: each is named with status 1 by the command line, and none is answered by a wrong "no"."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from cli import app
from tests.support.ledger_project import Project, make_project, seal

QUESTIONS = [
    ["lineage", "docs"],
    ["lineage", "seen", "--doc", "plays/03.txt"],
    ["lineage", "seen", "--url", "https://example.org/none"],
    ["lineage", "step", "3"],
    ["takedown", "plan", "ASK"],
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("bad") / "p")


@pytest.fixture
def root(made: Project, tmp_path: Path) -> Path:
    copy = shutil.copytree(made.root, tmp_path / "p", ignore=shutil.ignore_patterns(".cache"))
    (copy / "ask").write_text("plays/03.txt\n", encoding="utf-8")
    return copy


def glm(root: Path, *arguments: str) -> Result:
    asked = [str(root / "ask") if argument == "ASK" else argument for argument in arguments]
    return CliRunner().invoke(app, [*asked, "--project", str(root)])


def journal_lines(root: Path, change: Callable[[list[str]], list[str]]) -> None:
    file = root / "data/pretrain/journal.jsonl"
    file.write_text("\n".join(change(file.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8")


def tampered(root: Path) -> None:
    journal_lines(root, lambda lines: [lines[0], lines[1].replace('"last_step":11', '"last_step":10'), *lines[2:]])


def reordered(root: Path) -> None:
    journal_lines(root, lambda lines: [lines[0], lines[2], lines[1], *lines[3:]])


def shortened(root: Path) -> None:
    journal_lines(root, lambda lines: [lines[0], *lines[2:]])


def without_a_shard(root: Path) -> None:
    (root / "data/pack/pieces-00000.parquet").unlink()


def with_half_a_shard(root: Path) -> None:
    file = root / "data/pack/pieces-00000.parquet"
    file.write_bytes(file.read_bytes()[:-9])


def with_another_shard(root: Path) -> None:
    """Of the same size as the one that the manifest lists."""
    file = root / "data/pack/pieces-00000.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def of_another_build(root: Path) -> None:
    seal(root, "pack", params={"seed": 2})


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (tampered, "journal.jsonl, line 2"),
        (reordered, "journal.jsonl, line 2: does not follow the line before it"),
        (shortened, "journal.jsonl, line 2: does not follow the line before it"),
        (without_a_shard, "data/pack/pieces-00000.parquet: no such file"),
        (with_half_a_shard, "pieces-00000.parquet: "),
        (with_another_shard, "pieces-00000.parquet: not the file that data/pack/manifest.json lists"),
        (of_another_build, "not the packed samples that data/pretrain/plan.json was made for"),
    ],
)
def test_damage_is_named_by_every_question(root: Path, damage: Callable[[Path], None], named: str) -> None:
    damage(root)
    for question in QUESTIONS:
        if "--url" in question and "shard" in damage.__name__:
            continue  # the corpus alone decides that no document states the address
        result = glm(root, *question)
        assert result.exit_code == 1 and named in result.stderr, (question, result.output)
        assert not result.stdout.strip(), "no answer beside the error"


def test_a_checkpoint_of_another_build_is_not_taken_for_one_of_this(root: Path) -> None:
    folder = root / "data/pretrain/checkpoints/step-000012"
    foreign = shutil.copytree(folder, root / "elsewhere/step-000012")
    manifest = json.loads((foreign / "manifest.json").read_text(encoding="utf-8"))
    (foreign / "manifest.json").write_text(json.dumps(manifest | {"weights_sha256": "ab" * 32}), encoding="utf-8")
    for checkpoint in (str(foreign), "ab" * 32, "step-000013"):
        result = glm(root, "lineage", "docs", "--checkpoint", checkpoint)
        assert result.exit_code == 1 and "Known: step-000006, step-000012, step-000018" in result.stderr
    assert glm(root, "lineage", "docs", "--checkpoint", str(folder)).exit_code == 0


def test_an_unknown_document_is_called_unknown(root: Path) -> None:
    result = glm(root, "lineage", "seen", "--doc", "plays/3.txt")
    assert result.exit_code == 1 and "no document 'plays/3.txt' in the training set. Similar: plays/03.txt" in result.stderr
    (root / "ask").write_text("plays/3.txt\n", encoding="utf-8")
    result = glm(root, "takedown", "plan", "ASK")
    assert result.exit_code == 3 and "means no document of this build" in result.stderr
    assert "Similar: plays/03.txt" in result.stderr


@pytest.mark.parametrize(
    "change",
    [lambda text: text.replace(" ", "\u3000\n"), lambda text: "\ufeff" + text.replace(" ", "\r\n"), str.upper],
    ids=["wide blanks", "other line ends", "capitals"],
)
def test_a_text_in_other_white_space_is_the_same_text(root: Path, change: Callable[[str], str]) -> None:
    rows = pq.read_table(root / "data/corpus/documents", columns=["doc_id", "text"]).to_pylist()
    text = next(row["text"] for row in rows if row["doc_id"] == "plays/03.txt")
    (root / "page").write_text(change(text), encoding="utf-8", newline="")
    result = glm(root, "lineage", "seen", "--text", str(root / "page"), "--format", "json")
    found = {row["doc_id"]: row["matched_by"] for row in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 0 and found["plays/03.txt"] == "same text"
    planned = glm(root, "takedown", "plan", "--text", str(root / "page"), "--json")
    assert "plays/03.txt" in [match["doc_id"] for match in json.loads(planned.stdout)["findings"][0]["matches"]]

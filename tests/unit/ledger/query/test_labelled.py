"""Labelled rows behind instruction samples are documents to the ledger, numbered behind the training documents."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ledger import LedgerError
from ledger.query.ledger import Ledger
from tests.support.ledger_project import Project, make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def moved(project: Project, tmp_path: Path) -> Path:
    """The project with its last three training documents as labelled rows: all that the ledger says must stay."""
    root = Path(shutil.copytree(project.root, tmp_path / "copy"))
    train, labelled = root / "data/encode/train.documents.parquet", root / "data/instruct/documents.parquet"
    table = pq.read_table(train)
    last = table.slice(table.num_rows - 3)
    pq.write_table(table.slice(0, table.num_rows - 3), train)
    pq.write_table(last.drop_columns(["shard", "offset"]).append_column("raw_sha256", last["doc_id"]), labelled)
    return root


def test_answers_are_those_of_one_table(project: Project, moved: Path) -> None:
    before, after = Ledger(project.root), Ledger(moved)
    for checkpoint in ("step-000006", "step-000018"):
        assert after.documents(checkpoint).equals(before.documents(checkpoint))
    assert {row["doc_id"] for row in project.documents[-3:]} & set(after.documents("step-000018")["doc_id"].to_pylist())
    for document in project.documents[-4:]:
        assert after.seen(document["doc_id"]) == before.seen(document["doc_id"])
    for step in (0, 3, 17):
        assert after.step(step).pieces.equals(before.step(step).pieces)


def test_a_missing_table_hides_nothing(moved: Path) -> None:
    (moved / "data/instruct/documents.parquet").unlink()
    ledger = Ledger(moved)
    for ask in (lambda: ledger.documents("step-000018"), lambda: ledger.step(0)):
        with pytest.raises(LedgerError, match=r"data/instruct/documents.parquet: no such file. Remedy: run `dvc repro`"):
            ask()

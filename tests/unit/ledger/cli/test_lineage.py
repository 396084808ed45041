from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from ledger.cli import lineage as cli
from ledger.query import Ledger
from tests.support.ledger_project import REPOSITORY, Project, make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


def ask(project: Project, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, [*arguments, "--project", str(project.root)])


def test_docs_in_every_format(project: Project, tmp_path: Path) -> None:
    expected = Ledger(project.root).documents("step-000012").to_pylist()
    piped = ask(project, "docs", "--checkpoint", "step-000012")
    assert piped.exit_code == 0
    assert list(csv.DictReader(io.StringIO(piped.stdout), delimiter="\t")) == [
        {k: str(v) for k, v in r.items()} for r in expected
    ]
    as_csv = ask(project, "docs", "--checkpoint", "step-000012", "--format", "csv").stdout
    assert list(csv.DictReader(io.StringIO(as_csv))) == [{k: str(v) for k, v in row.items()} for row in expected]
    as_json = ask(project, "docs", "--checkpoint", "step-000012", "--format", "json").stdout
    assert [json.loads(line) for line in as_json.splitlines()] == expected
    file = tmp_path / "docs.parquet"
    assert ask(project, "docs", "--checkpoint", "step-000012", "--format", "parquet", "-o", str(file)).exit_code == 0
    assert pq.read_table(file).to_pylist() == expected


def test_docs_of_a_folder_and_of_the_newest(project: Project) -> None:
    newest = ask(project, "docs").stdout
    folder = project.root / "data/pretrain/checkpoints/step-000018"
    assert newest == ask(project, "docs", "--checkpoint", str(folder)).stdout
    assert newest == ask(project, "docs", "--checkpoint", "step-000018").stdout != ask(project, "docs", "--limit", "3").stdout
    assert len(ask(project, "docs", "--limit", "3").stdout.splitlines()) == 4
    assert ask(project, "docs", "--limit", "0").stdout == newest


def test_docs_into_a_file(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "docs.csv"
    result = ask(project, "docs", "--format", "csv", "--output", str(file))
    assert result.stdout == "" and "14 rows in" in result.stderr
    assert file.read_text() == ask(project, "docs", "--format", "csv").stdout


def test_seen(project: Project) -> None:
    rows = [json.loads(line) for line in ask(project, "seen", "--doc", "poems/03.txt", "--format", "json").stdout.splitlines()]
    sightings = Ledger(project.root).seen("poems/03.txt").sightings
    assert [row["steps"] for row in rows] == [list(sighting.steps) for sighting in sightings]
    assert [row["checkpoint"] for row in rows] == ["step-000006", "step-000012", "(none, segment 2)", "step-000018"]
    assert rows[2]["status"] == "abandoned"
    plain = ask(project, "seen", "--doc", "poems/03.txt")
    assert plain.stdout.splitlines()[1].split("\t")[-1] == " ".join(map(str, sightings[0].steps))
    assert "poems/03.txt: poems, zh, LicenseRef-PublicDomain" in plain.stderr


def test_step(project: Project) -> None:
    result = ask(project, "step", "13", "--format", "json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == Ledger(project.root).step(13).pieces.to_pylist()
    assert "segment 2 trained on it (abandoned), segment 3 skipped it (kept)" in result.stderr


def test_verify(project: Project, tmp_path: Path) -> None:
    result = ask(project, "verify")
    assert result.exit_code == 0 and result.stdout.endswith("All checks passed\n") and "checkpoint step-000018" in result.stdout
    damaged = make_project(tmp_path / "damaged")
    (damaged.root / "data/corpus/sources.json").write_text("[]")
    result = ask(damaged, "verify")
    assert result.exit_code == 1
    assert "FAILED  stage corpus: changed sources.json" in result.stdout and result.stdout.endswith("1 checks failed\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("docs", "--checkpoint", "step-7"), "unknown checkpoint 'step-7'. Known: step-000006, step-000012, step-000018"),
        (("seen", "--doc", "poem/03.txt"), "Similar: poems/03.txt"),
        (("step", "99"), "no segment of the journal holds step 99. Steps: 0 to 17"),
    ],
)
def test_errors_are_one_line(project: Project, arguments: tuple[str, ...], message: str) -> None:
    result = ask(project, *arguments)
    assert result.exit_code == 1 and message in result.stderr
    assert result.stderr.startswith("ERROR: ") and result.stderr.count("\n") == 1


def test_parquet_does_not_go_to_a_terminal(project: Project) -> None:
    result = ask(project, "docs", "--format", "parquet")
    assert result.exit_code == 2 and "--output" in result.stderr


def test_not_a_project(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["docs", "--project", str(tmp_path)])
    assert result.exit_code == 1 and "plan.json: no such file" in result.stderr


def test_a_terminal_gets_a_table(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(cli, "_TERMINAL_ROWS", 5)
    cli.docs("step-000018", project.root)
    shown = capsys.readouterr().out
    assert "Documents of step-000018" in shown and "5 of 14 rows; --limit 0 shows all" in shown
    cli.seen("poems/03.txt", project.root)
    assert "abandoned" in capsys.readouterr().out


def test_help_loads_no_heavy_library() -> None:
    code = "import sys, ledger.cli.lineage, ledger.cli.takedown, ledger.cli.attest; "
    code += "print(sorted({'duckdb', 'pyarrow', 'numpy', 'rich.table'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

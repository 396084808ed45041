"""`seen --url | --domain | --text`, `stages` and `diff`: named answers, and never a wrong no."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner, Result

from ledger import LedgerError
from ledger.cli import lineage as cli
from ledger.lineage.diff import Side, diff, mcnemar
from ledger.query.ledger import Ledger
from ledger.query.match import Request
from tests.support.ledger_project import Project, make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    found = make_project(tmp_path_factory.mktemp("project"))
    for file in (found.root / "data/corpus/documents").glob("*.parquet"):
        table = pq.read_table(file)
        urls = pa.array([f"https://www.example.org/{doc_id}" for doc_id in table["doc_id"].to_pylist()])
        place = table.schema.get_field_index("url")
        table = table.append_column("url", urls) if place < 0 else table.set_column(place, "url", urls)
        pq.write_table(table, file)
    return found


def ask(project: Project, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, [*arguments, "--project", str(project.root)])


def text_of(project: Project, doc_id: str) -> str:
    rows = pq.read_table(project.root / "data/corpus/documents", columns=["doc_id", "text"]).to_pylist()
    return next(str(row["text"]) for row in rows if row["doc_id"] == doc_id)


def test_an_address_in_another_form(project: Project) -> None:
    rows = [
        json.loads(line)
        for line in ask(project, "seen", "--url", "http://example.org/plays/04.txt/", "--format", "json").stdout.splitlines()
    ]
    assert {(row["doc_id"], row["matched_by"], row["fate"]) for row in rows} == {("plays/04.txt", "address", "trained on")}
    assert [row["steps"] for row in rows] == [list(s.steps) for s in Ledger(project.root).seen("plays/04.txt").sightings]


def test_a_domain_names_every_fate(project: Project) -> None:
    found = {one.match.doc_id: one for one in Ledger(project.root).find(Request("domain", "example.org"))}
    assert found["plays/90.txt"].fate.outcome == "held out" and found["plays/90.txt"].seen is None
    assert found["wiki/91.txt"].fate.outcome == "dropped"
    copy = found["plays/92.txt"]
    assert (copy.fate.outcome, copy.fate.survivor, copy.stayed.doc_id) == ("duplicate", "plays/03.txt", "plays/03.txt")
    assert copy.seen == Ledger(project.root).seen("plays/03.txt")
    assert sum(one.fate.outcome == "trained on" for one in found.values()) == len(project.documents)


@pytest.mark.parametrize("change", [lambda t: t, lambda t: "  " + t.replace(" ", "\r\n\t  "), str.upper])
def test_white_space_never_gives_a_wrong_no(project: Project, tmp_path: Path, change: object) -> None:
    file = tmp_path / "page.txt"
    file.write_text(change(text_of(project, "plays/05.txt")), encoding="utf-8", newline="")  # type: ignore[operator]
    result = ask(project, "seen", "--text", str(file), "--format", "json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    (how,) = {row["matched_by"] for row in rows if row["doc_id"] == "plays/05.txt"}
    assert how in ("raw hash", "same text") and rows[0]["checkpoint"]


def test_an_unknown_text_says_what_was_compared(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "page.txt"
    file.write_text("Nothing of the kind was ever written down in any of these places.")
    result = ask(project, "seen", "--text", str(file))
    assert result.exit_code == 1
    assert "in no document of the corpus" in result.stderr and "letters and digits" in result.stderr
    file.write_bytes(b"caf\xe9 " * 20)
    assert "not UTF-8 at byte 3" in ask(project, "seen", "--text", str(file)).stderr


def test_one_question_at_a_time(project: Project) -> None:
    assert ask(project, "seen").exit_code == 2
    assert ask(project, "seen", "--doc", "plays/04.txt", "--url", "http://example.org").exit_code == 2


def test_a_missing_or_foreign_shard_is_named(project: Project, tmp_path: Path) -> None:
    root = Path(shutil.copytree(project.root, tmp_path / "copy"))
    piece = root / "data/pack/pieces-00001.parquet"
    data = piece.read_bytes()
    Ledger(root).seen("plays/04.txt")  # the table is kept now, and must not hide what happens to the shards
    piece.unlink()
    with pytest.raises(LedgerError, match=r"pieces-00001.parquet: no such file"):
        Ledger(root).seen("plays/04.txt")
    piece.write_bytes(data[:-1])
    with pytest.raises(LedgerError, match="cut short or of another build"):
        Ledger(root).seen("plays/04.txt")
    shutil.rmtree(root / ".cache")
    piece.write_bytes(bytes([*data[:100], data[100] ^ 1, *data[101:]]))
    with pytest.raises(LedgerError, match=r"not the file that data/pack/manifest.json lists"):
        Ledger(root).seen("plays/04.txt")


def test_a_project_that_cannot_be_written_to(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(shutil.copytree(project.root, tmp_path / "copy", ignore=shutil.ignore_patterns(".cache")))
    monkeypatch.setattr("ledger.table.sources.os.access", lambda *_: False)
    assert Ledger(root).seen("plays/04.txt") == Ledger(project.root).seen("plays/04.txt")
    assert not list((root / ".cache/ledger").iterdir())


@pytest.mark.parametrize(("only", "expected"), [((0, 0), 1.0), ((5, 5), 1.0), ((0, 5), 0.0625), ((10, 1), 0.01171875)])
def test_mcnemar(only: tuple[int, int], expected: float) -> None:
    assert mcnemar(*only) == mcnemar(*only[::-1]) == expected


def test_two_checkpoints_of_one_training(project: Project) -> None:
    sides = [Side.of(name, project.root) for name in ("step-000012", "step-000018")]
    rows = diff(*sides).to_pylist()
    ledger = Ledger(project.root)
    for source in ("plays", "poems"):
        totals = []
        for name in ("step-000012", "step-000018"):
            totals.append(sum(row["tokens"] for row in ledger.documents(name).to_pylist() if row["source"] == source))
        (row,) = (row for row in rows if row["what"] == f"{source}: tokens")
        assert [int(row["a"]), int(row["b"])] == totals and row["note"] == f"{totals[1] - totals[0]:+,}"
    (common,) = (row for row in rows if row["what"] == "last common checkpoint")
    assert common["a"] == common["b"] == "step-000012"
    assert any("without 13-13" in str(row["b"]) for row in rows if row["part"] == "journal")
    assert not [row for row in rows if row["part"] in ("code", "params", "order")]
    assert [row["part"] for row in diff(sides[0], sides[0]).to_pylist() if row["part"] in ("data", "order")] == []


def write_lock(root: Path, *, changed: bool) -> None:
    """Stages behind a training; the changed build has another rule in one, another parameter in all, and one stage more."""
    stages: dict[str, Any] = {}
    before = ["clean", "dedup", *(["late"] if changed else [])]
    for stage in (*before, "pretrain"):
        own = {"path": f"stages/{stage}", "md5": ("3" if changed and stage == "dedup" else "2") * 32}
        deps = [{"path": "stages/_runner.py", "md5": "1" * 32}, own]
        made = before if stage == "pretrain" else ["corpus"]
        deps += [{"path": f"data/{source}", "md5": str(changed)} for source in made]  # what other stages make is no code
        params = {stage: {"threshold": 0.9 if changed else 0.8, "rules": {"least": 5}, "names": ["a"]}}
        stages[stage] = {
            "cmd": f"python -m stages.{stage}", "deps": deps,
            "outs": [{"path": f"data/{stage}", "md5": "0"}], "params": {"params.yaml": params},
        }  # fmt: skip
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}), encoding="utf-8")
    (root / ".git").mkdir()
    (root / ".git/HEAD").write_text(("b" if changed else "a") * 40, encoding="utf-8")


def test_another_build_differs_by_code_and_parameters(project: Project, tmp_path: Path) -> None:
    """Every file of code and every parameter that differ, each once; what one build lacks is told too."""
    one, other = (Path(shutil.copytree(project.root, tmp_path / name)) for name in ("one", "other"))
    write_lock(one, changed=False)
    write_lock(other, changed=True)
    rows = diff(Side.of("step-000018", one), Side.of(f"{other}:step-000018", one)).to_pylist()
    code = {row["what"]: (row["a"], row["b"], row["note"]) for row in rows if row["part"] == "code"}
    assert code == {
        "git commit": ("a" * 40, "b" * 40, "of what is checked out"),
        "stages/dedup": ("2" * 32, "3" * 32, "used by dedup"),
        "stages/late": (None, "2" * 32, "used by late"),
    }
    params = {row["what"]: (row["a"], row["b"]) for row in rows if row["part"] == "params"}
    assert params == {
        **{f"{stage}.threshold": ("0.8", "0.9") for stage in ("clean", "dedup", "pretrain")},
        "late.threshold": (None, "0.9"), "late.rules.least": (None, "5"), "late.names": (None, '["a"]'),
    }  # fmt: skip
    assert not [row for row in rows if row["part"] in ("data", "order")]

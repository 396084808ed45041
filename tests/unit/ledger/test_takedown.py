"""Plans, tombstones and proofs over the small project, whose training has a branch that was given up and a skipped step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli import app
from ledger import LedgerError, cost
from ledger.absence import prove, remains
from ledger.match import Request
from ledger.query import Ledger
from ledger.takedown import Shown, findings, plan, stones
from ledger.tombstones import FILE, Document, Tombstone, append, read
from tests.support.ledger_project import Project, make_project


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("takedown") / "p")


@pytest.fixture
def root(made: Project, tmp_path: Path) -> Path:
    return shutil.copytree(made.root, tmp_path / "p")


def ask(*names: str) -> list[Request]:
    return [Request("doc", name) for name in names]


def duplicate(root: Path) -> dict[str, Any]:
    rows: list[dict[str, Any]] = pq.read_table(root / "data/dedup/clusters.parquet").to_pylist()
    return next(row for row in rows if not row["survivor"])


def test_exposures_are_those_of_the_walk_through_the_training(made: Project) -> None:
    names = [made.documents[1]["doc_id"], made.documents[4]["doc_id"]]
    indices = {made.documents[1]["doc_index"], made.documents[4]["doc_index"]}
    lines = {line.checkpoint: line for line in Shown(Ledger(made.root), names).exposures() if line.checkpoint}
    for checkpoint, line in lines.items():
        consumed = made.rows_of(str(checkpoint))
        mine = [(step, piece) for step, row in consumed for piece in made.pieces if piece[0] == row and piece[1] in indices]
        samples = [(step, row) for step, row in consumed if any(p[0] == row and p[1] in indices for p in made.pieces)]
        assert line.tokens == sum(piece[3] for _, piece in mine)
        assert line.exposures == len(samples)
        steps = [step for step, _ in samples]
        assert (line.first_step, line.last_step) == ((min(steps), max(steps)) if steps else (None, None))
    assert len(lines) == 3


def test_a_dropped_copy_brings_its_survivor(made: Project) -> None:
    copy = duplicate(made.root)
    [finding] = findings(made.root, ask(copy["doc_id"]))
    assert {document.doc_id: document.role for document in finding.documents} == {
        copy["doc_id"]: "copy",
        copy["cluster"]: "survivor",
    }
    assert [match.doc_id for match in finding.matches] == [copy["doc_id"]]
    answer = plan(Ledger(made.root), ask(copy["doc_id"], "no/such"))
    assert answer.fates[copy["cluster"]] == "trained on"
    assert answer.fates[copy["doc_id"]] == f"{copy['kind']} duplicate of {copy['cluster']}"
    assert answer.findings[1].documents == ()


def test_the_last_clean_checkpoint_stands_before_the_first_exposure(made: Project) -> None:
    for document in made.documents:
        answer = plan(Ledger(made.root), ask(document["doc_id"]))
        line = [e for e in answer.exposures if e.checkpoint and e.status == "kept"]
        clean = [e.checkpoint for e in line if not e.exposures]
        assert answer.clean == (clean[-1] if clean else None)
        folders = {path for path, _ in answer.derived}
        assert {f"data/pretrain/checkpoints/{e.checkpoint}" for e in line if e.exposures} <= folders
        assert "data/pretrain/checkpoints/" + str(answer.clean) not in folders


def test_apply_writes_once_and_prove_tells_whether_it_was_done(root: Path) -> None:
    (root / "ask").write_text(f"{duplicate(root)['doc_id']}\n", encoding="utf-8")
    arguments = ["takedown", "apply", str(root / "ask"), "--date", "2026-01-31", "--project", str(root)]
    for new in (1, 0):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert f"{new} tombstones new" in result.output
    [entry] = read(root / FILE).entries
    assert entry.held_by and not prove(root).holds
    result = CliRunner().invoke(app, ["takedown", "prove", "--project", str(root)])
    assert result.exit_code == 1 and "STILL THERE" in result.output
    [first, *_] = remains(root, read(root / FILE))
    assert f"data/pretrain/checkpoints/{first.checkpoint}" in first.folders


def test_absence_is_proven_by_neighbours_against_the_attested_root(root: Path) -> None:
    gone = Document("elsewhere/gone", "77" * 32, "single", True)
    part = Document(
        "elsewhere/part", pq.read_table(root / "data/decontaminate/train")["raw_sha256"][0].as_py(), "single", False
    )
    append(root / FILE, [Tombstone("domain", "gone.org", "2026-01-31", (gone, part))])
    found = prove(root)
    (root / "data/attest").mkdir(exist_ok=True)
    roots = [found.hashes.hex(), found.ids.hex()]
    (root / "data/attest/half.json").write_text(json.dumps(roots[:1]), encoding="utf-8")
    (root / "data/attest/statement.json").write_text(json.dumps(roots), encoding="utf-8")
    found = prove(root)
    assert found.holds and found.attested == ("data/attest/statement.json",)
    assert [proof.by_hash is None for proof in found.proofs] == [False, True]
    assert not any(proof.by_id.holds(found.hashes) for proof in found.proofs)
    plain = found.to_json()
    assert len(json.dumps(plain["proofs"][0])) < 8000
    assert plain["proofs"][0]["by_hash"]["leaf"] == "77" * 32


def test_bad_requests_and_dates(root: Path) -> None:
    (root / "ask").write_text("# nothing\n\n", encoding="utf-8")
    invoke = CliRunner().invoke
    result = invoke(app, ["takedown", "plan", str(root / "ask"), "--project", str(root)])
    assert result.exit_code == 1 and "nothing was asked for" in result.output
    (root / "ask").write_text("url: \n", encoding="utf-8")
    result = invoke(app, ["takedown", "plan", str(root / "ask"), "--project", str(root)])
    assert result.exit_code == 1 and "line 1: an empty url" in result.output
    (root / "ask").write_text(f"{duplicate(root)['doc_id']}\nno/such\n", encoding="utf-8")
    result = invoke(app, ["takedown", "apply", str(root / "ask"), "--date", "today", "--project", str(root)])
    assert result.exit_code == 2 and "not YYYY-MM-DD" in result.output
    result = invoke(app, ["takedown", "apply", str(root / "ask"), "--date", "2026-01-31", "--project", str(root)])
    assert result.exit_code == 1 and "some requests mean no document" in result.output
    assert len(read(root / FILE).entries) == 1
    assert stones(root, [], "2026-01-31") == []
    with pytest.raises(ValueError, match="at least one document"):
        Tombstone("doc", "x", "2026-01-31", ())


# --- cost ------------------------------------------------------------------------------------------------------------------


def record(root: Path, stage: str, wall: float, cpu: float, **more: Any) -> None:
    file = root / "runs" / stage / "run.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"wall_seconds": wall, "cpu_seconds": cpu, **more}), encoding="utf-8")


def test_a_checkpoint_costs_what_led_to_it_and_what_was_given_up_on_the_way(root: Path) -> None:
    before = ["corpus", "clean", "dedup", "decontaminate", "tokenizer", "encode", "instruct", "pack", "validate"]
    for stage in before:
        record(root, stage, 10, 20)
    record(root, "pretrain", 100, 300, gpus=4)
    ledger = Ledger(root)
    bill = cost.of_checkpoint(ledger, "step-000018", cost.Power(10, 100, 1.5))
    assert sorted(line.what for line in bill[:-4]) == sorted(before)
    assert [line.what for line in bill].index("corpus") < [line.what for line in bill].index("pack")
    assert [(line.what, line.status) for line in bill[-4:]] == [
        ("step-000006", "kept"), ("step-000012", "kept"), ("segment 2", "abandoned"), ("step-000018", "kept"),
    ]  # fmt: skip
    whole = cost.total(bill)
    assert whole.cpu_seconds == pytest.approx(9 * 20 + 300)
    assert whole.gpu_seconds == pytest.approx(400)
    assert whole.watt_hours == pytest.approx((480 * 10 + 400 * 100) * 1.5 / 3600)
    early = cost.of_checkpoint(ledger, "step-000006")
    samples = [ledger.plan.ramp.consumed([s.first_step, s.last_step + 1]).tolist() for s in ledger.journal.segments]
    trained = [end - first for first, end in samples]
    skipped = ledger.plan.ramp.consumed([13, 14]).tolist()
    trained[-1] -= skipped[1] - skipped[0]
    assert early[-1].share == pytest.approx(trained[0] / sum(trained))
    assert len(early) == len(before) + 1


def test_what_has_no_record_is_unknown_and_not_free(root: Path) -> None:
    record(root, "pretrain", 100, 300)
    bill = cost.of_checkpoint(Ledger(root), "step-000006")
    assert bill[0].cpu_seconds is None
    assert cost.total(bill).status == "9 of 10 not recorded"
    assert cost.as_table([*bill, cost.total(bill)]).num_rows == 11
    (root / "runs/pretrain/run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(LedgerError, match="not a run record"):
        cost.of_checkpoint(Ledger(root), "step-000006")
    with pytest.raises(LedgerError, match="must not be negative"):
        cost.Power(cpu=-1)

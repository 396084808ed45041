"""Plans, tombstones and proofs over the small project, whose training has a branch that was given up and a skipped step."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli import app
from ledger import LedgerError, verifier
from ledger.lineage import cost
from ledger.query import Ledger
from ledger.query.match import Request
from ledger.takedown.absence import prove, remains
from ledger.takedown.plan import findings, plan, stones
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
    lines = {line.checkpoint: line for line in plan(Ledger(made.root), ask(*names)).exposures if line.checkpoint}
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
    assert answer.fates[copy["doc_id"]].startswith(f"duplicate: {copy['kind']} duplicate of '{copy['cluster']}'")
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
    plain = found.to_json(None)
    assert [proof["set"] for proof in plain["proofs"]] == ["training-ids", "training", "training-ids"]
    assert all(len(json.dumps(proof)) < 3000 for proof in plain["proofs"])
    assert plain["proofs"][1]["document"] == "77" * 32 and plain["proofs"][1]["kind"] == "absence"
    assert plain["asked"][0] == {"doc_id": "elsewhere/gone", "raw_sha256": "77" * 32, "absent": True, "heldout": 0}


def test_the_verifier_checks_proofs_of_absence(root: Path, tmp_path: Path) -> None:
    """The form is that of `glm attest prove`: the standard-library verifier takes all of them from one file."""
    there = pq.read_table(root / "data/decontaminate/train", columns=["doc_id", "raw_sha256"]).slice(0, 1).to_pylist()[0]
    gone = [Document(f"elsewhere/{n}", f"{n:02x}" * 32, "single", True) for n in (0, 77, 255)]
    append(root / FILE, [Tombstone("domain", "gone.org", "2026-01-31", tuple(gone))])
    checked = [sys.executable, str(Path(verifier.__file__)), "--unsigned", str(tmp_path / "statement.json")]

    def verified(name: str) -> tuple[int, list[str]]:
        done = subprocess.run([*checked, str(tmp_path / name)], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.splitlines()[1:]

    def write(name: str, change: Callable[[dict[str, Any]], object] = lambda proofs: None) -> None:
        proofs = found.to_json(statement)
        change(proofs)
        (tmp_path / name).write_text(json.dumps(proofs), encoding="utf-8")

    found = prove(root)
    trees = {"documents": found.hashes, "documentIds": found.ids}
    size = sum(pq.read_table(root / file).num_rows for file in ("data/decontaminate/train", "data/instruct/documents.parquet"))
    predicate = {name: {"merkleRoot": tree.hex(), "size": size} for name, tree in trees.items()}
    predicate |= {"checkpoint": {"name": "step-9"}, "consumed": {"documents": {}}}
    statement = json.dumps({"_type": verifier.STATEMENT, "predicate": predicate}).encode()
    assert found.named_by(statement) and not found.named_by(b"{}")
    (tmp_path / "statement.json").write_bytes(statement)
    write("good.json")
    status, lines = verified("good.json")
    assert status == 0 and len(lines) == 6
    assert "ok       document of id 'elsewhere/77' is not in the training set of step-9" in lines
    write("renamed.json", lambda proofs: proofs["proofs"][0].update(doc_id=there["doc_id"]))
    write("stolen.json", lambda proofs: proofs["proofs"][1].update(document=there["raw_sha256"]))
    write("foreign.json", lambda proofs: proofs["proofs"][0].update(statement=None))
    for name, message in [("renamed", "another id"), ("stolen", "FAILED"), ("foreign", "belongs to another statement")]:
        status, lines = verified(f"{name}.json")
        assert status == 1 and sum(line.startswith("FAILED") for line in lines) == 1
        assert any(message in line for line in lines)
    append(
        root / FILE,
        [Tombstone("doc", "there", "2026-01-31", (Document(there["doc_id"], there["raw_sha256"], "single", False),))],
    )
    found = prove(root)
    write("there.json")
    assert f"document of id {there['doc_id']!r} is in the training set" in "\n".join(verified("there.json")[1])


def test_a_request_that_means_nothing_is_no_silent_success(root: Path) -> None:
    known = duplicate(root)["doc_id"]
    lines = [known, "no/such", "https://example.org/none", "example.org", "77" * 32]
    (root / "ask").write_text("\n".join(lines), encoding="utf-8")
    (root / "page").write_text("A page that nobody has ever put into any corpus of this world.", encoding="utf-8")
    arguments = ["takedown", "plan", str(root / "ask"), "--text", str(root / "page"), "--project", str(root)]
    for more in ([], ["--json"]):
        result = CliRunner().invoke(app, [*arguments, *more])
        assert result.exit_code == 3, result.output
        for line in (*lines[1:], "sha256:"):
            assert f" {line}" in result.stderr
        assert f"doc {known}" not in result.stderr
        assert "Similar: " in result.stderr and "state none, and may come from there" in result.stderr
        assert "5 of 6 requests mean nothing here" in result.stderr
    (root / "ask").write_text(known, encoding="utf-8")
    result = CliRunner().invoke(app, ["takedown", "plan", str(root / "ask"), "--project", str(root)])
    assert (result.exit_code, result.stderr) == (0, "")


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
    assert result.exit_code == 3 and "ERROR: doc no/such: means no document of this build" in result.output
    assert "1 of 2 requests mean nothing here" in result.output
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
    killed = [{"wall_seconds": 30, "cpu_seconds": 90}, {"wall_seconds": 10, "cpu_seconds": 10}]
    record(root, "pretrain", 60, 200, gpus=4, unfinished=killed)
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

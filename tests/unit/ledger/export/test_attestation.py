"""`glm attest`: keys, envelopes, proofs that the verifier accepts, and documents whose answers have moved."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey
from typer.testing import CliRunner

from ledger import LedgerError
from ledger.cli.attest import app
from ledger.export.answers import Answers, check, fill, strip
from ledger.proof.consumption import Consumption
from ledger.proof.envelope import make_key
from ledger.query import Ledger
from ledger.verifier import main
from stages._runner import StageIO, stage_entry
from stages.attest import Params, run
from stages.attest import build as attest_build
from stages.attest.build import ASKED
from tests.support.ledger_project import Project, make_project, seal

PARAMS = Params("glm-test", "1.2.3", "the testers", "https://example.org/glm", "2026-01-31T00:00:00Z")
COMMIT = "1" * 40


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = make_project(tmp_path_factory.mktemp("project"))
    deps, out = stage_entry(made.root, "attest")
    io = StageIO("attest", made.root, deps, out)
    io.output.mkdir(parents=True)
    run(PARAMS, io)
    io.output.replace(made.root / "data/attest")
    seal(made.root, "attest", params=asdict(PARAMS))
    for name in ("constraints.txt", "dvc.lock"):
        (made.root / name).write_text(f"{name}\n")
    return made


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "signing.pem"
    make_key(path, Path("/nowhere"))
    return path


@pytest.fixture(scope="module")
def envelopes(project: Project, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("envelopes")
    glm("sign", "--key", key, "--project", project.root, "-o", folder, "--commit", COMMIT)
    return folder


def glm(*arguments: object, status: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == status, done.output
    return done.output


def public(key: Path) -> Path:
    return key.with_name(key.name + ".pub")


def test_keys(tmp_path: Path) -> None:
    glm("keygen", "--key", tmp_path / "keys/a.pem", "--project", tmp_path / "project")
    assert stat.S_IMODE((tmp_path / "keys/a.pem").stat().st_mode) == 0o600
    assert "never overwritten" in glm("keygen", "--key", tmp_path / "keys/a.pem", "--project", tmp_path / "p", status=1)
    assert "inside the project" in glm("keygen", "--key", tmp_path / "p/a.pem", "--project", tmp_path / "p", status=1)
    (tmp_path / "b.pem").write_text("no key")
    for name, message in (("b.pem", "not a private key"), ("c.pem", "no such key")):
        assert message in glm("sign", "--key", tmp_path / name, "--project", tmp_path, "--commit", COMMIT, status=1)


def test_signing_twice_gives_the_same_bytes(project: Project, key: Path, envelopes: Path, tmp_path: Path) -> None:
    glm("sign", "--key", key, "--project", project.root, "-o", tmp_path, "--commit", COMMIT)
    names = [f"step-{step:06d}.dsse.json" for step in (6, 12, 18)]
    assert sorted(path.name for path in envelopes.iterdir()) == names
    assert all((tmp_path / name).read_bytes() == (envelopes / name).read_bytes() for name in names)


def test_the_kept_library_accepts_the_envelope(project: Project, key: Path, envelopes: Path) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    envelope = Envelope.from_dict(json.loads((envelopes / "step-000018.dsse.json").read_text()))
    envelope.verify([SSlibKey.from_crypto(load_pem_public_key(public(key).read_bytes()))], 1)
    signed = json.loads(envelope.payload)
    build = signed["predicate"].pop("build")
    assert signed == json.loads((project.root / "data/attest/statements/step-000018.json").read_text())
    assert build["gitCommit"] == COMMIT and build["environmentLock"]["name"] == "constraints.txt"


def test_the_commit_is_that_of_a_clean_work_tree(project: Project, key: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(project.root, tmp_path / "copy"))
    (root / "params.yaml").write_text("a: 1\n")
    (root / ".gitignore").write_text("data/\n")
    assert "git names no commit" in glm("sign", "--key", key, "--project", root, "-o", tmp_path, status=1)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "all"]):
        subprocess.run(["git", *arguments], cwd=root, check=True)
    glm("sign", "--key", key, "--project", root, "-o", tmp_path)
    (root / "params.yaml").write_text("a: 2\n")
    assert "params.yaml" in glm("sign", "--key", key, "--project", root, "-o", tmp_path, status=1)


@pytest.mark.parametrize("which", ["consumed", "training"])
def test_proofs_of_every_document(project: Project, key: Path, envelopes: Path, tmp_path: Path, which: str) -> None:
    """In what step-000006 consumed is what it was trained on, and the verifier says so of each document, and of no other."""
    envelope = envelopes / "step-000006.dsse.json"
    shown = set(Ledger(project.root).documents("step-000006")["doc_id"].to_pylist())
    names = [row["doc_id"] for row in project.documents]
    for doc_id in [*names[:3], names[-1], "plays/90.txt", "wiki/91.txt"]:
        proof = tmp_path / "proof.json"
        ask = ("--envelope", envelope, "--public-key", public(key), "--project", project.root)
        glm("prove", *ask, "--doc", doc_id, "--set", which, "-o", proof)
        inside = doc_id in (shown if which == "consumed" else set(names))
        assert json.loads(proof.read_text())["kind"] == ("inclusion" if inside else "absence")
        assert main(["--envelope", str(envelope), "--public-key", str(public(key)), str(proof)]) == 0
        other = str(envelopes / "step-000012.dsse.json")
        assert main(["--envelope", other, "--public-key", str(public(key)), str(proof)]) == 1


def test_proofs_of_steps(
    project: Project, key: Path, envelopes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Step by step what the replay says, in its order; the step that was passed over has none."""
    ask = ("--envelope", envelopes / "step-000018.dsse.json", "--public-key", public(key), "--project", project.root)
    hashes = [row.tobytes().hex() for row in Consumption(Ledger(project.root)).digests]
    steps = sorted({step for step, _ in project.rows_of("step-000018")})
    assert 13 not in steps
    for step in (0, 5, 6, 12, 14, 17):
        proof = tmp_path / "proof.json"
        glm("prove", *ask, "--step", step, "-o", proof)
        found = json.loads(proof.read_text())
        rows = project.plan.rows(step).tolist()
        tokens = np.zeros(len(rows), int)
        for sample, digest, _, length in found["records"]:
            tokens[sample] += length
            assert digest in {hashes[index] for row, index, _, _ in project.pieces if row == rows[sample]}
        assert tokens.tolist() == [sum(length for row, _, _, length in project.pieces if row == mine) for mine in rows]
        assert found["index"] == steps.index(step)
        arguments = ["--envelope", str(ask[1]), "--public-key", str(public(key))]
        assert main([*arguments, str(proof)]) == 0
        found["records"] = found["records"][::-1]
        proof.write_text(json.dumps(found))
        assert main([*arguments, str(proof)]) == 1 and "does not lead" in capsys.readouterr().out
    assert "trained on step 13" in glm("prove", *ask, "--step", 13, status=1)


def test_checks_pass_and_name_what_moved(project: Project, key: Path, envelopes: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(project.root, tmp_path / "copy"))
    ask = ("check", "--project", root, "--envelope", envelopes / "step-000018.dsse.json", "--public-key", public(key))
    assert "All checks passed" in glm(*ask)
    card = root / "data/attest/model-card.md"
    text = card.read_text(encoding="utf-8")
    card.write_text(text.replace("| near duplicate | 1 |", "| near duplicate | 0 |"), encoding="utf-8")
    said = glm(*ask, status=1)
    assert "table 'left out', row 2 (near duplicate), column 'documents': says `0`, the query answers `1`" in said
    card.write_text(text, encoding="utf-8")
    loss = root / "data/pretrain/loss.csv"
    loss.write_text(loss.read_text().replace("4.900000", "4.800000"))
    said = glm(*ask, status=1)
    assert "column 'value': says `4.900000`, the query answers `4.800000`" in said and "1 checks failed" in said
    statement = root / "data/attest/statements/step-000018.json"
    content = json.loads(statement.read_text())
    content["predicate"]["consumed"]["order"]["merkleRoot"] = "0" * 64
    statement.write_text(json.dumps(content))
    said = glm(*ask, status=1)
    assert "differs: Merkle root over the order" in said and "another statement of step-000018" in said


def test_another_key_signed_nothing(envelopes: Path, project: Project, tmp_path: Path) -> None:
    make_key(tmp_path / "other.pem", project.root)
    ask = (
        "--project",
        project.root,
        "--envelope",
        envelopes / "step-000018.dsse.json",
        "--public-key",
        tmp_path / "other.pem.pub",
    )
    assert "no signature of the envelope is by" in glm("check", *ask, status=1)
    assert "no signature of the envelope is by" in glm("prove", *ask, "--sha256", "0" * 64, status=1)


def test_documents_are_their_templates_with_answers(project: Project) -> None:
    answers = Answers(Consumption(Ledger(project.root)), "step-000018", asdict(PARAMS))
    for name in ASKED:
        template = Path(attest_build.__file__).with_name(name).read_text(encoding="utf-8")
        text = (project.root / "data/attest" / name).read_text(encoding="utf-8")
        assert strip(text) == template and fill(template, answers) == text and check(text, answers) == []


@pytest.mark.parametrize(
    "sql",
    [
        "COPY model TO 'data/stolen.csv'",
        "SELECT 1; SELECT 2",
        "SET enable_external_access = true",
        "SELECT content FROM read_text('/etc/hostname')",
        "SELECT * FROM nothing",
        "INSTALL httpfs",
    ],
)
def test_queries_only_read_and_only_the_project(project: Project, sql: str) -> None:
    """A document comes from somebody else: what it asks must not write, nor read beside the project's data."""
    answers = Answers(Consumption(Ledger(project.root)), "step-000018", asdict(PARAMS))
    with pytest.raises(LedgerError, match="a query"):
        answers.table(sql)
    with pytest.raises(LedgerError, match="one value"):
        answers.value("SELECT key FROM model")


def test_documents_of_another_order_or_set(project: Project, tmp_path: Path) -> None:
    root = Path(shutil.copytree(project.root, tmp_path / "copy"))
    next(iter(sorted((root / "data/decontaminate/train/documents").iterdir()))).unlink()
    with pytest.raises(LedgerError, match="lists other documents than data/decontaminate"):
        Consumption(Ledger(root)).training_set()

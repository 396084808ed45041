from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from ledger import LedgerError
from ledger.journal import Journal
from ledger.query.ledger import Ledger
from tests.support.ledger_project import Project, make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project [a] 书"))


@pytest.fixture
def copy(project: Project, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project.root, tmp_path / "copy"))


def replayed(project: Project, checkpoint: str) -> dict[int, dict[str, list[int]]]:
    """By doc_index: the steps of its exposures and the tokens shown, found by walking through the training."""
    parts: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for sample, doc_index, _, length in project.pieces:
        parts[sample][doc_index] += length
    seen: dict[int, dict[str, list[int]]] = {}
    for step, row in project.rows_of(checkpoint):
        for doc_index in sorted(parts[row]):
            entry = seen.setdefault(doc_index, {"steps": [], "tokens": []})
            entry["steps"].append(step)
            entry["tokens"].append(parts[row][doc_index])
    return seen


@pytest.mark.parametrize("checkpoint", ["step-000006", "step-000012", "step-000018"])
def test_documents_equal_the_replay(project: Project, checkpoint: str) -> None:
    found = Ledger(project.root).documents(checkpoint).to_pylist()
    expected = [
        {
            **{name: project.documents[index][name] for name in ("doc_id", "source", "lang", "licence")},
            "tokens": sum(entry["tokens"]),
            "exposures": len(entry["steps"]),
            "first_step": min(entry["steps"]),
            "last_step": max(entry["steps"]),
        }
        for index, entry in replayed(project, checkpoint).items()
    ]
    assert found == expected


def test_the_fixture_is_worth_asking(project: Project) -> None:
    """More than one pass over the packed epochs, documents not yet seen at the first checkpoint, a row with one twice."""
    ledger = Ledger(project.root)
    assert project.plan.ramp.consumed(18) > project.plan.order.samples
    assert ledger.documents("step-000006").num_rows < len(project.documents)
    assert len({piece[:2] for piece in project.pieces}) < len(project.pieces)


def test_seen_equals_the_replay(project: Project) -> None:
    ledger = Ledger(project.root)
    for index, document in enumerate(project.documents):
        seen = ledger.seen(document["doc_id"])
        assert (seen.source, seen.lang, seen.licence, seen.length) == tuple(
            document[name] for name in ("source", "lang", "licence", "length")
        )
        for sighting in seen.sightings:
            if sighting.checkpoint is not None:
                entry = replayed(project, sighting.checkpoint).get(index, {"steps": [], "tokens": []})
                assert list(sighting.steps) == sorted(set(entry["steps"]))
                assert (sighting.exposures, sighting.tokens) == (len(entry["steps"]), sum(entry["tokens"]))


def test_abandoned_branches_are_told_apart(project: Project) -> None:
    """Step 13 was passed over on the main line, and trained on only by the branch that was given up."""
    ledger = Ledger(project.root)
    documents = set(ledger.step(13).pieces["doc_id"].to_pylist())
    assert documents
    for doc_id in documents:
        branch, main = (s for s in ledger.seen(doc_id).sightings if s.segment in (2, 3))
        assert (branch.checkpoint, branch.status) == (None, "abandoned") and 13 in branch.steps
        assert (main.checkpoint, main.status) == ("step-000018", "kept") and 13 not in main.steps


def test_a_checkpoint_that_was_left_behind(copy: Path) -> None:
    journal = Journal.open(copy / "data/pretrain/journal.jsonl")
    first = journal.segments[1]
    journal.append(
        type(first)(
            parent=first.parent,
            first_step=first.first_step,
            last_step=first.last_step,
            first_sample=first.first_sample,
            last_sample=first.last_sample,
            plan=first.plan,
            status="kept",
            checkpoint="step-000012b",
            weights_sha256="ee" * 32,
        )
    )
    sightings = Ledger(copy).seen("plays/00.txt").sightings
    assert [s.status for s in sightings] == ["kept", "left behind", "abandoned", "left behind", "kept"]
    assert sightings[4].steps == sightings[1].steps


def test_step(project: Project) -> None:
    record = Ledger(project.root).step(12)
    first, end = project.plan.ramp.consumed([12, 13]).tolist()
    assert (record.step, record.first_sample, record.last_sample) == (12, first, end - 1)
    assert [(run.segment, run.status, run.skipped) for run in record.runs] == [(2, "abandoned", False), (3, "kept", False)]
    rows = project.plan.rows(12).tolist()
    expected = sorted(
        (first + rows.index(sample), doc_index, offset, length)
        for sample, doc_index, offset, length in project.pieces
        if sample in rows
    )
    index = {row["doc_id"]: row["doc_index"] for row in project.documents}
    found = record.pieces.to_pylist()
    assert [(p["consumption"], index[p["doc_id"]], p["doc_offset"], p["length"]) for p in found] == expected
    assert [p["row"] for p in found] == [rows[p["consumption"] - first] for p in found]
    assert [run.skipped for run in Ledger(project.root).step(13).runs] == [False, True]


def test_resolve(project: Project) -> None:
    ledger = Ledger(project.root)
    folder = project.root / "data/pretrain/checkpoints/step-000012"
    segment = project.journal.segments[1]
    assert ledger.resolve("step-000012") == ledger.resolve(folder) == ledger.resolve(str(segment.weights_sha256)) == segment
    with pytest.raises(LedgerError, match=r"unknown checkpoint 'step-000013'. Known: step-000006, step-000012, step-000018"):
        ledger.documents("step-000013")
    assert ledger.resolve(project.root / "data/quantize/int4") == project.journal.segments[3]  # an export: its parent
    with pytest.raises(LedgerError, match=r"data/pack: names no checkpoint of the journal .* Known: step-000006, "):
        ledger.resolve(project.root / "data/pack")


@pytest.mark.parametrize(
    ("doc_id", "message"),
    [
        ("plays/90.txt", "is held out"),
        ("plays/92.txt", r"near duplicate of 'plays/03.txt' \(Jaccard 0.93\)"),
        ("wiki/91.txt", r"dropped by the clean stage: short \(10 characters\)"),
        ("plays/3.txt", "no document 'plays/3.txt' in the training set. Similar: plays/0"),
    ],
)
def test_documents_outside_the_training_set(project: Project, doc_id: str, message: str) -> None:
    with pytest.raises(LedgerError, match=message):
        Ledger(project.root).seen(doc_id)


def test_step_that_no_segment_holds(project: Project) -> None:
    for step in (18, -1):
        with pytest.raises(LedgerError, match=f"no segment of the journal holds step {step}. Steps: 0 to 17"):
            Ledger(project.root).step(step)


def test_refuses_other_packed_samples(copy: Path) -> None:
    manifest = copy / "data/pack/manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(LedgerError, match="not the packed samples that"):
        Ledger(copy)


@pytest.mark.parametrize("field", ["seed", "start"])
def test_refuses_another_plan(copy: Path, field: str) -> None:
    plan = copy / "data/pretrain/plan.json"
    data = json.loads(plan.read_text())
    data["order" if field == "seed" else "ramp"][field] = 1
    plan.write_text(json.dumps(data))
    for ask in (
        lambda: Ledger(copy).documents("step-000012"),
        lambda: Ledger(copy).seen("plays/00.txt"),
        lambda: Ledger(copy).step(3),
    ):
        with pytest.raises(LedgerError, match="another data plan"):
            ask()


@pytest.mark.parametrize("file", ["data/pretrain/plan.json", "data/pretrain/journal.jsonl", "data/pack/manifest.json"])
def test_names_the_missing_file(copy: Path, file: str) -> None:
    (copy / file).unlink()
    with pytest.raises(LedgerError, match=file):
        Ledger(copy)

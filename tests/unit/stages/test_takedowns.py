"""Tombstones in the stages: what is named is left out, nothing else moves, and the gate looks whether it is gone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ledger.tombstones import FILE, Document, Tombstone, append
from stages import _documents, decontaminate, instruct
from stages._manifest import canonical
from stages._runner import StageError
from stages.instruct.build import Dataset
from stages.instruct.params import Params
from stages.validate.expect import Validator
from tests.support.cleaning_project import document, run
from tests.support.contamination import side, words, write_dedup
from tests.support.gate_checks import check, failures
from tests.support.gate_project import gate_project
from tests.support.instruct_project import instruct_project, trained


def bury(root: Path, *names: tuple[str, str, bool]) -> None:
    documents = tuple(Document(doc_id, digest, "single", alone) for doc_id, digest, alone in names)
    append(root / FILE, [Tombstone("doc", "as asked", "2026-01-31", documents)])


def rows() -> list[dict[str, Any]]:
    return [document(f"{source}/{n}", words(1000 * ord(source) + n)) for source in "ab" for n in range(40)]


def split_of(root: Path) -> dict[str, list[str]]:
    run(decontaminate, root, heldout_share=0.2, may_match_nothing=("heldout",))
    return {name: side(root, name) for name in ("train", "heldout")}


def test_what_is_named_goes_and_all_others_stay_where_they_were(tmp_path: Path) -> None:
    made = rows()
    for name in ("before", "after"):
        write_dedup(tmp_path / name, made)
    before = split_of(tmp_path / "before")
    assert not (tmp_path / "before/data/decontaminate/takedowns.parquet").exists()
    by_id, by_hash, held, shared = before["train"][0], before["train"][5], before["heldout"][0], before["train"][9]
    digest = {row["doc_id"]: row["raw_sha256"] for row in made}
    nobody = "00" * 32
    bury(
        tmp_path / "after",
        (by_id, nobody, True),
        ("under another id", digest[by_hash], True),
        (held, digest[held], True),
        ("a part of the same file", digest[shared], False),
    )
    after = split_of(tmp_path / "after")
    gone = {by_id, by_hash, held}
    assert after == {name: [doc_id for doc_id in listed if doc_id not in gone] for name, listed in before.items()}
    written = pq.read_table(tmp_path / "after/data/decontaminate/takedowns.parquet").to_pylist()
    assert {row["doc_id"]: row["raw_sha256"] for row in written} == {doc_id: digest[doc_id] for doc_id in gone}


def test_a_damaged_tombstone_stops_the_stage(tmp_path: Path) -> None:
    write_dedup(tmp_path, rows())
    (tmp_path / FILE).write_text("https://a.org\n", encoding="utf-8")
    with pytest.raises(StageError, match=r"takedowns.jsonl, line 1: not a tombstone"):
        split_of(tmp_path)


def test_labelled_rows_go_by_id_and_by_content(tmp_path: Path) -> None:
    model = trained(tmp_path)
    made = [document("made/1", "Some words of a document.")]
    labelled = [{"sentence": f"A film about number {n}.", "verdict": "fine"} for n in range(6)]
    found = {}
    for name in ("before", "after"):
        io = instruct_project(tmp_path / name, model, made, "labelled.jsonl")
        file = tmp_path / name / "labelled.jsonl"
        file.write_text("".join(canonical(row).replace("\n", " ") + "\n" for row in labelled), encoding="utf-8")
        if name == "after":
            ids = {row["bytes"]: row["doc_id"] for row in found["before"]}
            assert ids
            content = hashlib.sha256(canonical(labelled[2]).encode()).hexdigest()
            bury(tmp_path / name, (found["before"][0]["doc_id"], "00" * 32, True), ("elsewhere", content, True))
        dataset = Dataset(
            "films", "sentiment", "en", files=("labelled.jsonl",), form="prompted", licence="CC0-1.0",
            columns={"prompt": "sentence", "target": "verdict"},
        )  # fmt: skip
        instruct.run(Params(seed=1, block_length=64, minimum_text_share=0.5, datasets=(dataset,), evaluation_sets=()), io)
        found[name] = pq.read_table(io.output / "documents.parquet").to_pylist()
    names = {name: [row["doc_id"] for row in listed] for name, listed in found.items()}
    assert len(names["before"]) == 6
    assert names["after"] == [*names["before"][1:2], *names["before"][3:]]
    assert [row["doc_index"] for row in found["after"]] == [1, 2, 3, 4]


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gate_project(tmp_path_factory.mktemp("gate") / "p")


def test_the_gate_finds_what_should_be_gone(gated: Path) -> None:
    kept, other, *_ = _documents.read_documents(gated / "data/decontaminate/train")
    bury(gated, (kept["doc_id"], "00" * 32, True), ("another", other["raw_sha256"], True), ("gone", "11" * 32, True))
    validator = Validator()
    found = check(gated, validator, "takedowns")
    assert failures(found) == {"documents.standing": ["another", kept["doc_id"]]}
    assert found[0]["rows"] == 3
    (gated / FILE).write_text("", encoding="utf-8")
    bury(gated, ("gone", "11" * 32, True))
    assert not failures(check(gated, validator, "takedowns"))

"""The report's index of documents, and the samples that it shows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ledger.query import Ledger
from model import masking
from model.masking import Draws, MaskingConfig
from model.tokenizer import SPECIAL, Tokenizer
from stages.report.build import gather
from stages.report.corpus import Removal
from stages.report.lineage import Exposures, base36, document_index, exposures, final_segment, front_coded
from stages.report.objective import KINDS, Block, read_blocks
from stages.report.pieces import pieces
from tests.support.ledger_project import make_project
from tests.support.report_page import PARAMS, decoded, stage_io

CONFIG = MaskingConfig(128, 2, 120, 104, 0.7, 0.2, 0.15, 3.0, 8, 0.02, 8, 0.02)


@pytest.fixture(scope="module")
def sections(report_project: Path) -> dict[str, Any]:
    return gather(PARAMS, stage_io(report_project))


def test_exposures_agree_with_a_walk_through_the_training(tmp_path: Path) -> None:
    """Two masking epochs, a branch that was given up and a skipped step; the walk is the slow way of the ledger's own tests."""
    made = make_project(tmp_path / "project")
    ledger = Ledger(made.root)
    segment = final_segment(ledger)
    seen = exposures(ledger, segment, pa.concat_tables(map(pq.read_table, ledger.sources.pieces())))
    assert segment.checkpoint == "step-000018"
    walked = Counter()
    tokens: Counter[int] = Counter()
    for step, row in made.rows_of("step-000018"):
        behind = [(document, length) for sample, document, _, length in made.pieces if sample == row]
        for document in {document for document, _ in behind}:
            walked[document, step] += 1
        for document, length in behind:
            tokens[document] += length
    assert Counter(zip(seen.document.tolist(), seen.step.tolist(), strict=True)) == walked
    assert {document: int(seen.tokens[seen.document == document].sum()) for document in tokens} == dict(tokens)
    table = ledger.documents("step-000018").to_pydict()
    names = [row["doc_id"] for row in made.documents]
    mine = Counter(names[document] for document in seen.document.tolist())
    assert mine == dict(zip(table["doc_id"], table["exposures"], strict=True))


def test_the_index_holds_every_document_with_its_fate(report_project: Path, sections: dict[str, Any]) -> None:
    found = decoded(json.loads(sections["lineage"]["index"]))
    corpus = [
        name
        for file in (report_project / "data/corpus/documents").iterdir()
        for name in pq.read_table(file)["doc_id"].to_pylist()
    ]
    assert list(found) == sorted(corpus)
    ledger = Ledger(report_project)
    for name in pq.read_table(report_project / "data/encode/train.documents.parquet")["doc_id"].to_pylist()[:8]:
        sighting = ledger.seen(name).sightings[-1]
        steps, tokens = found[name]
        assert (tuple(dict.fromkeys(steps)), len(steps), tokens) == (sighting.steps, sighting.exposures, sighting.tokens)
    assert found["poems/short"] == ("too short", "1 < 10", "")
    heldout = pq.read_table(report_project / "data/encode/heldout.documents.parquet")["doc_id"].to_pylist()
    assert all(found[name] == ("held out", "", "") for name in heldout)


def test_the_index_is_cut_evenly(report_project: Path) -> None:
    names = [f"source/{number:03}" for number in range(100)]
    nothing = np.zeros(0, np.int64)
    seen = Exposures(nothing, nothing, np.array([0, 0, 50]), np.array([3, 1000, 7]), np.array([5, 6, 40]))
    found = decoded(document_index(names, seen, [], [Removal("a", "corpus", "too short", "1 < 10")], 10))
    assert len(found) == 10 and next(iter(found)) == "a" and found["a"] == ("too short", "1 < 10", "")
    whole = decoded(document_index(names, seen, [], [], 1000))
    assert (whole["source/000"], whole["source/001"], whole["source/050"]) == (([3, 1000], 11), ([], 0), ([7], 40))


def test_front_coding() -> None:
    assert front_coded(["a", "ab", "abc", "b"]) == "0a\n1b\n2c\n0b"
    long = ["x" * 40 + "1", "x" * 40 + "2"]
    assert front_coded(long).split("\n")[1] == "z" + "x" * 5 + "2"
    assert front_coded([]) == ""
    assert [base36(value) for value in (0, 35, 36, 12345)] == ["0", "z", "10", "9ix"]


def record(sample: masking.Sample) -> dict[str, Any]:
    names = ("input_ids", "target_ids", "position_ids", "block_start", "block_context")  # stored and derived
    return {name: getattr(sample, name).tolist() for name in names}


def restored(block: Block) -> list[int]:
    """The block's text: each blank of the context filled with its span."""
    spans = {span.blank: [token.piece.id for token in span.tokens if token.piece.id != SPECIAL.eop] for span in block.spans}
    ids: list[int] = []
    for token in block.context:
        ids += spans.pop(token.blank) if token.blank else [token.piece.id]
    assert not spans
    return ids


@pytest.mark.parametrize("number", range(5))
def test_blanks_and_targets_of_a_sample_restore_its_text(number: int, report_project: Path) -> None:
    tokenizer = Tokenizer(report_project / "data/tokenizer/tokenizer.model")
    row = np.random.default_rng(number).integers(8, tokenizer.piece_count, 120).astype(np.int32)
    (block,) = read_blocks(record(masking.gmask_sample(row, Draws(1, 0, number), CONFIG, SPECIAL)), tokenizer)
    assert restored(block) == row.tolist()
    blocks = list(read_blocks(record(masking.mask_sample(row[:104], Draws(1, 0, number), CONFIG, SPECIAL)), tokenizer))
    assert len(blocks) == 2
    for index, block in enumerate(blocks):
        ids = restored(block)
        assert ids == row[index * 52 : index * 52 + len(ids)].tolist()
        for span in block.spans:
            (blank,) = [token for token in block.context if token.blank == span.blank]
            assert {token.position for token in span.tokens} == {blank.position}
            assert span.positions == f"position {blank.position}"
            assert span.tokens[-1].piece == pieces(tokenizer, [SPECIAL.eop])[0]


def test_an_instruction_sample_has_one_blank_a_block_and_running_positions(report_project: Path) -> None:
    tokenizer = Tokenizer(report_project / "data/tokenizer/tokenizer.model")
    prompt, target = np.array([20, 21, SPECIAL.mask], np.int32), np.array([30, 31], np.int32)
    (block,) = read_blocks(record(masking.instruction_sample([(prompt, target)], CONFIG, SPECIAL)), tokenizer)
    assert [token.piece.id for token in block.context] == [20, 21, SPECIAL.mask]
    (span,) = block.spans
    assert [token.piece.id for token in span.tokens] == [30, 31, SPECIAL.eop]
    assert span.positions == "positions 3–5"


def test_samples_shown_are_the_first_that_training_consumed(report_project: Path, sections: dict[str, Any]) -> None:
    shown = sections["objective"]["shown"]
    shards = [pa.ipc.open_file(file).read_all() for file in sorted((report_project / "data/pack").glob("samples-*.arrow"))]
    kinds = pa.concat_tables(shards)["kind"].to_pylist()
    plan = Ledger(report_project).plan
    for sample in shown:
        consumed = plan.order.rows(np.arange(sample["consumption"] + 1)).tolist()
        assert consumed[-1] == sample["row"]
        assert [kinds[row] for row in consumed].index(KINDS.index(sample["kind"])) == sample["consumption"]
        assert sample["row"] in plan.rows(sample["step"])
        assert sum(part["length"] for part in sample["documents"]) > 0
    assert {sample["kind"] for sample in shown} | set(sections["objective"]["missing"]) == set(KINDS)

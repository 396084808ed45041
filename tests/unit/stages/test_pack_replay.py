"""`glm replay`: a sample made again equals its row, reads as its text, and a row that was changed is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ledger.order import Order
from ledger.plan import DataPlan
from ledger.schedule import BatchRamp
from model.tokenizer import PIECES, SPECIAL, Tokenizer
from stages._manifest import sha256_file
from stages._params import parse
from stages.pack import Params
from stages.pack.replay import Project, app
from tests.support.gate_project import edit_arrow, put
from tests.support.training import PACK, pack_project, write_encoded

LITERAL = f"Text may spell {' '.join(PIECES.values())} and [MASK][MASK] [gMASK]: it stays text. "


@pytest.fixture(scope="module")
def tokenizer(gate_project: Path) -> Path:
    return gate_project / "data/tokenizer/tokenizer.model"


@pytest.fixture
def project(gate_project: Path, tmp_path: Path) -> Path:
    root = tmp_path / "project"
    shutil.copytree(gate_project, root)
    facts = json.loads((root / "data/pack/pack.json").read_text(encoding="utf-8"))
    plan = DataPlan(
        order=Order(5, facts["samples_per_epoch"], facts["epochs"]),
        ramp=BatchRamp(4, 8, 4, 32),
        steps=20,
        pack_manifest_sha256=sha256_file(root / "data/pack/manifest.json"),
    )
    (root / "data/pretrain").mkdir()
    (root / "data/pretrain/plan.json").write_text(plan.to_json(), encoding="utf-8")
    return root


def replay(root: Path, *arguments: Any) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--project", str(root)])
    return result.exit_code, result.stdout, result.stderr


def of_kind(root: Path, kind: str) -> dict[str, Any]:
    opened = Project(root)
    return next(found for found in map(opened.replay, range(540)) if found["kind"] == kind)


def filled(block: dict[str, Any]) -> list[int]:
    """The block's tokens, each blank filled with what it is to be filled with."""
    spans = {span["blank"]: [target for target in span["targets"] if target != SPECIAL.eop] for span in block["blanks"]}
    ids: list[int] = []
    for token in block["context_ids"]:
        ids += spans.pop(min(spans)) if token in (SPECIAL.mask, SPECIAL.gmask) else [token]
    assert not spans
    return ids


@pytest.mark.parametrize("kind", ["[gMASK]", "[MASK]", "instruction"])
def test_a_sample_reads_as_the_text_of_its_documents(project: Path, tokenizer: Path, kind: str) -> None:
    found = of_kind(project, kind)
    assert found["differs"] == []
    status, printed, _ = replay(project, "--sample", found["row"])
    assert status == 0
    assert printed.startswith(f"{kind} sample: epoch {found['epoch']}, sample {found['sample']}, row {found['row']}; ")
    assert "equal to its row in data/pack" in printed
    for block in found["blocks"]:
        assert block["context"] in printed
        for span in block["blanks"]:
            assert f"⟦{span['blank']}⟧" in block["context"]
            assert span["text"].splitlines()[0] in printed
            first = span["positions"][0]
            marks = [place for place, token in enumerate(block["context_ids"]) if token == SPECIAL.mask]
            if kind == "[MASK]":
                assert span["positions"] == [marks[span["blank"] - 1]] * len(span["targets"])
            else:
                assert span["positions"] == list(range(len(block["context_ids"]), first + len(span["targets"])))
    with pa.memory_map(str(project / "data/encode/train-00000.arrow")) as source:
        tokens = pa.ipc.open_file(source).read_all()["token"].to_numpy()
    documents = pq.read_table(project / "data/encode/train.documents.parquet").to_pylist()
    offset = {document["doc_id"]: document["offset"] for document in documents}
    text = [tokens[offset[d["doc_id"]] + d["doc_offset"] :][: d["length"]].tolist() for d in found["documents"]]
    ids = [token for block in found["blocks"] for token in filled(block)]
    if kind != "instruction":
        assert ids == [token for part in text for token in part]
        assert Tokenizer(tokenizer).decode(ids)
    for one in found["documents"]:
        assert f"{one['doc_id']} ({one['source']}, {one['licence']}): tokens {one['doc_offset']} to" in printed


def test_the_two_ways_to_name_a_sample_and_json(project: Path) -> None:
    opened = Project(project)
    per_epoch = opened.facts["samples_per_epoch"]
    plan = DataPlan.read(project / "data/pretrain/plan.json")
    row = int(plan.rows(7)[2])
    epoch, number = divmod(row, per_epoch)
    names = (("--sample", row), ("--step", 7, "--row", 2), ("--sample", number, "--epoch", epoch))
    by_row, by_step, by_epoch = (json.loads(replay(project, *name, "--json")[1]) for name in names)
    assert by_row == by_step == by_epoch == opened.replay(row)
    assert (by_row["row"], by_row["epoch"], by_row["sample"]) == (row, epoch, number)


@pytest.mark.parametrize("column", ["input_ids", "block_start", "block_context", "block_last", "blank_position", "epoch"])
def test_a_row_that_was_changed_is_told(project: Path, column: str) -> None:
    row = of_kind(project, "[MASK]")["row"]
    assert row < 100

    def change(values: Any) -> None:
        cells = values if values.ndim == 2 else values[:, None]
        cells[row, 0] += 1

    edit_arrow(project / "data/pack/samples-00000.arrow", column, change)
    status, printed, _ = replay(project, "--sample", row)
    assert status == 1
    assert "DIFFERS from its row in data/pack:" in printed
    assert column in printed.splitlines()[1]


def test_pieces_and_tokens_that_were_changed_are_told(project: Path) -> None:
    put(project / "data/pack/pieces-00000.parquet", 0, "length", lambda old: old - 1)
    assert "DIFFERS from its row in data/pack: pieces" in replay(project, "--sample", 0)[1]
    edit_arrow(project / "data/encode/train-00000.arrow", "token", lambda tokens: tokens.__iadd__(1))
    assert "DIFFERS from its row in data/pack: input_ids" in replay(project, "--sample", 1)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sample", 540), "there are samples 0 to 539, not 540"),
        (("--sample", -1), "not -1"),
        (("--sample", 270, "--epoch", 0), "an epoch has samples 0 to 269, not 270"),
        (("--sample", 0, "--epoch", 2), "there are samples 0 to 539"),
        (("--step", 0, "--row", 4), "the batch of step 0 has rows 0 to 3, not 4"),
    ],
)
def test_what_is_not_there_is_said(project: Path, arguments: tuple[Any, ...], message: str) -> None:
    status, _, error = replay(project, *arguments)
    assert status == 1
    assert message in error


@pytest.mark.parametrize("arguments", [(), ("--sample", 1, "--step", 1), ("--step", 1), ("--epoch", 1)])
def test_a_sample_is_named_in_one_way(project: Path, arguments: tuple[Any, ...]) -> None:
    status, _, error = replay(project, *arguments)
    assert status == 2
    assert "give --sample" in error


def test_a_plan_over_other_samples_is_refused(project: Path) -> None:
    manifest = project / "data/pack/manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert "was made for other samples" in replay(project, "--step", 0, "--row", 0)[2]
    manifest.unlink()
    assert "data/pack/manifest.json" in replay(project, "--sample", 0)[2]


def test_masks_that_a_text_spells_are_text(tmp_path: Path, tokenizer: Path) -> None:
    ids = np.array(Tokenizer(tokenizer).encode(LITERAL * 60), np.int32)
    write_encoded(tmp_path, ids, [len(ids)])
    shutil.copytree(tokenizer.parent, tmp_path / "data/tokenizer")
    pack_project(tmp_path, parse(Params, PACK, "pack"))
    opened, shown = Project(tmp_path), ""
    for row in range(opened.facts["samples_per_epoch"]):
        found = opened.replay(row)
        for block in found["blocks"]:
            blanks = {span["blank"] for span in block["blanks"]}
            marks = [token for token in block["context_ids"] if token <= SPECIAL.eop]
            assert len(marks) == len(blanks), "a mask for each span and no other special token"
            shown += block["context"]
    assert "[MASK]" in shown and "[gMASK]" in shown and "<sop>" in shown

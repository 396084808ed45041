"""The gate over packed samples: for each expectation a tampered artifact that it, by name, refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from model.packed import GMASK_KIND, INSTRUCTION_KIND, MASK_KIND, Stored, targets_and_positions
from model.tokenizer import SPECIAL
from stages import pack
from stages.validate import packed
from stages.validate.expect import Validator
from tests.support.gate_checks import (
    PIECES,
    SAMPLES,
    check,
    failures,
)
from tests.support.gate_project import (
    edit,
    edit_arrow,
    packed_column,
    put,
    run_stage,
)


@pytest.fixture
def project(gate_project: Path, tmp_path: Path) -> Path:
    shutil.copytree(gate_project, tmp_path / "project")
    return tmp_path / "project"


def at(column: str, place: str, value: Any, kind: int = MASK_KIND) -> Callable[[Path], int]:
    """Set a column of the first sample of a kind, at a place found in that sample; gives the sample."""

    def tamper(root: Path) -> int:
        row = next(number for number in range(1000) if packed_kind(root, number) == kind)
        file, first = shard_of(root, row)
        cells = {name: packed_column(file, name)[row - first] for name in ("input_ids", "block_start", "block_context")}
        end = cells["block_start"][1]
        context = cells["block_context"][0]
        where = {"first": 0, "rest": context, "second": context + 1, "last": end - 1, "behind": cells["block_start"][-1]}
        where |= (
            {"mask": int(np.flatnonzero(cells["input_ids"][: context + 1] == SPECIAL.mask)[0])} if kind == MASK_KIND else {}
        )
        index = where[place] if place in where else int(place)

        def change(values: Any) -> None:
            old = values[row - first, index] if values.ndim == 2 else values[row - first]
            new = value(old) if callable(value) else value
            if values.ndim == 2:
                values[row - first, index] = new
            else:
                values[row - first] = new

        edit_arrow(file, column, change)
        return row

    return tamper


def shard_of(root: Path, row: int) -> tuple[Path, int]:
    return root / f"data/pack/samples-{row // 100:05d}.arrow", row // 100 * 100


def packed_kind(root: Path, row: int) -> int:
    file, first = shard_of(root, row)
    return int(packed_column(file, "kind")[row - first, 0])


@pytest.mark.parametrize(
    ("tamper", "broken"),
    [
        (at("kind", "first", 3), "samples.kind"),
        (at("input_ids", "first", 800), "samples.ids_outside"),
        (at("input_ids", "first", 801, GMASK_KIND), "samples.ids_outside"),
        (at("block_last", "0", 800), "samples.targets_outside"),
        (at("block_last", "0", -1), "samples.targets_misplaced"),
        (at("block_last", "0", 50, MASK_KIND), "samples.targets_not_next"),
        (at("block_last", "0", 50, INSTRUCTION_KIND), "samples.targets_not_next"),
        (at("blank_position", "0", lambda old: old + 1), "samples.positions_wrong"),
        (at("blank_position", "0", 500), "samples.positions_wrong"),
        (at("blank_position", "-1", 9), "samples.blanks_wrong"),
        (at("blank_position", "0", 9, GMASK_KIND), "samples.blanks_wrong"),
        (at("blank_position", "0", 9, INSTRUCTION_KIND), "samples.blanks_wrong"),
        (at("input_ids", "mask", 50), "samples.positions_wrong"),
        (at("input_ids", "behind", 50), "samples.padding_wrong"),
        (at("input_ids", "first", SPECIAL.pad), "samples.padding_wrong"),
        (at("input_ids", "rest", 50), "samples.marks_wrong"),
        (at("input_ids", "rest", SPECIAL.eop, GMASK_KIND), "samples.marks_wrong"),
        (at("block_start", "0", 1), "samples.blocks_wrong"),
        (at("block_start", "2", 1000), "samples.blocks_wrong"),
        (at("block_context", "0", -1), "samples.blocks_wrong"),
        (at("block_context", "0", lambda old: old + 1), "samples.marks_wrong"),
        (at("epoch", "first", lambda old: 1 - old), "samples.epoch_wrong"),
        (at("input_ids", "first", lambda old: old + 1), "samples.text_differs"),
        (at("input_ids", "first", lambda old: old + 1, GMASK_KIND), "samples.text_differs"),
        (at("block_last", "0", lambda old: old + 1, GMASK_KIND), "samples.text_differs"),
    ],
)
def test_tampered_samples(project: Path, validator: Validator, tamper: Callable[[Path], int], broken: str) -> None:
    row = tamper(project)
    assert failures(check(project, validator, "packed", broken))[broken] == [row]


@pytest.mark.parametrize(
    ("derived", "place", "value", "kind", "broken"),
    [
        ("targets", "rest", 800, MASK_KIND, "samples.targets_outside"),
        ("targets", "first", 50, MASK_KIND, "samples.targets_misplaced"),
        ("targets", "rest", -1, MASK_KIND, "samples.targets_misplaced"),
        ("targets", "rest", lambda old: old + 1, MASK_KIND, "samples.targets_not_next"),
        ("targets", "last", 50, INSTRUCTION_KIND, "samples.targets_not_next"),
        ("positions", "rest", lambda old: old + 1, MASK_KIND, "samples.positions_wrong"),
        ("positions", "first", 5, MASK_KIND, "samples.positions_wrong"),
        ("positions", "last", 1, GMASK_KIND, "samples.positions_wrong"),
        ("positions", "last", 1, INSTRUCTION_KIND, "samples.positions_wrong"),
        ("positions", "behind", 9, MASK_KIND, "samples.padding_wrong"),
        ("targets", "last", lambda old: old + 1, GMASK_KIND, "samples.text_differs"),
    ],
)
def test_what_is_derived_wrongly_is_seen(
    project: Path,
    validator: Validator,
    monkeypatch: pytest.MonkeyPatch,
    derived: str,
    place: str,
    value: Any,
    kind: int,
    broken: str,
) -> None:
    """The gate measures what training is fed by rules of its own: a fault in the derivation does not hide itself."""
    seen: list[int] = []
    spoilt: list[int] = []

    def spoil(stored: Stored) -> tuple[Any, Any]:
        arrays = targets_and_positions(stored)
        of_kind = np.flatnonzero(stored.kind == kind)
        if len(of_kind) and not spoilt:
            row = int(of_kind[0])
            start, context = stored.block_start[row], stored.block_context[row]
            index = {"first": 0, "rest": context[0], "last": start[1] - 1, "behind": start[-1]}[place]
            cells = arrays[("targets", "positions").index(derived)][row]
            cells[index] = value(cells[index]) if callable(value) else value
            spoilt.append(len(seen) + row)
        seen.extend(stored.kind.tolist())
        return arrays

    monkeypatch.setattr(packed, "targets_and_positions", spoil)
    assert failures(check(project, validator, "packed", broken))[broken] == spoilt


@pytest.mark.parametrize(
    ("column", "value", "broken"),
    [
        ("doc_index", 10**6, "samples.pieces_outside"),
        ("doc_index", -1, "samples.pieces_outside"),
        ("doc_offset", 10**6, "samples.pieces_outside"),
        ("doc_offset", lambda old: old + 1, "samples.text_differs"),
        ("length", lambda old: old - 1, "samples.pieces_difference"),
    ],
)
def test_tampered_pieces(project: Path, validator: Validator, column: str, value: Any, broken: str) -> None:
    put(project / PIECES, 3, column, value)
    sample = pq.read_table(project / PIECES)["sample"][3].as_py()
    assert failures(check(project, validator, "packed", broken))[broken] == [sample]


def test_pieces_out_of_order(project: Path, validator: Validator) -> None:
    edit(project / PIECES, lambda rows: [*rows[10:], *rows[:10]])
    assert failures(check(project, validator, "packed"))["totals.stray_pieces"] == ["samples"]


@pytest.fixture(scope="module")
def published(gate_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same project with blocks that are cut, so tightly that many are."""
    root = tmp_path_factory.mktemp("published") / "project"
    shutil.copytree(gate_project, root)
    shutil.rmtree(root / "data/pack")
    lengths = {"sequence_length": 128, "blocks": 2, "gmask_row": 126, "mask_row": 120, "short_minimum": 8, "span_max": 8}
    changes = {"instruction_share": 0.1, "shard_samples": 100, "truncation": "published", "mask_ratio": 0.3}
    run_stage(root, pack, **lengths, **changes)
    return root


def test_published_truncation_passes(published: Path, validator: Validator) -> None:
    lasts = packed_column(published / SAMPLES, "block_last")[packed_column(published / SAMPLES, "kind")[:, 0] == MASK_KIND]
    assert (lasts != SPECIAL.eop).sum() > 20, "blocks are cut in the middle of a span"
    assert failures(check(published, validator, "packed", max_left_over_share=0.2)) == {}


@pytest.mark.parametrize(
    ("tamper", "broken"),
    [
        (at("block_last", "0", SPECIAL.pad), "samples.text_differs"),
        (at("block_start", "1", 63), "samples.positions_wrong"),
        (at("block_last", "0", 50, INSTRUCTION_KIND), "samples.targets_not_next"),
    ],
)
def test_tampered_published_samples(
    published: Path, tmp_path: Path, validator: Validator, tamper: Callable[[Path], int], broken: str
) -> None:
    shutil.copytree(published, tmp_path / "project")
    row = tamper(tmp_path / "project")
    assert row in failures(check(tmp_path / "project", validator, "packed", broken))[broken]


def test_a_token_in_the_padding_of_a_published_block(published: Path, tmp_path: Path, validator: Validator) -> None:
    shutil.copytree(published, tmp_path / "project")
    ids = packed_column(published / SAMPLES, "input_ids")
    mask = packed_column(published / SAMPLES, "kind") == MASK_KIND
    row, place = np.argwhere((ids == SPECIAL.pad) & mask & (np.arange(128) % 64 < 63))[0].tolist()
    edit_arrow(tmp_path / "project" / SAMPLES, "input_ids", lambda values: values.__setitem__((row, place + 1), 50))
    assert failures(check(tmp_path / "project", validator, "packed", "samples.padding_wrong")) == {
        "samples.padding_wrong": [row]
    }


def test_a_missing_shard_of_samples(project: Path, validator: Validator) -> None:
    (project / "data/pack/samples-00005.arrow").unlink()
    found = failures(check(project, validator, "packed"))
    assert found["totals.difference"] == ["samples"]
    assert found["epochs.samples_difference"] == [1]


def test_tokens_that_an_epoch_uses_twice(project: Path, validator: Validator) -> None:
    """A sample is put in the place of the next of its kind, with its pieces: it is right by itself."""
    rows = np.flatnonzero(packed_column(project / SAMPLES, "kind")[:, 0] == GMASK_KIND)[:2].tolist()
    for column in ("input_ids", "block_start", "block_context", "block_last", "blank_position"):
        edit_arrow(project / SAMPLES, column, lambda values: values.__setitem__(rows[1], values[rows[0]]))

    def change(pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
        copies = [{**piece, "sample": rows[1]} for piece in pieces if piece["sample"] == rows[0]]
        rest = [piece for piece in pieces if piece["sample"] != rows[1]]
        return sorted([*rest, *copies], key=lambda piece: piece["sample"])

    edit(project / PIECES, change)
    assert failures(check(project, validator, "packed")) == {"epochs.repeated": [0]}


def test_kinds_in_other_shares_than_the_parameters_ask_for(project: Path, validator: Validator) -> None:
    manifest = project / "data/pack/manifest.json"
    facts = json.loads(manifest.read_text(encoding="utf-8"))
    facts["params"] |= {"gmask_probability": 0.3, "instruction_share": 0.5}
    manifest.write_text(json.dumps(facts), encoding="utf-8")
    assert failures(check(project, validator, "packed")) == {"kinds.deviation": ["gmask", "mask", "instruction"]}

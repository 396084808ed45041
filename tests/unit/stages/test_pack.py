"""Packing: rows, provenance, shards, bad input, and the files of the stage against the definition of a sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from model.packed import GMASK_KIND, INSTRUCTION_KIND, MASK_KIND, NO_TARGET, Stored, targets_and_positions
from model.tokenizer import SPECIAL
from stages import _engine, pack
from stages._packed import columns
from stages._params import ParamsError, load_section
from stages._runner import StageError, StageIO
from stages.pack import Params, shard
from stages.pack.definition import Source
from stages.pack.kernel import Rules
from stages.pack.layout import Layout
from stages.pack.sources import Documents, index_documents, lay_ring
from tests.support.training import pack_project, write_encoded

ROOT = Path(__file__).parents[3]
SECTION: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["pack"] | {
    "epochs": 2, "sequence_length": 64, "gmask_row": 62, "mask_row": 52, "short_minimum": 8, "shard_samples": 16,
    "instruction_share": 0.25,
}  # fmt: skip
INSTRUCTIONS = [
    {"prompt_ids": [20, 21, SPECIAL.mask], "target_ids": [22], "doc_index": 0},
    {"prompt_ids": [30, SPECIAL.mask], "target_ids": [31, 32], "doc_index": 2},
]
LENGTHS = [700, 3, 900, 41, 1200]


def params(tmp_path: Path, **changes: Any) -> Params:
    file = tmp_path / "params.yaml"
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(yaml.safe_dump({"pack": SECTION | changes}), encoding="utf-8")
    return load_section(Params, file, "pack")


def tokens_of(lengths: list[int]) -> Any:
    return np.arange(sum(lengths), dtype=np.int32) % 5000 + 10


def project(root: Path, lengths: list[int], shards: int = 2) -> Path:
    write_encoded(root, tokens_of(lengths), lengths, shards, INSTRUCTIONS)
    return root


def samples(root: Path) -> list[dict[str, Any]]:
    """Every sample, with the targets and positions that follow."""
    rows = []
    for file in sorted((root / "data/pack").glob("samples-*.arrow")):
        with pa.memory_map(str(file)) as source:
            table = pa.ipc.open_file(source).read_all().combine_chunks()
        batch = table.to_batches()[0]
        targets, positions = targets_and_positions(columns(batch))
        for row, target, position in zip(batch.to_pylist(), targets.tolist(), positions.tolist(), strict=True):
            rows.append(row | {"target_ids": target, "position_ids": position})
    return rows


def pieces(root: Path) -> list[dict[str, Any]]:
    files = sorted((root / "data/pack").glob("pieces-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def facts(root: Path) -> dict[str, Any]:
    return json.loads((root / "data/pack/pack.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("truncation", ["keep_all", "published"])
def test_every_text_token_of_a_sample_is_traced_to_its_document(tmp_path: Path, truncation: str) -> None:
    root = project(tmp_path, LENGTHS)
    pack_project(root, params(tmp_path, truncation=truncation, mask_ratio=0.4))
    starts, tokens, found = np.cumsum([0, *LENGTHS]), tokens_of(LENGTHS), pieces(root)
    checked = 0
    for number, row in enumerate(samples(root)):
        behind = [piece for piece in found if piece["sample"] == number]
        if row["kind"] == INSTRUCTION_KIND:
            assert {piece["doc_index"] for piece in behind} <= {0, 2}
            texts = sum(t not in (-1, SPECIAL.eop) for t in row["target_ids"]) + sum(row["block_context"])
            assert sum(piece["length"] for piece in behind) == texts
            continue
        traced = [tokens[starts[p["doc_index"]] + p["doc_offset"] :][: p["length"]].tolist() for p in behind]
        context = [t for t, target in zip(row["input_ids"], row["target_ids"], strict=True) if t >= 10 and target == NO_TARGET]
        fed = context + [t for t in row["target_ids"] if t >= 10]
        assert sorted(fed) == sorted(token for part in traced for token in part)
        assert all(p["doc_offset"] >= 0 and p["doc_offset"] + p["length"] <= LENGTHS[p["doc_index"]] for p in behind)
        checked += 1
    assert checked >= 80
    assert [piece["sample"] for piece in found] == sorted(piece["sample"] for piece in found)


@pytest.mark.parametrize("truncation", ["keep_all", "published"])
def test_any_sample_can_be_made_again_alone(tmp_path: Path, truncation: str) -> None:
    root, settings = project(tmp_path, LENGTHS), params(tmp_path, truncation=truncation)
    pack_project(root, settings)
    source = Source(settings, root / "data/encode", root / "data/instruct")
    rows, found, per_epoch = samples(root), pieces(root), facts(root)["samples_per_epoch"]
    assert len(rows) == 2 * per_epoch
    for number, row in enumerate(rows):
        again, behind = source.sample(*divmod(number, per_epoch))
        assert row["epoch"] == number // per_epoch
        assert row["kind"] == again.kind
        for name in (*Stored._fields[:-1], "target_ids", "position_ids"):
            assert row[name] == getattr(again, name).tolist(), (number, name)
        mine = [(p["doc_index"], p["doc_offset"], p["length"]) for p in found if p["sample"] == number]
        assert mine == behind


def test_an_epoch_uses_every_token_once_but_a_rest_shorter_than_a_row(tmp_path: Path) -> None:
    settings = params(tmp_path)
    rules = Rules.of(settings.masking())
    layout = Layout.of(1, 2, 5000, 0.25, 2, rules)
    first = []
    for epoch in (0, 1):
        places = [layout.place(epoch, row, rules) for row in range(layout.text)]
        length = np.diff([*places, places[0] - layout.left_over(epoch, rules)]) % 5000
        assert set(length.tolist()) == {62, 52}
        covered = np.concatenate([np.arange(s, s + n) % 5000 for s, n in zip(places, length, strict=True)])
        assert len(np.unique(covered)) == len(covered) == 5000 - layout.left_over(epoch, rules)
        first.append(places[0])
    assert min(layout.left_over(epoch, rules) for epoch in (0, 1)) < 62
    assert first[0] != first[1], "each epoch cuts its rows elsewhere"


def test_masks_differ_between_epochs_and_shares_are_as_asked(tmp_path: Path) -> None:
    root = project(tmp_path, [20_000])
    counts = pack_project(root, params(tmp_path))
    rows = samples(root)
    kinds = np.array([row["kind"] for row in rows])
    assert (kinds == INSTRUCTION_KIND).mean() == pytest.approx(0.25, abs=0.01)
    for kind, name in ((GMASK_KIND, "gmask"), (MASK_KIND, "mask"), (INSTRUCTION_KIND, "instruction")):
        of_kind = [row for row in rows if row["kind"] == kind]
        assert counts[f"{name}_samples"] == len(of_kind)
        targets = sum(target != NO_TARGET for row in of_kind for target in row["target_ids"])
        assert counts[f"{name}_targets_per_sample"] == pytest.approx(targets / len(of_kind), abs=0.005)
        assert counts[f"{name}_targets_lost_per_sample"] == 0
    first, second = (rows[e * facts(root)["samples_per_epoch"]]["target_ids"] for e in (0, 1))
    assert first != second
    assert all(any(t != NO_TARGET for t in row["target_ids"]) for row in rows)


def test_published_blocks_lie_at_equal_places_and_lose_what_is_over_them(tmp_path: Path) -> None:
    root = project(tmp_path, [20_000])
    counts = pack_project(root, params(tmp_path, truncation="published", mask_row=56, mask_ratio=0.4, span_lambda=1.0))
    assert counts["mask_targets_lost_per_sample"] == counts["mask_targets_beyond_block_per_sample"] > 0
    assert counts["gmask_targets_lost_per_sample"] == counts["instruction_targets_lost_per_sample"] == 0
    cut = 0
    for row in samples(root):
        if row["kind"] != GMASK_KIND:
            assert row["block_start"] == [0, 16, 32, 48, 64]
        if row["kind"] == MASK_KIND:
            cut += sum(last != SPECIAL.eop for last in row["block_last"])
    assert cut > 100


def written(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "data/pack").iterdir()}


def test_same_inputs_same_bytes_whatever_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = []
    for name, kind, workers in (("a", "inline", "1"), ("b", "inline", "1"), ("c", "local", "2"), ("d", "local", "4")):
        monkeypatch.setenv("GLM_ENGINE", kind)
        monkeypatch.setenv("GLM_WORKERS", workers)
        root = project(tmp_path / name, LENGTHS)
        pack_project(root, params(tmp_path), _engine.read_settings(root))
        outputs.append(written(root))
    assert len(outputs[0]) > 10
    assert outputs[0] == outputs[1] == outputs[2] == outputs[3]


def test_shards_that_travel_through_a_store_have_the_same_bytes(tmp_path: Path) -> None:
    here, there = project(tmp_path / "here", LENGTHS), project(tmp_path / "there", LENGTHS)
    pack_project(here, params(tmp_path))
    pack_project(there, params(tmp_path), _engine.EngineSettings(exchange=f"memory://{tmp_path.name}"))
    assert written(here) == written(there)


def test_small_record_batches_change_no_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = project(tmp_path / "whole", LENGTHS, shards=1), project(tmp_path / "cut", LENGTHS, shards=3)
    pack_project(whole, params(tmp_path))
    monkeypatch.setattr(shard, "BATCH_POSITIONS", 64 * 5)  # 5 samples: across epochs and kinds
    monkeypatch.setattr("stages.pack.sources._SPARSE", 2)
    monkeypatch.setattr("stages.pack.sources._ROWS", 1)
    pack_project(cut, params(tmp_path))
    assert samples(whole) == samples(cut)
    assert pieces(whole) == pieces(cut)


def test_a_killed_run_goes_on_behind_its_last_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = project(tmp_path / "whole", LENGTHS), project(tmp_path / "killed", LENGTHS)
    pack_project(whole, params(tmp_path))
    done: list[int] = []

    def dies(task: shard.Task) -> dict[str, Any]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(task.number)
        return shard.write_shard(task)

    io = StageIO("pack", killed, ["data/encode", "data/instruct"], "data/pack")
    io.output.mkdir(parents=True)
    monkeypatch.setattr("stages.pack.build.write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        pack.run(params(tmp_path), io)
    monkeypatch.setattr("stages.pack.build.write_shard", lambda task: done.append(task.number) or shard.write_shard(task))
    pack.run(params(tmp_path), io)
    io.collect()
    io.output.rename(killed / "data/pack")
    assert done == [number * 16 for number in range(len(done))], "no shard is made twice"
    assert written(killed) == {name: data for name, data in written(whole).items() if name != "manifest.json"}


def test_without_instructions_there_are_only_text_samples(tmp_path: Path) -> None:
    write_encoded(tmp_path, tokens_of(LENGTHS), LENGTHS)
    counts = pack_project(tmp_path, params(tmp_path))
    assert counts["instruction_samples"] == 0
    assert INSTRUCTION_KIND not in {row["kind"] for row in samples(tmp_path)}


@pytest.mark.parametrize("lengths", [[1] * 40, [5000], LENGTHS, [2, 3000, 1, 1, 999]])
def test_the_index_of_documents_finds_what_a_search_through_all_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lengths: list[int]
) -> None:
    monkeypatch.setattr("stages.pack.sources._SPARSE", 3)
    write_encoded(tmp_path, tokens_of(lengths), lengths)
    ring = lay_ring([str(tmp_path / "data/encode/train-00000.arrow")])
    documents: Documents = index_documents(str(tmp_path / "data/encode/train.documents.parquet"), ring, str(tmp_path / "index"))
    total, starts = sum(lengths), np.cumsum([0, *lengths])
    owner = np.repeat(np.arange(len(lengths)), lengths)
    rng = np.random.default_rng(1)
    for start, length in zip(rng.integers(0, total, 200), rng.integers(1, total + 1, 200), strict=True):
        first, bounds = documents.within(int(start), int(length))
        assert first == owner[start]
        assert bounds[0] <= 0 < bounds[1]
        assert bounds[-2] < length <= bounds[-1]
        places = np.arange(start, start + length) % total
        begins = np.flatnonzero((np.diff(owner[places]) != 0) | (np.diff(places) < 0)) + 1  # a document, or the ring itself
        assert bounds[1:-1].tolist() == begins.tolist()
        assert bounds[0] == starts[first] - start


def test_a_document_longer_than_any_row_has_many_pieces(tmp_path: Path) -> None:
    root = project(tmp_path, [5000])
    pack_project(root, params(tmp_path, instruction_share=0.0))
    found = pieces(root)
    assert {piece["doc_index"] for piece in found} == {0}
    assert len(found) > 100


def test_bad_input_is_named(tmp_path: Path) -> None:
    project(tmp_path / "short", [5, 5, 5])
    with pytest.raises(StageError, match="do not fill one row of 62"):
        pack_project(tmp_path / "short", params(tmp_path))
    wide = [*INSTRUCTIONS, {"prompt_ids": [9] * 40 + [SPECIAL.mask], "target_ids": [1], "doc_index": 0}]
    write_encoded(tmp_path / "long", tokens_of(LENGTHS), LENGTHS, 1, wide)
    with pytest.raises(StageError, match=r"samples\.parquet, row 2.*block_length"):
        pack_project(tmp_path / "long", params(tmp_path))
    unmasked = [{"prompt_ids": [], "target_ids": [1], "doc_index": 0}]
    write_encoded(tmp_path / "unmasked", tokens_of(LENGTHS), LENGTHS, 1, unmasked)
    with pytest.raises(StageError, match=r"ends in \[MASK\].*samples\.parquet, row 0"):
        pack_project(tmp_path / "unmasked", params(tmp_path))


def test_token_shards_that_disagree_with_the_documents_are_named(tmp_path: Path) -> None:
    project(tmp_path / "torn", LENGTHS)
    (tmp_path / "torn/data/encode/train-00001.arrow").unlink()
    with pytest.raises(StageError, match=r"documents cover 2844 tokens, shards hold 1603.*train-00001\.arrow.*force encode"):
        pack_project(tmp_path / "torn", params(tmp_path))
    project(tmp_path / "cut", LENGTHS)
    file = tmp_path / "cut/data/encode/train-00001.arrow"
    file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(StageError, match=r"cut short on disk.*data/encode/train-00001\.arrow.*force encode"):
        pack_project(tmp_path / "cut", params(tmp_path))
    root = project(tmp_path / "gap", LENGTHS)
    table = pq.read_table(root / "data/encode/train.documents.parquet")
    pq.write_table(table.take([0, 1, 3, 4]), root / "data/encode/train.documents.parquet")
    with pytest.raises(StageError, match=r"without gaps.*train\.documents\.parquet, row 2"):
        pack_project(root, params(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gmask_row": 64}, "gmask_row"),
        ({"mask_ratio": 2.0}, "allowed: 0.01 to 0.9"),
        ({"sed": 1}, "unknown key"),
        ({"truncation": "all"}, "keep_all"),
        ({"truncation": "published", "sequence_length": 66}, "sequence_length must be a multiple of blocks"),
    ],
)
def test_wrong_parameters_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        params(tmp_path, **change)

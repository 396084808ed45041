"""Packing: rows, provenance, replay, and the Arrow file against what made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from model.masking import GMASK_KIND, INSTRUCTION_KIND, NO_TARGET
from model.tokenizer import SPECIAL
from stages._params import ParamsError, load_section
from stages._runner import StageError, StageIO
from stages.pack import Params, Stream, instruction_rows, plan_epoch, run, text_sample

ROOT = Path(__file__).parents[3]
SECTION: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["pack"] | {
    "epochs": 2, "sequence_length": 64, "gmask_row": 62, "mask_row": 52, "short_minimum": 8, "shard_samples": 16,
    "instruction_share": 0.25,
}  # fmt: skip


def params(tmp_path: Path, **changes: Any) -> Params:
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump({"pack": SECTION | changes}), encoding="utf-8")
    return load_section(Params, file, "pack")


def project(root: Path, lengths: list[int], shards: int = 2) -> StageIO:
    """Made-up token shards, and instruction samples that point at documents 0 and 2."""
    encode, instruct = root / "data/encode", root / "data/instruct"
    encode.mkdir(parents=True)
    instruct.mkdir()
    tokens = np.arange(sum(lengths), dtype=np.int32) % 5000 + 10
    for shard, part in enumerate(np.array_split(tokens, shards)):
        with pa.ipc.new_file(str(encode / f"train-{shard:05d}.arrow"), pa.schema([("token", pa.int32())])) as writer:
            writer.write_batch(pa.record_batch([pa.array(part)], names=["token"]))
    offsets = np.cumsum([0, *lengths])[:-1]
    table = pa.table({"offset": pa.array(offsets, pa.int64()), "length": pa.array(lengths, pa.int32())})
    pq.write_table(table, encode / "train.documents.parquet")
    rows = [
        {"prompt_ids": [20, 21, SPECIAL.mask], "target_ids": [22], "doc_index": 0},
        {"prompt_ids": [30, SPECIAL.mask], "target_ids": [31, 32], "doc_index": 2},
    ]
    pq.write_table(pa.Table.from_pylist(rows), instruct / "samples.parquet")
    io = StageIO("pack", root, ["data/encode", "data/instruct"], "data/pack")
    io.output.mkdir(parents=True)
    return io


def samples(io: StageIO) -> pa.Table:
    shards = sorted(io.output.glob("samples-*.arrow"))
    return pa.concat_tables([pa.ipc.open_file(pa.memory_map(str(shard))).read_all() for shard in shards])


LENGTHS = [700, 3, 900, 41, 1200]


def test_every_text_token_of_a_sample_is_traced_to_its_document(tmp_path: Path) -> None:
    io = project(tmp_path, LENGTHS)
    run(params(tmp_path), io)
    table, starts = samples(io), np.cumsum([0, *LENGTHS])
    tokens = np.arange(sum(LENGTHS)) % 5000 + 10
    pieces = pq.read_table(io.output / "pieces.parquet").to_pylist()
    checked = 0
    for number, row in enumerate(table.to_pylist()):
        behind = [piece for piece in pieces if piece["sample"] == number]
        if row["kind"] == INSTRUCTION_KIND:
            assert {piece["doc_index"] for piece in behind} <= {0, 2}
            assert sum(piece["length"] for piece in behind) == sum(t not in (-1, SPECIAL.eop) for t in row["target_ids"]) + sum(
                row["block_context"]
            )
            continue
        traced = [tokens[starts[p["doc_index"]] + p["doc_offset"] :][: p["length"]].tolist() for p in behind]
        fed = [t for t in row["input_ids"] if t >= 10] + [t for t in row["target_ids"] if t >= 10]
        assert set(fed) == {token for part in traced for token in part}
        assert all(p["doc_offset"] >= 0 and p["doc_offset"] + p["length"] <= LENGTHS[p["doc_index"]] for p in behind)
        checked += 1
    assert checked >= 80
    assert [piece["sample"] for piece in pieces] == sorted(piece["sample"] for piece in pieces)


def test_any_sample_can_be_made_again_alone(tmp_path: Path) -> None:
    io, settings = project(tmp_path, LENGTHS), params(tmp_path)
    run(settings, io)
    table, facts = samples(io), json.loads((io.output / "pack.json").read_text(encoding="utf-8"))
    tokens = (np.arange(sum(LENGTHS)) % 5000 + 10).astype(np.int32)
    stream = Stream(tokens, np.cumsum([0, *LENGTHS]))
    per_epoch = facts["samples_per_epoch"]
    assert len(table) == 2 * per_epoch
    for epoch, row in ((0, 0), (0, 17), (1, 5), (1, facts["text_samples_per_epoch"] - 1)):
        plan = plan_epoch(settings.seed, epoch, len(tokens), settings.masking())
        again = text_sample(stream, plan, settings.seed, epoch, row, settings.masking())
        stored = table.slice(epoch * per_epoch + row, 1).to_pylist()[0]
        assert stored["epoch"] == epoch
        assert stored["kind"] == again.kind
        for name in ("input_ids", "target_ids", "position_ids", "block_start", "block_context"):
            assert stored[name] == getattr(again, name).tolist()


def test_an_epoch_uses_every_token_once_but_a_rest_shorter_than_a_row() -> None:
    settings = {k: v for k, v in SECTION.items() if k in Params.__dataclass_fields__}
    config = Params(**settings).masking()
    plans = [plan_epoch(1, epoch, 5000, config) for epoch in (0, 1)]
    for plan in plans:
        covered = np.concatenate([np.arange(s, s + n) % 5000 for s, n in zip(plan.start, plan.length, strict=True)])
        assert len(np.unique(covered)) == len(covered) > 5000 - 62
        assert set(plan.length[plan.kind == GMASK_KIND]) == {62}
        assert set(plan.length[plan.kind != GMASK_KIND]) == {52}
    assert plans[0].start[0] != plans[1].start[0], "each epoch cuts its rows elsewhere"


def test_masks_differ_between_epochs_and_shares_are_as_asked(tmp_path: Path) -> None:
    io = project(tmp_path, [20_000])
    counts = run(params(tmp_path), io)
    table = samples(io)
    facts = json.loads((io.output / "pack.json").read_text(encoding="utf-8"))
    kinds = table["kind"].to_numpy()
    assert (kinds == INSTRUCTION_KIND).mean() == pytest.approx(0.25, abs=0.01)
    assert counts["instruction_samples"] == (kinds == INSTRUCTION_KIND).sum()
    first, second = (table["target_ids"].to_pylist()[e * facts["samples_per_epoch"]] for e in (0, 1))
    assert first != second
    assert all(any(t != NO_TARGET for t in targets) for targets in table["target_ids"].to_pylist())


def test_same_inputs_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        io = project(tmp_path / name, LENGTHS)
        run(params(tmp_path / name), io)
        written.append({path.name: path.read_bytes() for path in io.output.iterdir()})
    assert written[0] == written[1]


def test_without_instructions_there_are_only_text_samples(tmp_path: Path) -> None:
    io = project(tmp_path, LENGTHS)
    empty = pq.read_schema(tmp_path / "data/instruct/samples.parquet").empty_table()
    pq.write_table(empty, tmp_path / "data/instruct/samples.parquet")
    counts = run(params(tmp_path), io)
    assert counts["instruction_samples"] == 0
    assert INSTRUCTION_KIND not in samples(io)["kind"].to_pylist()


def test_instruction_rows_are_drawn_by_the_sample_alone() -> None:
    settings = {k: v for k, v in SECTION.items() if k in Params.__dataclass_fields__}
    config = Params(**settings).masking()
    assert instruction_rows(1, 0, 9, 1000, config) == instruction_rows(1, 0, 9, 1000, config)
    assert instruction_rows(1, 0, 9, 1000, config) != instruction_rows(1, 1, 9, 1000, config)


def test_bad_input_is_named(tmp_path: Path) -> None:
    io = project(tmp_path / "short", [5])
    with pytest.raises(StageError, match="do not fill one row of 62"):
        run(params(tmp_path), io)
    io = project(tmp_path / "long", LENGTHS)
    wide = [{"prompt_ids": [9] * 40 + [SPECIAL.mask], "target_ids": [1], "doc_index": 0}]
    pq.write_table(pa.Table.from_pylist(wide), tmp_path / "long/data/instruct/samples.parquet")
    with pytest.raises(StageError, match=r"samples\.parquet, row 0.*block_length"):
        run(params(tmp_path), io)
    io = project(tmp_path / "torn", LENGTHS)
    (tmp_path / "torn/data/encode/train-00001.arrow").unlink()
    with pytest.raises(StageError, match="documents cover"):
        run(params(tmp_path), io)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"gmask_row": 64}, "gmask_row"), ({"mask_ratio": 2.0}, "allowed: 0.01 to 0.9"), ({"sed": 1}, "unknown key")],
)
def test_wrong_parameters_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        params(tmp_path, **change)

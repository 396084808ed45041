from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.tokenizer import PIECES, SPECIAL, Tokenizer
from stages import _texts, encode
from stages._documents import read_documents
from stages._engine import EngineSettings
from stages._params import ParamsError, load_section, parse
from stages._runner import StageError, StageIO
from stages._texts import Part
from stages.encode import BATCH_TOKENS, Params, run
from stages.encode.build import grouped
from stages.encode.shard import ShardTask, encode_shard
from stages.tokenizer import Params as TokenizerParams
from stages.tokenizer import train
from tests.support.text import documents, text, write_documents

ROOT = Path(__file__).resolve().parents[3]
PARAMS = Params(1 << 20)
TOKENIZER = TokenizerParams(1500, 0.999, 1, 0.5, True, 4, 16, 15_000, 128, 2, 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(train((text("en", 1, 60_000) + "\n" + text("zh", 1, 40_000)).split("\n"), TOKENIZER))
    return path


def project(root: Path, model: Path, train_rows: list[dict[str, Any]], heldout_rows: list[dict[str, Any]]) -> StageIO:
    for split, rows in (("train", train_rows), ("heldout", heldout_rows)):
        folder = root / "data/decontaminate" / split
        folder.mkdir(parents=True)
        write_documents(folder, rows)
    (root / "data/tokenizer").mkdir()
    (root / "data/tokenizer/tokenizer.model").write_bytes(model.read_bytes())
    return stage_io(root)


def stage_io(root: Path, workers: int = 1) -> StageIO:
    settings = EngineSettings(kind="inline" if workers == 1 else "local", workers=workers)
    io = StageIO("encode", root, ["data/decontaminate", "data/tokenizer"], "data/encode", settings)
    io.output.mkdir(parents=True, exist_ok=True)
    return io


def build(io: StageIO, params: Params) -> dict[str, Any]:
    """What the runner does with a stage."""
    counts = run(params, io)
    io.engine.close()
    io.collect()
    return counts


def tokens(folder: Path, split: str) -> list[np.ndarray]:
    """The tokens of each shard, read as a reader does: memory-mapped, without a copy."""
    found = []
    for file in sorted(folder.glob(f"{split}-*.arrow")):
        with pa.memory_map(str(file)) as source:
            table = pa.ipc.open_file(source).read_all()
            assert table.schema == pa.schema([pa.field("token", pa.int32(), nullable=False)])
            found.append(table["token"].to_numpy())
    return found


def test_the_laptop_profile_has_a_valid_section() -> None:
    assert 64e6 < load_section(Params, ROOT / "params.yaml", "encode").shard_bytes < 256e6


def test_tiny_shards_are_refused() -> None:
    with pytest.raises(ParamsError, match=r"encode\.shard_bytes: 1000 is not allowed"):
        parse(Params, {"shard_bytes": 1000}, "params.yaml: encode")


def test_every_document_lies_where_the_table_says(tmp_path: Path, model: Path) -> None:
    rows = documents("zh", 1, 7, 900) + documents("en", 1, 9, 900, source="a-first") + documents("en", 3, 1, 50, source="z")
    io = project(tmp_path, model, rows, documents("en", 2, 3, 400))
    counts = build(io, PARAMS)
    tokenizer = Tokenizer(model)
    for split in ("train", "heldout"):
        stream = np.concatenate(tokens(io.output, split))
        table = pq.read_table(io.output / f"{split}.documents.parquet")
        assert table.schema.equals(encode.DOCUMENTS)
        listed = table.to_pylist()
        originals = list(read_documents(tmp_path / "data/decontaminate" / split))
        assert [row["doc_id"] for row in listed] == [original["doc_id"] for original in originals]
        end = 0
        for index, (row, original) in enumerate(zip(listed, originals, strict=True)):
            assert (row["doc_index"], row["offset"], row["shard"]) == (index, end, 0)
            end += row["length"]
            ids = stream[row["offset"] : end]
            assert ids[-1] == SPECIAL.eod
            assert tokenizer.decode(ids[:-1]) == original["text"]
            assert ids[:-1].tolist() == tokenizer.encode(original["text"])
            assert row["bytes"] == len(original["text"].encode())
            assert {name: row[name] for name in ("source", "lang", "licence")} == {
                name: original[name] for name in ("source", "lang", "licence")
            }
        assert end == len(stream) == counts[split]["tokens"]
        assert (stream == SPECIAL.eod).sum() == len(listed)
    assert counts["train"]["by_language"]["en"]["documents"] == 10


def test_equal_input_gives_equal_bytes_whatever_the_workers(tmp_path: Path, model: Path) -> None:
    rows = [row for lang in ("en", "zh") for source in "abc" for row in documents(lang, 1, 9, 900, source=f"{lang}-{source}")]
    found = []
    for workers in (1, 2):
        root = tmp_path / str(workers)
        project(root, model, rows, rows[:2])
        io = stage_io(root, workers)
        build(io, PARAMS)
        found.append({path.name: path.read_bytes() for path in sorted(io.output.iterdir())})
    assert found[0] == found[1]
    assert sorted(found[0]) == [
        "heldout-00000.arrow",
        "heldout.documents.parquet",
        "train-00000.arrow",
        "train.documents.parquet",
    ]


def test_parts_of_any_size_give_the_same_tokens_and_places(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = documents("en", 1, 30, 700) + documents("zh", 1, 30, 700)
    found = []
    for name, size in (("whole", 1 << 30), ("cut", 1)):
        monkeypatch.setattr(_texts, "_BATCH_BYTES", size)
        root = tmp_path / name
        project(root, model, rows, rows[:1])
        for file in sorted((root / "data/decontaminate/train/documents").iterdir()):
            pq.write_table(pq.read_table(file), file, row_group_size=11 if size == 1 else 100)
        shards = [str(file) for file in sorted((root / "data/decontaminate/train/documents").iterdir())]
        assert [part.row for part in _texts.parts(shards, "documents")] == ([0, 0] if size > 1 else [0, 11, 22] * 2)
        io = stage_io(root)
        build(io, PARAMS)
        found.append((tokens(io.output, "train")[0], pq.read_table(io.output / "train.documents.parquet")))
    assert np.array_equal(found[0][0], found[1][0])
    assert found[0][1].equals(found[1][1])


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "a shard cut"])
def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, cut: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = documents("en", 1, 5, 500) + documents("zh", 1, 5, 500)
    monkeypatch.setattr("stages.encode.build.grouped", lambda parts, most: [[part] for part in parts])
    build(project(tmp_path / "whole", model, rows, rows), PARAMS)
    project(tmp_path / "killed", model, rows, rows)
    done: list[str] = []

    def counting(task: ShardTask) -> dict[str, dict[str, int]]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(task.tokens)
        return encode_shard(task)

    monkeypatch.setattr("stages.encode.build.encode_shard", counting)
    with pytest.raises(KeyboardInterrupt):
        run(PARAMS, stage_io(tmp_path / "killed"))
    if cut:
        os.truncate(done[0], Path(done[0]).stat().st_size // 2)
    done.append("killed once")
    io = stage_io(tmp_path / "killed")
    build(io, PARAMS)
    assert len(done) == 5 + cut, "what was finished and whole was encoded again, or what was cut was not"
    assert done.count(done[0]) == 1 + cut
    assert (f"{done[0]} was lost or cut short" in capsys.readouterr().err) is cut
    whole = tmp_path / "whole" / io.output.relative_to(io.root)
    assert {path.name: path.read_bytes() for path in io.output.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


@pytest.mark.parametrize("file", ["params.yaml", *(f"profiles/{path.name}" for path in (ROOT / "profiles").glob("*.yaml"))])
def test_shards_of_every_profile_have_64_to_256_mb_of_tokens(file: str) -> None:
    """A token is four bytes on disk, and 3 to 5 of text: 3.2 on average with the laptop's 12,000 pieces."""
    most = load_section(Params, ROOT / file, "encode").shard_bytes
    assert 64e6 <= most * 4 / 5 < most * 4 / 3 <= 256e6


def sized(number: int, size: int) -> Part:
    return Part(f"shard-{number}", f"shard-{number}", 0, 0, size, 1)


def test_shards_are_consecutive_parts_up_to_their_size() -> None:
    sizes = [5, 5, 1, 20, 3, 3, 3, 3]
    parts = [sized(number, size) for number, size in enumerate(sizes)]
    found = grouped(parts, 10)
    assert [part for group in found for part in group] == parts
    assert [[part.bytes for part in group] for group in found] == [[5, 5], [1], [20], [3, 3, 3], [3]]
    assert grouped([], 10) == []


def several_batches(root: Path, model: Path) -> tuple[StageIO, list[dict[str, Any]]]:
    """Documents of 0.7 to 1.2 Mi tokens, most of a token a character, in shards of at least 1 Mi bytes."""
    lengths = [700_000, 900_000, 900_000, 1, BATCH_TOKENS - 1, 1_200_000, 7]
    rows = [
        documents("en", 1, 1, 10)[0] | {"doc_id": f"made-en/{number}", "text": "\n" * length}
        for number, length in enumerate(lengths)
    ]
    io = project(root, model, rows, rows[-1:])
    file = root / "data/decontaminate/train/documents/made-en-00000.parquet"
    pq.write_table(pq.read_table(file), file, row_group_size=2, use_dictionary=False, compression="none")
    return io, rows


def test_no_document_crosses_a_shard(tmp_path: Path, model: Path) -> None:
    io, rows = several_batches(tmp_path, model)
    counts = build(io, Params(1 << 21))
    table = pq.read_table(io.output / "train.documents.parquet").to_pylist()
    assert [row["shard"] for row in table] == [0, 0, 1, 1, 2, 2, 3], "two documents a row group"
    shards = tokens(io.output, "train")
    assert counts["train"]["shards"] == len(shards) == 4
    start = np.cumsum([0, *map(len, shards)])
    for row, document in zip(table, rows, strict=True):
        first = row["offset"] - start[row["shard"]]
        part = shards[row["shard"]][first : first + row["length"]]
        assert len(part) == len(document["text"]) + 1
        assert part[-1] == SPECIAL.eod
        assert (part[:-1] > SPECIAL.eop).all()


def test_batches_hold_a_mebi_of_tokens_and_are_not_compressed(tmp_path: Path, model: Path) -> None:
    io, rows = several_batches(tmp_path, model)
    build(io, Params(1 << 30))
    total = sum(len(row["text"]) + 1 for row in rows)
    file = io.output / "train-00000.arrow"
    with pa.memory_map(str(file)) as source:
        reader = pa.ipc.open_file(source)
        sizes = [reader.get_batch(number).num_rows for number in range(reader.num_record_batches)]
        address = reader.get_batch(0).column(0).buffers()[1].address
        assert pa.py_buffer(source.read_buffer()).address <= address  # a view of the file, not a decompressed copy
    assert sizes == [BATCH_TOKENS] * (total // BATCH_TOKENS) + [total % BATCH_TOKENS]
    assert file.stat().st_size >= 4 * total


def test_a_document_longer_than_a_shard_gets_one_of_its_own(tmp_path: Path, model: Path) -> None:
    small = documents("en", 1, 1, 10, source="a") + documents("en", 1, 1, 10, source="z")
    long = documents("en", 1, 1, 10)[0] | {"text": "\n" * (2 * BATCH_TOKENS)}
    io = project(tmp_path, model, [*small, long], small)
    file = tmp_path / "data/decontaminate/train/documents/made-en-00000.parquet"
    pq.write_table(pq.read_table(file), file, use_dictionary=False, compression="none")
    assert build(io, PARAMS)["train"]["shards"] == 3
    assert len(tokens(io.output, "train")[1]) == 2 * BATCH_TOKENS + 1


def test_an_empty_document_is_refused_with_file_and_row(tmp_path: Path, model: Path) -> None:
    rows = documents("en", 1, 5, 100)
    rows[3]["text"] = ""
    io = project(tmp_path, model, rows, documents("en", 2, 1, 100))
    message = r"'made-en/3' is empty \(file data/decontaminate/train/documents/made-en-00000.parquet, row 3\)"
    with pytest.raises(StageError, match=message):
        run(PARAMS, io)


@pytest.mark.parametrize("empty", ["train", "heldout"])
def test_a_split_without_documents_is_refused(tmp_path: Path, model: Path, empty: str) -> None:
    rows = {"train": documents("en", 1, 2, 100), "heldout": documents("en", 2, 2, 100), empty: []}
    with pytest.raises(StageError, match=f"the {empty} split holds no document"):
        run(PARAMS, project(tmp_path, model, rows["train"], rows["heldout"]))


def test_text_that_is_not_utf8_is_refused_with_file_and_row(tmp_path: Path, model: Path) -> None:
    rows = documents("zh", 1, 6, 100)
    io = project(tmp_path, model, rows, rows[:1])
    file = tmp_path / "data/decontaminate/train/documents/made-zh-00000.parquet"
    table = pq.read_table(file)
    content = [row["text"].encode() for row in rows]
    content[4] = content[4][:7]  # two characters and a third of one
    broken = pa.Array.from_buffers(pa.large_string(), 6, pa.array(content, pa.large_binary()).buffers())
    pq.write_table(table.set_column(table.schema.get_field_index("text"), table.schema.field("text"), broken), file)
    with pytest.raises(StageError, match=r"text is not UTF-8 .*train/documents/made-zh-00000.parquet, row 4"):
        run(PARAMS, io)


@pytest.mark.parametrize("keep", [0, 100, -20])
def test_a_shard_cut_short_on_disk_is_named(tmp_path: Path, model: Path, keep: int) -> None:
    io = project(tmp_path, model, documents("zh", 1, 6, 100), documents("zh", 1, 1, 100))
    file = tmp_path / "data/decontaminate/train/documents/made-zh-00000.parquet"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(StageError, match=r"cut short: .*train/documents/made-zh-00000.parquet.*dvc repro"):
        run(PARAMS, io)


def test_a_damaged_page_is_named(tmp_path: Path, model: Path) -> None:
    io = project(tmp_path, model, documents("zh", 1, 60, 900), documents("zh", 1, 1, 100))
    file = tmp_path / "data/decontaminate/train/documents/made-zh-00000.parquet"
    content = bytearray(file.read_bytes())
    place = pq.read_metadata(file).row_group(0).column(pq.read_schema(file).get_field_index("text")).data_page_offset
    content[place + 10 : place + 400] = bytes(390)
    file.write_bytes(content)
    with pytest.raises(StageError, match=r"damaged or cut short: .*made-zh-00000.parquet"):
        run(PARAMS, io)


def test_special_tokens_spelled_in_text_stay_text(tmp_path: Path, model: Path) -> None:
    rows = [documents("en", 1, 1, 50)[0] | {"text": f"before{piece}after {piece}"} for piece in PIECES.values()]
    rows = [row | {"doc_id": f"{row['doc_id']}-{number}"} for number, row in enumerate(rows)]
    io = project(tmp_path, model, rows, rows[:1])
    build(io, PARAMS)
    stream = tokens(io.output, "train")[0]
    assert (stream <= SPECIAL.eop).sum() == len(rows), "nothing but one end for each document"
    assert (stream == SPECIAL.eod).sum() == len(rows)


def test_ids_equal_those_of_sentencepiece_for_every_document(tmp_path: Path, model: Path) -> None:
    import sentencepiece

    rows = documents("en", 5, 40, 600) + documents("zh", 5, 40, 600)
    rows += [row | {"doc_id": f"blank/{number}", "text": f"{row['text']}\u2581x"} for number, row in enumerate(rows[:2])]
    io = project(tmp_path, model, rows, rows[:1])
    build(io, PARAMS)
    stream, table = tokens(io.output, "train")[0], pq.read_table(io.output / "train.documents.parquet").to_pylist()
    own = sentencepiece.SentencePieceProcessor(model_file=str(model))
    texts = {row["doc_id"]: row["text"] for row in rows}
    for row in table:
        ids = stream[row["offset"] : row["offset"] + row["length"] - 1].tolist()
        text = texts[row["doc_id"]]
        if "\u2581" in text:  # which SentencePiece takes for a blank
            assert Tokenizer(model).decode(ids) == text
        else:
            assert ids == own.encode(text)

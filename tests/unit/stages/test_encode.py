from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.tokenizer import SPECIAL, Tokenizer
from stages import encode
from stages._documents import read_documents
from stages._params import ParamsError, load_section, parse
from stages._runner import StageError, StageIO
from stages.encode import BATCH_TOKENS, Params, ShardWriter, run
from stages.tokenizer import Params as TokenizerParams
from stages.tokenizer import train
from tests.support.text import documents, text, write_documents

ROOT = Path(__file__).resolve().parents[3]
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
    io = StageIO("encode", root, ["data/decontaminate", "data/tokenizer"], "data/encode")
    io.output.mkdir(parents=True)
    return io


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
    assert load_section(Params, ROOT / "params.yaml", "encode").shard_tokens >= BATCH_TOKENS


def test_a_shard_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"encode\.shard_tokens: 1000 is not allowed"):
        parse(Params, {"shard_tokens": 1000}, "params.yaml: encode")


def test_every_document_lies_where_the_table_says(tmp_path: Path, model: Path) -> None:
    rows = documents("zh", 1, 7, 900) + documents("en", 1, 9, 900, source="a-first") + documents("en", 3, 1, 50, source="z")
    io = project(tmp_path, model, rows, documents("en", 2, 3, 400))
    counts = run(Params(BATCH_TOKENS), io)
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


def test_equal_input_gives_equal_bytes_whatever_the_threads(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = documents("en", 1, 30, 1000) + documents("zh", 1, 30, 1000)
    found = []
    for name, cores in (("one", 1), ("many", 5)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        monkeypatch.setattr(encode, "_GROUP_BYTES", 5000 * cores)
        io = project(tmp_path / name, model, rows, rows[:2])
        run(Params(BATCH_TOKENS), io)
        found.append({path.name: path.read_bytes() for path in sorted(io.output.iterdir())})
    assert found[0] == found[1]
    assert sorted(found[0]) == [
        "heldout-00000.arrow",
        "heldout.documents.parquet",
        "train-00000.arrow",
        "train.documents.parquet",
    ]


def write(folder: Path, lengths: Sequence[int], shard_tokens: int) -> list[tuple[int, int]]:
    """Places of documents of `lengths` tokens, each token its document's number."""
    writer = ShardWriter(folder, "train", shard_tokens)
    places = [writer.add(np.full(length, number, dtype=np.int32)) for number, length in enumerate(lengths)]
    writer.close()
    return places


def test_no_document_crosses_a_shard(tmp_path: Path) -> None:
    limit = 2 * BATCH_TOKENS
    lengths = [BATCH_TOKENS, BATCH_TOKENS - 1, 1, 1, limit, limit - 1, 2, 7]
    places = write(tmp_path, lengths, limit)
    assert places == [
        (0, 0),
        (0, BATCH_TOKENS),
        (0, 2 * BATCH_TOKENS - 1),
        (1, limit),
        (2, limit + 1),
        (3, 2 * limit + 1),
        (4, 3 * limit),
        (4, 3 * limit + 2),
    ]
    shards = tokens(tmp_path, "train")
    assert [len(shard) for shard in shards] == [limit, 1, limit, limit - 1, 9]
    start = [sum(len(shard) for shard in shards[:number]) for number in range(len(shards))]
    for number, ((shard, offset), length) in enumerate(zip(places, lengths, strict=True)):
        part = shards[shard][offset - start[shard] : offset - start[shard] + length]
        assert len(part) == length
        assert (part == number).all()


def test_batches_hold_a_mebi_of_tokens_and_are_not_compressed(tmp_path: Path) -> None:
    write(tmp_path, [700_000, 900_000, 900_000, 1], 4 * BATCH_TOKENS)
    file = tmp_path / "train-00000.arrow"
    with pa.memory_map(str(file)) as source:
        reader = pa.ipc.open_file(source)
        sizes = [reader.get_batch(number).num_rows for number in range(reader.num_record_batches)]
        address = reader.get_batch(0).column(0).buffers()[1].address
        assert pa.py_buffer(source.read_buffer()).address <= address  # a view of the file, not a decompressed copy
    assert sizes == [BATCH_TOKENS, BATCH_TOKENS, 2_500_001 - 2 * BATCH_TOKENS]
    assert file.stat().st_size >= 4 * 2_500_001


def test_an_empty_document_is_refused_with_file_and_row(tmp_path: Path, model: Path) -> None:
    rows = documents("en", 1, 5, 100)
    rows[3]["text"] = ""
    io = project(tmp_path, model, rows, documents("en", 2, 1, 100))
    message = r"'made-en/3' is empty \(file data/decontaminate/train/documents/made-en-00000.parquet, row 3\)"
    with pytest.raises(StageError, match=message):
        run(Params(BATCH_TOKENS), io)


@pytest.mark.parametrize("empty", ["train", "heldout"])
def test_a_split_without_documents_is_refused(tmp_path: Path, model: Path, empty: str) -> None:
    rows = {"train": documents("en", 1, 2, 100), "heldout": documents("en", 2, 2, 100), empty: []}
    with pytest.raises(StageError, match=f"the {empty} split holds no document"):
        run(Params(BATCH_TOKENS), project(tmp_path, model, rows["train"], rows["heldout"]))


def test_a_document_longer_than_a_shard_is_refused(tmp_path: Path, model: Path) -> None:
    row = documents("en", 1, 1, 10)[0] | {"text": "\n" * BATCH_TOKENS}
    io = project(tmp_path, model, [*documents("zh", 1, 1, 10, source="a"), row], documents("en", 2, 1, 100))
    with pytest.raises(StageError, match=r"'made-en/0' has 1,048,577 tokens, a shard holds 1,048,576 .*row 1"):
        run(Params(BATCH_TOKENS), io)

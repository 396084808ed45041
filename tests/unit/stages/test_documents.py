"""The documents table: how its columns are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import _documents
from stages._errors import StageError


def document(number: int) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_documents.SCHEMA.names)
    row |= {"doc_id": f"s/{number}", "source": "s", "path": str(number), "licence": "MIT", "lang": "en"}
    return row | {"raw_sha256": f"{number:064x}", "text": f"text {number}\n" * 3}


def test_only_columns_whose_values_repeat_have_a_dictionary(tmp_path: Path) -> None:
    rows = [document(number) for number in range(5000)]
    assert _documents.write_shard(tmp_path / "a.parquet", rows) == 5000
    assert list(_documents.read_shard(tmp_path / "a.parquet")) == rows
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    columns = [metadata.row_group(0).column(index) for index in range(metadata.num_columns)]
    without = {column.path_in_schema for column in columns if not column.has_dictionary_page}
    assert {"doc_id", "path", "raw_sha256", "text"} <= without
    assert {column.path_in_schema for column in columns} - without >= {"source", "licence", "lang"}
    assert {column.compression for column in columns} == {"LZ4"}
    assert metadata.num_row_groups == 2


def test_other_tables_have_dictionaries(tmp_path: Path) -> None:
    _documents.write_table(tmp_path / "a.parquet", pa.schema([("doc_id", pa.string())]), [{"doc_id": "s/1"}, {"doc_id": "s/1"}])
    column = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0)
    assert column.has_dictionary_page and column.compression == "ZSTD"


@pytest.mark.parametrize("keep", [0, 30, -9])
def test_a_shard_cut_short_is_named(tmp_path: Path, keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "data/clean/documents/a.parquet"
    _documents.write_shard(file, [document(number) for number in range(50)])
    file.write_bytes(file.read_bytes()[:keep])
    message = r"damaged or cut short: .* \(file data/clean/documents/a\.parquet\)\. Remedy: run `dvc repro`"
    for read in (_documents.read_shard, _documents.read_batches):
        with pytest.raises(StageError, match=message):
            list(read(file))


def test_a_column_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "data/clean/documents/a.parquet"
    _documents.write_shard(file, [document(1)])
    pq.write_table(pq.read_table(file).drop_columns(["lang", "source"]), file)
    with pytest.raises(StageError, match=r"there is no column 'lang' \(file data/clean/documents/a\.parquet\)\. Remedy: run"):
        list(_documents.read_batches(file, ["doc_id", "source", "lang"]))
    assert len(list(_documents.read_batches(file, ["doc_id", "text"]))) == 1


def test_what_the_system_refuses_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(_documents.read_shard(tmp_path / "a.parquet"))


def test_text_that_is_not_utf8_is_named_by_its_row(tmp_path: Path) -> None:
    rows = [document(number) for number in range(5000)]
    _documents.write_shard(tmp_path / "a.parquet", rows)
    table = pq.read_table(tmp_path / "a.parquet")
    content = [row["text"].encode() for row in rows]
    content[4321] = b"half \xe4\xb8"
    broken = pa.Array.from_buffers(pa.large_string(), len(content), pa.array(content, pa.large_binary()).buffers())
    table = table.set_column(table.schema.get_field_index("text"), table.schema.field("text"), broken)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(StageError, match=r"text is not UTF-8 \(unexpected end of data\) \(file .*a\.parquet, row 4321\)"):
        list(_documents.read_shard(tmp_path / "a.parquet"))


def test_an_error_of_who_reads_is_no_damage(tmp_path: Path) -> None:
    _documents.write_shard(tmp_path / "a.parquet", [document(1)])
    with pytest.raises(pa.ArrowInvalid, match="mine"):
        for _ in _documents.read_batches(tmp_path / "a.parquet"):
            raise pa.ArrowInvalid("mine")

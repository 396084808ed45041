"""The documents table: how its columns are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages import _documents


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

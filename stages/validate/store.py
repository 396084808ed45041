"""Facts about single documents, kept in DuckDB on the disk: they may be more than memory holds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from stages.validate.expect import FRAME


class Store:
    """Tables of facts that suites fill while they stream, and ask in SQL afterwards; gone when it is closed."""

    def __init__(self, max_memory: int) -> None:
        import duckdb

        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        settings: dict[str, Any] = {"memory_limit": f"{max_memory // 2**20 + 64}MiB", "temp_directory": str(folder / "spill")}
        self._connection = duckdb.connect(str(folder / "facts.duckdb"), config=settings)
        self._tables: set[str] = set()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()
        self._folder.cleanup()

    def add(self, table: str, rows: pa.Table) -> None:
        """Append rows; the first ones set the columns."""
        self._connection.register("incoming", rows)
        verb = f"INSERT INTO {table}" if table in self._tables else f"CREATE TABLE {table} AS"
        self._connection.execute(f"{verb} SELECT * FROM incoming").fetchall()
        self._connection.unregister("incoming")
        self._tables.add(table)

    def count(self, table: str, where: str = "true") -> int:
        """Rows of a table that fulfil a condition; none where nothing was ever added."""
        if table not in self._tables:
            return 0
        [[number]] = self._connection.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchall()
        return int(number)

    def ask(self, query: str) -> Iterator[pa.Table]:
        """The answer, in parts."""
        reader = self._connection.cursor().sql(query).to_arrow_reader(FRAME)
        yield reader.schema.empty_table()
        for batch in reader:
            yield pa.Table.from_batches([batch])

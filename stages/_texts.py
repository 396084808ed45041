"""Text as it lies in the columns of document shards: what feeds SentencePiece makes no Python string of it.

Work is cut at row groups, so that neither many small shards nor a few large ones decide how well it spreads over workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from stages import _storage
from stages._errors import StageError

_BATCH_BYTES = 1 << 21  # of text: what a worker holds at a time; the pages of more memory cost more than the call for less


@dataclass(frozen=True)
class Part:
    """A row group of a shard.

    Attributes:
        shard: its address.
        name: what messages call it: its path in the project.
        group: number of the row group.
        row: number of its first row in the shard.
        bytes: of text, by the shard's own account.
        batch: rows to read at a time.
    """

    shard: str
    name: str
    group: int
    row: int
    bytes: int
    batch: int


def parts(shards: Sequence[str], folder: str) -> list[Part]:
    """The row groups of `shards`, in order, without empty ones.

    Raises:
        StageError: a shard of `folder` is damaged or cut short.
    """
    found = []
    for shard in shards:
        name = f"{folder}/{shard.rpartition('/')[2]}"
        try:
            with pq.ParquetFile(_source(shard)) as table:
                metadata, column = table.metadata, table.schema_arrow.get_field_index("text")
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(name, error) from error
        row = 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            size = metadata.row_group(group).column(column).total_uncompressed_size
            batch = min(max(rows * _BATCH_BYTES // max(size, 1), 1), 4096)
            if rows:
                found.append(Part(shard, name, group, row, size, batch))
            row += rows
    return found


def read(part: Part, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(number of its first row in the shard, record batch) of a part; the column `text` is valid UTF-8.

    Raises:
        StageError: the shard is damaged or cut short, or a text is not UTF-8.
    """
    row, batches = part.row, _batches(part, columns)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(part.name, error) from error
        if batch is None:
            return
        _check(batch["text"], part.name, row)
        yield row, batch
        row += len(batch)


def _batches(part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(_source(part.shard), pre_buffer=_storage.is_remote(part.shard)) as table:
        yield from table.iter_batches(part.batch, row_groups=[part.group], columns=list(columns), use_threads=False)


def _source(shard: str) -> object:
    return _storage.open_input(shard) if _storage.is_remote(shard) else shard


def _damaged(name: str, error: Exception) -> Exception:
    """What to raise for a shard that Parquet cannot read; what the system or the sandbox refuses stays what it is."""
    if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
        return error
    return StageError(f"damaged or cut short: {error}", file=name, remedy="run `dvc repro`, which makes it anew")


def _check(text: pa.LargeStringArray, name: str, row: int) -> None:
    try:
        text.validate(full=True)
    except pa.ArrowInvalid as error:
        for number, content in enumerate(text.cast(pa.large_binary()).to_pylist()):
            try:
                content.decode()
            except UnicodeDecodeError as wrong:
                remedy = "repair or drop it where it enters the corpus: the tokenizer would replace these bytes in silence"
                raise StageError(f"text is not UTF-8 ({wrong.reason})", file=name, row=row + number, remedy=remedy) from wrong
        raise _damaged(name, error) from error

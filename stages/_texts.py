"""Text as it lies in the columns of document shards: what feeds SentencePiece makes no Python string of it.

Work is cut at row groups, so that neither many small shards nor a few large ones decide how well it spreads over workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.tokenizer import Tokenizer
from stages import _storage
from stages._errors import StageError, damaged

MODEL = "data/tokenizer/tokenizer.model"
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
        StageError: a shard of `folder` is damaged or cut short, or has no text.
    """
    found = []
    for shard in shards:
        name = f"{folder}/{shard.rpartition('/')[2]}"
        try:
            with pq.ParquetFile(_source(shard)) as table:
                metadata, schema = table.metadata, table.schema_arrow
        except (pa.ArrowInvalid, OSError) as error:
            raise damaged(error, name) from error
        _require(["text"], schema, name)
        column, row = schema.get_field_index("text"), 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            size = metadata.row_group(group).column(column).total_uncompressed_size
            batch = min(max(rows * _BATCH_BYTES // max(size, 1), 1), 4096)
            if rows:
                found.append(Part(shard, name, group, row, size, batch))
            row += rows
    return found


def read(part: Part, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(number of its first row in the shard, record batch) of a part; the column `text` is valid UTF-8, and never empty.

    Args:
        part: the row group.
        columns: `doc_id` and `text` among them.

    Raises:
        StageError: the shard is damaged, cut short or without one of the columns, or a text is empty or not UTF-8.
    """
    row, batches = part.row, _batches(part, columns)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowInvalid, OSError) as error:
            raise damaged(error, part.name) from error
        if batch is None:
            return
        _require(columns, batch.schema, part.name)
        _check(batch["text"], part.name, row)
        if (empty := pc.index(pc.binary_length(batch["text"]), 0).as_py()) >= 0:
            raise StageError(
                f"document {batch['doc_id'][empty].as_py()!r} is empty",
                file=part.name,
                row=row + empty,
                remedy="drop it in the clean stage: an empty document would be a bare end-of-document token",
            )
        yield row, batch
        row += len(batch)


def _batches(part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(_source(part.shard), pre_buffer=_storage.is_remote(part.shard)) as table:
        yield from table.iter_batches(part.batch, row_groups=[part.group], columns=list(columns), use_threads=False)


def _source(shard: str) -> object:
    return _storage.open_input(shard) if _storage.is_remote(shard) else shard


def _require(columns: Iterable[str], schema: pa.Schema, name: str) -> None:
    missing = [column for column in columns if column not in schema.names]
    if missing:
        raise StageError(f"there is no column {missing[0]!r}", file=name, remedy="run `dvc repro`, which makes it anew")


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
        raise damaged(error, name) from error


def load_tokenizer(address: str) -> Tokenizer:
    """The tokenizer at an address.

    Raises:
        StageError: the model file is damaged, or not ours.
    """
    with _storage.open_input(address) as stream:
        content = stream.read()
    try:
        return Tokenizer(MODEL, content)
    except ValueError as error:
        raise StageError(f"the tokenizer cannot be used: {error}", remedy="run `dvc repro --force tokenizer`") from error

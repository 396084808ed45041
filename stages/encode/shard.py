"""Encodes one token shard: what a worker does with the parts of the documents that lie in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from model.tokenizer import Tokenizer
from stages import _storage, _texts
from stages._errors import StageError

BATCH_TOKENS = 2**20  # of every record batch but a shard's last: a reader finds a token by arithmetic
TOKENS = pa.schema([pa.field("token", pa.int32(), nullable=False)])
_NAMES = ("doc_id", "source", "lang", "licence")
ENCODED = pa.schema([*(pa.field(name, pa.string()) for name in _NAMES), ("length", pa.int32()), ("bytes", pa.int64())])


@dataclass(frozen=True)
class ShardTask:
    """Encode one shard.

    Attributes:
        parts: what goes into it, in order.
        tokenizer: address of the model file.
        tokens: address of the shard to write: an uncompressed Arrow IPC file, which a reader can memory-map.
        documents: address of the table to write: Arrow IPC, a row of `ENCODED` for each document.
    """

    parts: tuple[_texts.Part, ...]
    tokenizer: str
    tokens: str
    documents: str


def encode_shard(task: ShardTask) -> dict[str, dict[str, int]]:
    """Write the shard and the table of its documents, and return documents, tokens and bytes by language.

    Raises:
        StageError: a document is empty or not UTF-8, or a shard of documents is damaged.
    """
    tokenizer = _tokenizer(task.tokenizer)
    described = []
    with _storage.atomic_output(task.tokens) as stream, pa.ipc.new_file(stream, TOKENS) as writer:
        tokens = _Tokens(writer)
        for part in task.parts:
            for row, batch in _texts.read(part, [*_NAMES, "text"]):
                text = batch["text"].cast(pa.large_binary())
                size = pc.binary_length(text).to_numpy()
                if not size.all():
                    raise _empty(batch, int(size.argmin()), part, row)
                ids = tokenizer.encode_batch(text.to_pylist(), eod=True)
                tokens.add(ids)
                length = pa.array(map(len, ids), pa.int32(), size=len(ids))
                columns = [*(batch[name] for name in _NAMES), length, pa.array(size, pa.int64())]
                described.append(pa.record_batch(columns, schema=ENCODED))
        tokens.close()
    table = pa.concat_batches(described)
    with _storage.atomic_output(task.documents) as stream, pa.ipc.new_file(stream, ENCODED) as writer:
        writer.write_batch(table)
    return _totals(table)


def read_documents(address: str) -> pa.RecordBatch:
    """The table of a shard's documents."""
    with _storage.open_input(address) as stream, pa.ipc.open_file(stream) as reader:
        return reader.get_batch(0)


@lru_cache(maxsize=1)
def _tokenizer(address: str) -> Tokenizer:
    """A worker encodes many shards: it loads the model once."""
    with _storage.open_input(address) as stream:
        return Tokenizer(address, stream.read())


class _Tokens:
    """Writes tokens as they come in record batches of exactly `BATCH_TOKENS`, but for the last."""

    def __init__(self, writer: pa.ipc.RecordBatchFileWriter) -> None:
        self._writer = writer
        self._waiting: list[npt.NDArray[np.int32]] = []
        self._count = 0

    def add(self, documents: Sequence[npt.NDArray[np.int32]]) -> None:
        """Append documents."""
        self._waiting += documents
        self._count += sum(map(len, documents))
        if self._count >= BATCH_TOKENS:
            self._write(self._count // BATCH_TOKENS * BATCH_TOKENS)

    def close(self) -> None:
        """Write what waits."""
        self._write(self._count)

    def _write(self, count: int) -> None:
        tokens = np.concatenate([*self._waiting, np.empty(0, np.int32)])
        for start in range(0, count, BATCH_TOKENS):
            column = pa.array(tokens[start : min(start + BATCH_TOKENS, count)])
            self._writer.write_batch(pa.record_batch([column], schema=TOKENS))
        self._waiting, self._count = [tokens[count:].copy()], len(tokens) - count


def _empty(batch: pa.RecordBatch, number: int, part: _texts.Part, row: int) -> StageError:
    return StageError(
        f"document {batch['doc_id'][number].as_py()!r} is empty",
        file=part.name,
        row=row + number,
        remedy="drop it in the clean stage: an empty document would be a bare end-of-document token",
    )


def _totals(table: pa.RecordBatch) -> dict[str, dict[str, int]]:
    found = {}
    for lang in pc.unique(table["lang"]).to_pylist():
        mine = table.filter(pc.equal(table["lang"], lang))
        found[lang] = {
            "documents": len(mine),
            "tokens": pc.sum(mine["length"]).as_py(),
            "bytes": pc.sum(mine["bytes"]).as_py(),
        }
    return found

"""Encodes one token shard: what a worker does with the parts of the documents that lie in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from model.tokenizer import Tokenizer, may_hold_blank
from stages import _storage, _texts

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
        StageError: a document is empty or not UTF-8, or a shard of documents or the tokenizer is damaged.
    """
    tokenizer = _tokenizer(task.tokenizer)
    described = []
    with _storage.atomic_output(task.tokens) as stream, pa.ipc.new_file(stream, TOKENS) as writer:
        tokens = _Tokens(writer)
        for part in task.parts:
            for _, batch in _texts.read(part, [*_NAMES, "text"]):
                text = batch["text"].cast(pa.large_binary())
                ids = tokenizer.encode_batch(text.to_pylist(), eod=True, blanks=may_hold_blank(_bytes(text)))
                length = np.fromiter(map(len, ids), np.int32, len(ids))
                tokens.add(ids, int(length.sum()))
                columns = [*(batch[name] for name in _NAMES), pa.array(length), pc.binary_length(text)]
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
    return _texts.load_tokenizer(address)


def _bytes(text: pa.LargeBinaryArray) -> npt.NDArray[np.uint8]:
    """All texts of a column, one behind the other."""
    _, places, data = text.buffers()
    begin, end = np.frombuffer(places, np.int64)[[text.offset, text.offset + len(text)]].tolist()
    return np.frombuffer(data, np.uint8)[begin:end]


class _Tokens:
    """Writes tokens as they come in record batches of exactly `BATCH_TOKENS`, but for the last; all through the same pages."""

    def __init__(self, writer: pa.ipc.RecordBatchFileWriter) -> None:
        self._writer = writer
        self._waiting = np.empty(2 * BATCH_TOKENS, np.int32)
        self._count = 0

    def add(self, documents: Sequence[npt.NDArray[np.int32]], count: int) -> None:
        """Append documents, of `count` tokens together."""
        if self._count + count > len(self._waiting):
            self._waiting = np.concatenate([self._waiting[: self._count], np.empty(2 * count, np.int32)])
        np.concatenate(documents, out=self._waiting[self._count : self._count + count])
        whole = (self._count + count) // BATCH_TOKENS * BATCH_TOKENS
        self._write(whole)
        self._count += count - whole
        if whole:
            self._waiting[: self._count] = self._waiting[whole : whole + self._count]  # numpy sees to it where they overlap

    def close(self) -> None:
        """Write what waits."""
        self._write(self._count)

    def _write(self, count: int) -> None:
        for start in range(0, count, BATCH_TOKENS):
            column = pa.array(self._waiting[start : min(start + BATCH_TOKENS, count)])
            self._writer.write_batch(pa.record_batch([column], schema=TOKENS))


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

"""Turns the documents into token shards, with a table that says where each document lies.

Reads:    data/decontaminate (train/documents, heldout/documents), data/tokenizer/tokenizer.model
Writes:   data/encode: {train,heldout}-00000.arrow ..., {train,heldout}.documents.parquet
Params:   encode
Promises: documents in the order of the documents files, each its tokens followed by `eod`; no document crosses a shard;
          offsets count over all shards of the split; memory does not grow with the corpus; threads never change a token

GLM-130B kept one flat int32 file cut blindly into rows of 2,000 tokens, and with it lost which document a token came from
(data_utils of its training code). The table beside the shards is what lets a sample name its documents.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.tokenizer import Tokenizer
from stages._documents import document_files, read_shard, write_table
from stages._params import Range
from stages._runner import StageError, StageIO, run_stage

SPLITS = ("train", "heldout")
BATCH_TOKENS = 2**20
TOKENS = pa.schema([pa.field("token", pa.int32(), nullable=False)])
DOCUMENTS = pa.schema(
    [
        pa.field("doc_index", pa.int64(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
_GROUP_BYTES = 4_000_000  # text encoded at a time: enough to keep every thread busy, small beside any memory


@dataclass(frozen=True)
class Params:
    """Section `encode` of params.yaml."""

    shard_tokens: Annotated[int, Range(BATCH_TOKENS, 2**40)]


class ShardWriter:
    """Appends documents to `<split>-<number>.arrow`: uncompressed Arrow IPC files that a reader can memory-map."""

    def __init__(self, folder: Path, split: str, shard_tokens: int) -> None:
        self.folder, self.split, self.shard_tokens = folder, split, shard_tokens
        self.shard, self.offset = 0, 0
        self._in_shard = 0
        self._waiting: list[npt.NDArray[np.int32]] = []
        self._waiting_tokens = 0
        self._open()

    def add(self, ids: npt.NDArray[np.int32]) -> tuple[int, int]:
        """Append one document and return its shard and the offset of its first token."""
        if self._in_shard and self._in_shard + len(ids) > self.shard_tokens:
            self.close()
            self.shard += 1
            self._in_shard = 0
            self._open()
        place = self.shard, self.offset
        self._waiting.append(ids)
        self._waiting_tokens += len(ids)
        self._in_shard += len(ids)
        self.offset += len(ids)
        if self._waiting_tokens >= BATCH_TOKENS:
            self._flush(self._waiting_tokens // BATCH_TOKENS * BATCH_TOKENS)
        return place

    def close(self) -> None:
        """Write what waits and finish the file."""
        self._flush(self._waiting_tokens)
        self._writer.close()

    def _open(self) -> None:
        self._writer = pa.ipc.new_file(self.folder / f"{self.split}-{self.shard:05d}.arrow", TOKENS)

    def _flush(self, count: int) -> None:
        tokens = np.concatenate(self._waiting) if self._waiting else np.empty(0, dtype=np.int32)
        for start in range(0, count, BATCH_TOKENS):
            part = tokens[start : min(start + BATCH_TOKENS, count)]
            self._writer.write_batch(pa.record_batch([pa.array(part, type=pa.int32())], schema=TOKENS))
        self._waiting, self._waiting_tokens = [tokens[count:]], len(tokens) - count


def documents(files: Iterable[Path], name: str) -> Iterator[dict[str, Any]]:
    """All documents of `files`, in order.

    Raises:
        StageError: a document without text; `name` is the folder that the message names.
    """
    for file in files:
        for row, document in enumerate(read_shard(file)):
            if not document["text"]:
                raise StageError(
                    f"document {document['doc_id']!r} is empty",
                    file=f"{name}/{file.name}",
                    row=row,
                    remedy="drop it in the clean stage: an empty document would be a bare end-of-document token",
                )
            yield document


def groups(items: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Consecutive documents of about `_GROUP_BYTES` characters together."""
    group: list[dict[str, Any]] = []
    size = 0
    for item in items:
        group.append(item)
        size += len(item["text"])
        if size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def encoded(
    items: Iterable[dict[str, Any]], tokenizer: Tokenizer, threads: int
) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.int32]]]:
    """Each document with its tokens, `eod` last."""
    end = np.array([tokenizer.special.eod], dtype=np.int32)
    for group in groups(items):
        for item, ids in zip(group, tokenizer.encode_batch([item["text"] for item in group], threads), strict=True):
            yield item, np.concatenate([ids, end])


def table(pairs: Iterable[tuple[dict[str, Any], npt.NDArray[np.int32]]], writer: ShardWriter) -> Iterator[dict[str, Any]]:
    """Write each document's tokens and give its row of the documents table.

    Raises:
        StageError: a document is longer than a shard.
    """
    for index, (document, ids) in enumerate(pairs):
        if len(ids) > writer.shard_tokens:
            raise StageError(
                f"document {document['doc_id']!r} has {len(ids):,} tokens, a shard holds {writer.shard_tokens:,}",
                file=f"data/decontaminate/{writer.split}",
                row=index,
                remedy="raise encode.shard_tokens, or cut the document where it enters the corpus",
            )
        shard, offset = writer.add(ids)
        yield {
            "doc_index": index,
            **{name: document[name] for name in ("doc_id", "source", "lang", "licence")},
            "shard": shard,
            "offset": offset,
            "length": len(ids),
            "bytes": len(document["text"].encode()),
        }


def encode_split(split: str, params: Params, io: StageIO, tokenizer: Tokenizer) -> dict[str, Any]:
    """Encode one split and return its counts."""
    name = f"data/decontaminate/{split}"
    files = document_files(io.input(name))
    writer = ShardWriter(io.output, split, params.shard_tokens)
    totals: dict[str, Counter[str]] = {}

    def rows() -> Iterator[dict[str, Any]]:
        pairs = encoded(documents(files, f"{name}/documents"), tokenizer, os.cpu_count() or 1)
        with io.progress(f"encoding {split}", unit="bytes") as progress:
            for row in table(pairs, writer):
                counter = totals.setdefault(row["lang"], Counter())
                counter.update(documents=1, tokens=row["length"], bytes=row["bytes"])
                progress.advance(row["bytes"])
                yield row

    if not write_table(io.output / f"{split}.documents.parquet", DOCUMENTS, rows()):
        raise StageError(f"the {split} split holds no document", file=name, remedy="look at the counts of the stages before")
    writer.close()
    return {"shards": writer.shard + 1, "tokens": writer.offset, "by_language": {lang: dict(totals[lang]) for lang in totals}}


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Encode both splits."""
    tokenizer = Tokenizer(io.input("data/tokenizer/tokenizer.model"))
    return {split: encode_split(split, params, io, tokenizer) for split in SPLITS}


if __name__ == "__main__":
    run_stage("encode", Params, run)

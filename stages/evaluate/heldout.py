"""Token shards and their documents table, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages._runner import StageError


@dataclass(frozen=True)
class Split:
    """Documents of one split, end to end; each is its tokens followed by `eod`.

    Attributes:
        tokens: int32, all documents.
        start: int64 [documents + 1], where each begins, then the end of the last.
        doc_id, lang, source: one entry a document.
        bytes: int64, UTF-8 bytes of each text.
        share: part of the split's tokens that was read.
    """

    tokens: NDArray[np.int32]
    start: NDArray[np.int64]
    doc_id: NDArray[np.str_]
    lang: NDArray[np.str_]
    source: NDArray[np.str_]
    bytes: NDArray[np.int64]
    share: float

    def __len__(self) -> int:
        return len(self.doc_id)

    def text_tokens(self, document: int) -> NDArray[np.int32]:
        """Tokens of a document without its `eod`."""
        return self.tokens[self.start[document] : self.start[document + 1] - 1]


def read_split(folder: Path, split: str, most_tokens: int) -> Split:
    """Every n-th document of a split, n as small as `most_tokens` allows (1: all of them).

    Raises:
        StageError: shards and table do not belong together.
    """
    table = pq.read_table(folder / f"{split}.documents.parquet")
    total = int(table["length"].to_numpy().sum())
    table = table.take(np.arange(0, len(table), max(1, -(-total // most_tokens))))
    shards = []
    for file in sorted(folder.glob(f"{split}-*.arrow")):
        with pa.memory_map(str(file)) as source:
            shards.append(pa.ipc.open_file(source).read_all()["token"])
    stream = pa.chunked_array([chunk for shard in shards for chunk in shard.chunks], type=pa.int32())
    if len(stream) != total:
        raise StageError(
            f"documents hold {total} tokens, shards {len(stream)}",
            file=f"data/encode/{split}.documents.parquet",
            remedy="run `dvc repro --force encode`",
        )
    length = table["length"].to_numpy().astype(np.int64)
    pieces = [stream.slice(at, size).to_numpy() for at, size in zip(table["offset"].to_pylist(), length.tolist(), strict=True)]
    return Split(
        tokens=np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32),
        start=np.concatenate([[0], np.cumsum(length)]).astype(np.int64),
        **{name: np.array(table[name].to_pylist(), dtype=np.str_) for name in ("doc_id", "lang", "source")},
        bytes=table["bytes"].to_numpy(),
        share=float(length.sum()) / total if total else 1.0,
    )

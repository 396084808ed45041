"""Token shards and their documents table, as arrays; of large splits only the documents that are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages._runner import StageError

Strings = NDArray[np.str_]
Numbers = NDArray[np.int64]
Choose = Callable[[Strings, Strings, Numbers], Numbers]  # rows of the table, from doc_id, lang and length of all of them


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
    start: Numbers
    doc_id: Strings
    lang: Strings
    source: Strings
    bytes: Numbers
    share: float

    def __len__(self) -> int:
        return len(self.doc_id)

    def text_tokens(self, document: int) -> NDArray[np.int32]:
        """Tokens of a document without its `eod`."""
        return self.tokens[self.start[document] : self.start[document + 1] - 1]


def every_nth(most_tokens: int) -> Choose:
    """Every n-th document, n as small as `most_tokens` allows."""

    def choose(doc_id: Strings, lang: Strings, length: Numbers) -> Numbers:
        return np.arange(0, len(length), max(1, -(-int(length.sum()) // most_tokens)))

    return choose


def drawn(tokens: int, seed: int) -> Choose:
    """Documents of each language in the order of their digests until they hold `tokens` tokens; the rows ascend.

    With the same seed, the documents of a smaller draw are among those of a larger one.
    """

    def choose(doc_id: Strings, lang: Strings, length: Numbers) -> Numbers:
        rows: list[int] = []
        for language in sorted(set(lang.tolist())):
            mine = np.flatnonzero(lang == language).tolist()
            mine.sort(key=lambda row: hashlib.sha256(f"{seed}/{doc_id[row]}".encode()).digest())
            before = np.cumsum([0, *length[mine]])[:-1]
            rows += [row for row, held in zip(mine, before.tolist(), strict=True) if held < tokens]
        return np.array(sorted(rows), dtype=np.int64)

    return choose


def read_split(folder: Path, split: str, choose: Choose) -> Split:
    """The documents of a split that `choose` picks.

    Raises:
        StageError: shards and table do not belong together.
    """
    table = pq.read_table(folder / f"{split}.documents.parquet")
    doc_id, lang, source = (np.array(table[name].to_pylist(), dtype=np.str_) for name in ("doc_id", "lang", "source"))
    length = table["length"].to_numpy().astype(np.int64)
    stream = _token_stream(folder, split)
    if len(stream) != length.sum():
        raise StageError(
            f"documents hold {length.sum()} tokens, shards {len(stream)}",
            file=f"data/encode/{split}.documents.parquet",
            remedy="run `dvc repro --force encode`",
        )
    rows = choose(doc_id, lang, length)
    offset = table["offset"].to_numpy()
    pieces = [stream.slice(int(offset[row]), int(length[row])).to_numpy() for row in rows]
    return Split(
        tokens=np.concatenate([np.empty(0, dtype=np.int32), *pieces]),
        start=np.concatenate([[0], np.cumsum(length[rows])]).astype(np.int64),
        doc_id=doc_id[rows],
        lang=lang[rows],
        source=source[rows],
        bytes=table["bytes"].to_numpy()[rows],
        share=float(length[rows].sum() / max(length.sum(), 1)),
    )


def _token_stream(folder: Path, split: str) -> pa.ChunkedArray:
    """All shards of a split, memory-mapped, as one column."""
    chunks = []
    for file in sorted(folder.glob(f"{split}-*.arrow")):
        with pa.memory_map(str(file)) as source:
            chunks += pa.ipc.open_file(source).read_all()["token"].chunks
    return pa.chunked_array(chunks, type=pa.int32())

"""Suite "tokens": the token shards and the table that says where each document lies in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model.tokenizer import PIECES, SPECIAL, Tokenizer
from stages import _documents
from stages._runner import StageIO
from stages.validate.documents import SIDES
from stages.validate.expect import Suite, Table, between, in_set, zero
from stages.validate.params import Params

_ROWS = 4096
_NAMES = ("doc_id", "source", "lang", "licence", "bytes")
Ids = NDArray[np.int64]


class TokenShards:
    """The tokens of a split by place, from memory-mapped shards."""

    def __init__(self, folder: Path, side: str) -> None:
        files = sorted(folder.glob(f"{side}-*.arrow"))
        shards = [pa.ipc.open_file(pa.memory_map(str(file))).read_all()["token"] for file in files]
        self._chunks = [chunk.to_numpy() for shard in shards for chunk in shard.chunks]
        self._start = np.cumsum([0, *map(len, self._chunks)], dtype=np.int64)
        self.shard_start = np.cumsum([0, *map(len, shards)], dtype=np.int64)
        self.total = int(self._start[-1])

    def take(self, places: Ids) -> NDArray[np.int32]:
        """The tokens at some places; -1 for a place that is none."""
        found = np.full(len(places), -1, np.int32)
        chunk = np.searchsorted(self._start, places, side="right") - 1
        known = (places >= 0) & (places < self.total)
        for number in np.unique(chunk[known]).tolist():
            mine = known & (chunk == number)
            found[mine] = self._chunks[number][places[mine] - self._start[number]]
        return found


def ranges(start: Ids, length: Ids) -> tuple[Ids, Ids]:
    """(which range, place) of every place of the ranges [start, start + length), one range after the other."""
    length = np.maximum(length, 0)
    of_range = np.repeat(np.arange(len(start)), length)
    first = np.cumsum(length) - length
    return of_range, np.arange(len(of_range)) - first[of_range] + start[of_range]


class Encoded:
    """Both splits as encode left them, beside the documents that they were made of."""

    def __init__(self, encode: Path, split: Path, tokenizer: Tokenizer) -> None:
        self._encode, self._split, self._tokenizer = encode, split, tokenizer
        self._byte_piece = np.array([tokenizer.is_byte(piece) for piece in range(tokenizer.piece_count)] or [False])
        self._totals: dict[tuple[str, str], Counter[str]] = {}
        self._covered = dict.fromkeys(SIDES, 0)
        self._shards = {side: TokenShards(encode, side) for side in SIDES}

    def documents(self) -> Iterator[pa.Table]:
        """One row for each row of the documents tables."""
        for side in SIDES:
            made_of = _Rows(self._split / side)
            row = 0
            for batch in _documents.read_batches(self._encode / f"{side}.documents.parquet", rows=_ROWS):
                yield self._measure(side, batch, made_of.take(len(batch)), row)
                row += len(batch)

    def languages(self) -> Iterator[pa.Table]:
        """One row for each split and language: tokens, bytes of text for each, share of tokens that are single bytes."""
        rows = [
            {
                "part": f"{side} {lang}",
                "tokens": total["tokens"],
                "bytes_per_token": total["bytes"] / max(1, total["tokens"]),
                "byte_share": total["byte_pieces"] / max(1, total["tokens"]),
            }
            for (side, lang), total in self._totals.items()
        ]
        yield pa.Table.from_pylist(rows)

    def splits(self) -> Iterator[pa.Table]:
        """One row for each split: tokens that the table of documents covers, tokens in the shards, and the difference."""
        yield pa.Table.from_pylist(
            [
                {"split": side, "covered": covered, "tokens": total, "difference": covered - total}
                for side, covered in self._covered.items()
                for total in [self._shards[side].total]
            ]
        )

    def _measure(self, side: str, batch: pa.RecordBatch, made_of: pa.Table, row: int) -> pa.Table:
        shards = self._shards[side]
        offset, length = (batch[name].to_numpy().astype(np.int64) for name in ("offset", "length"))
        ends = np.concatenate([[self._covered[side]], offset + length])
        self._covered[side] = int(ends[-1])
        room = np.clip(shards.total - offset, 0, length)  # a wrong length must not ask for more memory than there are tokens
        document, places = ranges(offset, room)
        tokens = shards.take(places)
        last = places == (offset + length - 1)[document]

        def number(flags: NDArray[np.bool_]) -> Ids:
            return np.bincount(document[flags], minlength=len(batch))

        known = (tokens >= 0) & (tokens < self._tokenizer.piece_count)
        byte_pieces = number(known & self._byte_piece[np.where(known, tokens, 0)])
        self._count(side, batch, length, byte_pieces)
        shard = np.searchsorted(shards.shard_start, offset, side="right") - 1
        whole = np.searchsorted(shards.shard_start, offset + length - 1, side="right") - 1
        columns: dict[str, Any] = {
            "doc_id": batch["doc_id"],
            "length": length,
            "index_gap": batch["doc_index"].to_numpy() - np.arange(row, row + len(batch)),
            "offset_gap": offset - ends[:-1],
            "in_named_shard": (shard == batch["shard"].to_numpy()) & (shard == whole),
            "outside_vocabulary": number(~known),
            "ends_with_eod": number(last & (tokens == SPECIAL.eod)) == 1,
            "special_tokens_inside": number(known & ~last & (tokens < len(PIECES))),
            "as_in_split": _equal(batch, made_of),
        }
        return pa.table(
            {name: pa.array(column) if isinstance(column, np.ndarray) else column for name, column in columns.items()}
        )

    def _count(self, side: str, batch: pa.RecordBatch, length: Ids, byte_pieces: Ids) -> None:
        languages, sizes = np.array(batch["lang"].to_pylist(), dtype=object), batch["bytes"].to_numpy()
        for lang in pc.unique(batch["lang"]).to_pylist():
            mine = languages == lang
            total = self._totals.setdefault((side, str(lang)), Counter())
            total.update(tokens=int(length[mine].sum()), bytes=int(sizes[mine].sum()), byte_pieces=int(byte_pieces[mine].sum()))


class _Rows:
    """The documents of a side in their order, as many at a time as are asked for."""

    def __init__(self, folder: Path) -> None:
        self._batches = self._read(_documents.document_files(folder))
        self._waiting = pa.table({name: [] for name in _NAMES})

    def take(self, count: int) -> pa.Table:
        """The next `count` documents; rows of nulls where there are no more."""
        parts = [self._waiting]
        have = len(self._waiting)
        while have < count and (batch := next(self._batches, None)) is not None:
            parts.append(batch)
            have += len(batch)
        table = pa.concat_tables([part for part in parts if len(part)] or parts, promote_options="permissive")
        self._waiting = table.slice(count)
        missing = pa.table({name: pa.nulls(max(0, count - have)) for name in _NAMES})
        return pa.concat_tables([table.slice(0, count), missing], promote_options="permissive")

    def _read(self, files: Iterable[Path]) -> Iterator[pa.Table]:
        for file in files:
            for batch in _documents.read_batches(file, ["doc_id", "source", "lang", "licence", "text"]):
                size = pc.cast(pc.binary_length(batch["text"].cast(pa.large_binary())), pa.int64())
                yield pa.table({name: size if name == "bytes" else batch[name] for name in _NAMES})


def _equal(batch: pa.RecordBatch, made_of: pa.Table) -> NDArray[np.bool_]:
    same = np.ones(len(batch), np.bool_)
    for name in _NAMES:
        wanted = made_of[name].cast(batch[name].type).combine_chunks()
        same &= pc.fill_null(pc.equal(batch[name], wanted), False).to_numpy(zero_copy_only=False)
    return same


def suite(params: Params, io: StageIO, tokenizer: Tokenizer) -> Suite:
    """The suite."""
    reader = Encoded(io.input("data/encode"), io.input("data/decontaminate"), tokenizer)
    return Suite(
        "tokens",
        [
            Table("documents", "doc_id", reader.documents),
            Table("languages", "part", reader.languages),
            Table("splits", "split", reader.splits),
        ],
        [
            in_set("documents", "as_in_split", [True]),
            *zero("documents", "index_gap", "offset_gap", "outside_vocabulary", "special_tokens_inside"),
            between("documents", "length", 2, None),
            in_set("documents", "in_named_shard", [True]),
            in_set("documents", "ends_with_eod", [True]),
            between("languages", "byte_share", 0, params.max_byte_share),
            *zero("splits", "difference"),
        ],
    )

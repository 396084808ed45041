"""Suite "instructions": every instruction sample can be packed, and its document is a training document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.tokenizer import PIECES, SPECIAL, Tokenizer
from stages import _documents
from stages._runner import StageIO
from stages.validate.expect import Suite, Table, between, in_set, zero
from stages.validate.params import Params
from stages.validate.store import Store

_COLUMNS = ["sample_id", "lang", "licence", "doc_id", "doc_index", "prompt_ids", "target_ids"]


class Instructions:
    """The samples beside the tables of what stands behind them: training documents, then labelled rows of files."""

    def __init__(self, instruct: Path, encode: Path, vocabulary: int, store: Store) -> None:
        self._file, self._vocabulary, self._store = instruct / "samples.parquet", vocabulary, store
        self._documents = [encode / "train.documents.parquet", instruct / "documents.parquet"]

    def samples(self) -> Iterator[pa.Table]:
        """One row for each sample."""
        columns = ["doc_id", "licence"]
        train = pa.concat_tables([pq.read_table(file, columns=columns) for file in self._documents])
        for batch in _documents.read_batches(self._file, _COLUMNS):
            self._store.add("instructions", pa.Table.from_batches([batch.select(["sample_id"])]))
            yield self._measure(batch, train)

    def names(self) -> Iterator[pa.Table]:
        """One row for each name of a sample, with the number of samples that bear it."""
        if self._store.count("instructions"):
            query = "SELECT sample_id, count(*) AS samples FROM instructions GROUP BY sample_id ORDER BY sample_id"
            yield from self._store.ask(query)

    def _measure(self, batch: pa.RecordBatch, train: pa.Table) -> pa.Table:
        prompt, prompt_of, prompt_length = _ragged(batch["prompt_ids"])
        target, target_of, target_length = _ragged(batch["target_ids"])
        rows = len(batch)

        def number(of_row: NDArray[np.int64], flags: NDArray[np.bool_]) -> NDArray[np.int64]:
            return np.bincount(of_row[flags], minlength=rows)

        last = np.cumsum(prompt_length) - 1
        ends = np.zeros(rows, np.bool_)
        ends[prompt_length > 0] = prompt[last[prompt_length > 0]] == SPECIAL.mask
        outside = [number(of, (ids < 0) | (ids >= self._vocabulary)) for ids, of in ((prompt, prompt_of), (target, target_of))]
        special = number(target_of, target < len(PIECES)) + number(prompt_of, (prompt < len(PIECES)) & (prompt != SPECIAL.mask))
        index = batch["doc_index"].to_numpy()
        known = (index >= 0) & (index < len(train))
        named = train.take(pa.array(np.where(known, index, 0))) if len(train) else train
        same = known.copy()
        for name in ("doc_id", "licence"):
            same &= pc.fill_null(pc.equal(named[name].combine_chunks(), batch[name]), False).to_numpy(zero_copy_only=False)
        columns = {
            "outside_vocabulary": outside[0] + outside[1],
            "masks": number(prompt_of, prompt == SPECIAL.mask),
            "ends_with_mask": ends,
            "special_tokens": special,
            "target_tokens": target_length,
            "document_known": same,
        }
        table = pa.table({"sample_id": batch["sample_id"], "lang": batch["lang"]})
        for name, column in columns.items():
            table = table.append_column(name, pa.array(column))
        return table


def _ragged(column: pa.ListArray) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All values, the row of each, and the number of each row's."""
    length = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    return column.flatten().to_numpy().astype(np.int64), np.repeat(np.arange(len(column)), length), length


def suite(params: Params, io: StageIO, tokenizer: Tokenizer, store: Store) -> Suite:
    """The suite."""
    reader = Instructions(io.input("data/instruct"), io.input("data/encode"), tokenizer.piece_count, store)
    return Suite(
        "instructions",
        [Table("samples", "sample_id", reader.samples), Table("names", "sample_id", reader.names)],
        [
            *zero("samples", "outside_vocabulary", "special_tokens"),
            between("samples", "masks", 1, 1),
            in_set("samples", "ends_with_mask", [True]),
            between("samples", "target_tokens", 1, None),
            in_set("samples", "document_known", [True]),
            in_set("samples", "lang", params.languages),
            between("names", "samples", 1, 1),
        ],
    )

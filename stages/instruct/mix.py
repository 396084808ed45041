"""Words chosen examples and writes them: samples, the rows behind those that come from files, and counts by data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.tokenizer import Tokenizer
from stages._params import to_plain
from stages.instruct.choosing import Choice
from stages.instruct.fitting import Worded, fit_all
from stages.instruct.params import Dataset, Params
from stages.instruct.rows import File

SAMPLES = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("template", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("doc_index", pa.int64(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("target_ids", pa.list_(pa.int32()), nullable=False),
    ]
)
DOCUMENTS = pa.schema(
    [
        pa.field("doc_index", pa.int64(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("raw_sha256", pa.string(), nullable=False),
    ]
)
_ROWS = 4096


@dataclass(frozen=True)
class Pending:
    """A worded example that waits to be fitted, with its place."""

    choice: Choice
    template: str
    document: Mapping[str, Any]
    number: int
    worded: Worded
    texts: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """What became of a data set's examples."""

    counts: Counter[str] = field(default_factory=Counter)
    templates: Counter[str] = field(default_factory=Counter)
    overlaps: Counter[str] = field(default_factory=Counter)
    licences: set[str] = field(default_factory=set)
    files: list[File] = field(default_factory=list)
    available: int = 0


class Tables:
    """The two tables under construction, written in row groups of 4,096."""

    def __init__(self, folder: Path) -> None:
        self._writers = {
            name: (schema, pq.ParquetWriter(folder / f"{name}.parquet", schema, compression="zstd"))
            for name, schema in (("samples", SAMPLES), ("documents", DOCUMENTS))
        }
        self._waiting: dict[str, list[dict[str, Any]]] = {name: [] for name in self._writers}
        self.rows: Counter[str] = Counter()

    def add(self, table: str, row: dict[str, Any]) -> None:
        """Append a row."""
        self._waiting[table].append(row)
        self.rows[table] += 1
        if len(self._waiting[table]) == _ROWS:
            self._flush(table)

    def close(self) -> None:
        """Write what is waiting."""
        for table, (_, writer) in self._writers.items():
            self._flush(table)
            writer.close()

    def _flush(self, table: str) -> None:
        schema, writer = self._writers[table]
        writer.write_batch(pa.RecordBatch.from_pylist(self._waiting[table], schema=schema))
        self._waiting[table] = []


class Mix:
    """Fits what is waiting, some thousand examples at a time, and counts it."""

    def __init__(self, params: Params, tokenizer: Tokenizer, tables: Tables, threads: int = 1) -> None:
        self.params, self._tokenizer, self._tables, self._threads = params, tokenizer, tables, threads
        self.tallies = {dataset.name: Tally() for dataset in params.datasets}

    def write(self, waiting: list[Pending], doc_index: Mapping[str, int]) -> dict[str, int]:
        """Write samples; the tokens of the longest of each document."""
        lengths: dict[str, int] = {}
        fitted = fit_all([pending.worded for pending in waiting], self._tokenizer, self.params, self._threads)
        for pending, fit in zip(waiting, fitted, strict=True):
            dataset, document = pending.choice.dataset, pending.document
            tally = self.tallies[dataset.name]
            tally.counts.update(samples=1, texts_cut=fit.text_cut, targets_cut=fit.target_cut)
            tally.templates[pending.template] += 1
            tally.licences.add(document["licence"])
            doc_id = document["doc_id"]
            lengths[doc_id] = max(lengths.get(doc_id, 0), len(fit.prompt_ids) + len(fit.target_ids))
            self._tables.add(
                "samples",
                {
                    "sample_id": f"{dataset.name}/{doc_id}/{pending.number}",
                    "dataset": dataset.name,
                    "licence": document["licence"],
                    "lang": dataset.lang,
                    "template": pending.template,
                    "doc_id": doc_id,
                    "doc_index": doc_index[doc_id],
                    **{name: getattr(fit, name) for name in ("prompt", "target", "prompt_ids", "target_ids")},
                },
            )
        return lengths

    def registry(self) -> list[dict[str, Any]]:
        """One entry per data set: what it is, under which licences, how much of it there is, what was taken and cut."""
        return [self._entry(dataset, self.tallies[dataset.name]) for dataset in self.params.datasets]

    def _entry(self, dataset: Dataset, tally: Tally) -> dict[str, Any]:
        names = ("samples", "texts_cut", "targets_cut", "passed", "unworded", "overlapping")
        return {
            **to_plain(dataset),
            "licences": sorted(tally.licences),
            "available": tally.available,
            **{name: tally.counts[name] for name in names},
            "overlaps": dict(tally.overlaps),
            "templates_used": dict(tally.templates),
            "files_read": [{"file": file.label, "sha256": file.sha256, "bytes": file.bytes} for file in tally.files],
        }

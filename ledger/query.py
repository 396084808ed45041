"""Questions to the ledger of a project folder: what made a checkpoint, who saw a document, what one step trained on.

Nothing is logged per sample. The order formula gives the rows of packed samples that a stretch of training consumed, the
journal which stretches count, `data/pack/pieces-*.parquet` the documents behind a row. Numpy does the sums, DuckDB the
look-ups, both without a Python loop over samples.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ledger import LedgerError
from ledger.journal import Journal, Segment
from ledger.order import Int64
from ledger.plan import DataPlan

_CHUNK = 1 << 22  # consumption indices turned into rows at once


@dataclass(frozen=True)
class Sighting:
    """What one checkpoint (or an abandoned segment that left none) was shown of a document.

    Attributes:
        checkpoint: its name; None for an abandoned segment without one, whose own steps alone are counted.
        segment: number of the journal's segment that left it.
        status: "kept", "abandoned", or "left behind" where training later went back behind it.
        exposures: consumed samples that hold a part of the document.
        tokens: tokens of the document in them.
        steps: the steps that consumed them, ascending, each once.
    """

    checkpoint: str | None
    segment: int
    status: str
    exposures: int
    tokens: int
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Seen:
    """A document of the training set and every sighting of it, in the order of the journal."""

    doc_id: str
    source: str
    lang: str
    licence: str
    length: int
    sightings: tuple[Sighting, ...]


@dataclass(frozen=True)
class Run:
    """One segment that went over a step: whether it trained on it, and what became of the segment."""

    segment: int
    status: str
    skipped: bool


@dataclass(frozen=True)
class StepRecord:
    """What a step consumes.

    Attributes:
        step: number of the step, from 0.
        first_sample, last_sample: its consumption indices, both included.
        runs: the segments that went over the step, in the order of the journal.
        pieces: one row per piece of a document: consumption, row (in the packed samples), doc_id, source, lang, licence,
            doc_offset (its first token inside the document) and length, in the order of consumption.
    """

    step: int
    first_sample: int
    last_sample: int
    runs: tuple[Run, ...]
    pieces: pa.Table


class Ledger:
    """The ledger of one project."""

    def __init__(self, root: Path) -> None:
        """Open it.

        Raises:
            LedgerError: a file is missing or damaged, or the packed samples are not those of the data plan.
        """
        self.root = root
        self.plan = DataPlan.read(root / "data/pretrain/plan.json")
        self.journal = Journal.read(root / "data/pretrain/journal.jsonl")
        manifest = self._file("data/pack/manifest.json")
        if hashlib.sha256(manifest.read_bytes()).hexdigest() != self.plan.pack_manifest_sha256:
            raise LedgerError(
                f"{manifest}: not the packed samples that data/pretrain/plan.json was made for, so no step can be traced. "
                "Remedy: bring both stages to the same version (`dvc repro pretrain`, or `dvc checkout`)"
            )

    def resolve(self, checkpoint: str | Path) -> Segment:
        """The segment that left a checkpoint: given by name, by the SHA-256 of its weights, by its folder or that of an export.

        Raises:
            LedgerError: the journal does not know it; the message lists those that it knows.
        """
        folder = Path(checkpoint)
        if not folder.is_dir():
            return self.journal.path_to(str(checkpoint))[-1]
        records = [folder / name for name in ("manifest.json", "config.json") if (folder / name).is_file()]
        text = "".join(record.read_text(encoding="utf-8") for record in records)
        for segment in reversed(self.journal.segments):
            if segment.weights_sha256 is not None and segment.weights_sha256 in text:
                return segment
        known = ", ".join(self.journal.checkpoints()) or "none"
        raise LedgerError(f"{folder}: names no checkpoint of the journal by the SHA-256 of its weights. Known: {known}")

    def documents(self, checkpoint: str | Path) -> pa.Table:
        """Every document that a checkpoint was trained on, in the order of first exposure.

        Returns:
            Columns doc_id, source, lang, licence, tokens (of the document, over all exposures), exposures (consumed samples
            that hold a part of it), first_step, last_step. Documents that first stand in the same sample follow doc_index.

        Raises:
            LedgerError: unknown checkpoint, or a file is missing or does not belong to the others.
        """
        consumed = self._consumed(self.journal.ancestry(self.resolve(checkpoint)))
        columns = ["doc_id", "source", "lang", "licence"]
        documents = pa.concat_tables([_read(file, columns) for file in self._document_files()])
        pieces = self.pieces(["sample", "doc_index", "length"])
        sample, doc_index, length = (pieces[name].to_numpy() for name in ("sample", "doc_index", "length"))
        tally = _tally(consumed, sample, doc_index, length, documents.num_rows)
        (seen,) = np.nonzero(tally.exposures)
        seen = seen[np.argsort(tally.first[seen], kind="stable")]
        found = documents.take(pa.array(seen))
        step_of = self.plan.ramp.step_of
        numbers = {
            "tokens": tally.tokens[seen],
            "exposures": tally.exposures[seen],
            "first_step": step_of(tally.first[seen]),
            "last_step": step_of(tally.last[seen]),
        }
        for name, values in numbers.items():
            found = found.append_column(name, pa.array(values))
        return found

    def seen(self, doc_id: str) -> Seen:
        """Where a document was seen: by every checkpoint of the journal, and on branches that were given up.

        Raises:
            LedgerError: no such document in the training set; the message says what became of it, or names similar ids.
        """
        rows = self._sql("SELECT * FROM documents WHERE doc_id = ?", [doc_id]).to_pylist()
        if not rows:
            raise LedgerError(self.fate(doc_id))
        document = rows[0]
        parts = self._sql(
            "SELECT sample, sum(length)::BIGINT AS tokens FROM pieces WHERE doc_index = ? GROUP BY sample ORDER BY sample",
            [document["doc_index"]],
        )
        segments = self.journal.segments
        until = max((segment.last_sample + 1 for segment in segments), default=0)
        which, consumption = self.plan.order.consumptions(parts["sample"].to_numpy(), until)
        order = np.argsort(consumption)
        consumption, tokens = consumption[order], parts["tokens"].to_numpy()[which[order]]
        trained = [_within(consumption, self.trained([segment])) for segment in segments]
        sightings = []
        for segment in segments:
            ancestry = self.journal.ancestry(segment) if segment.checkpoint else [segment]
            mask = np.logical_or.reduce([trained[ancestor.index] for ancestor in ancestry])
            steps = np.unique(self.plan.ramp.step_of(consumption[mask]))
            status = self._status(segment)
            found = Sighting(
                segment.checkpoint, segment.index, status, int(mask.sum()), int(tokens[mask].sum()), tuple(steps.tolist())
            )
            sightings.append(found)
        fields = {name: document[name] for name in ("doc_id", "source", "lang", "licence", "length")}
        return Seen(**fields, sightings=tuple(sightings))

    def step(self, step: int) -> StepRecord:
        """The samples and documents of one step.

        Raises:
            LedgerError: no segment of the journal went over it.
        """
        segments = [s for s in self.journal.segments if s.first_step <= step <= s.last_step]
        if not segments:
            last = max((segment.last_step for segment in self.journal.segments), default=None)
            raise LedgerError(
                f"no segment of the journal holds step {step}. Steps: " + (f"0 to {last}" if last is not None else "none")
            )
        self.trained(segments)  # refuses segments of another plan
        first, end = self.plan.ramp.consumed([step, step + 1]).tolist()
        consumption = np.arange(first, end)
        consumed = pa.table({"consumption": consumption, "row": self.plan.order.rows(consumption)})
        pieces = self._sql(
            """
            SELECT c.consumption, c.row, d.doc_id, d.source, d.lang, d.licence, p.doc_offset, p.length
            FROM pieces p JOIN consumed c ON c.row = p.sample JOIN documents d ON d.doc_index = p.doc_index
            ORDER BY c.consumption, d.doc_index, p.doc_offset, p.length
            """,
            consumed=consumed,
        )
        runs = tuple(Run(segment.index, self._status(segment), segment.skips(step)) for segment in segments)
        return StepRecord(step, first, end - 1, runs, pieces)

    def pieces(self, columns: list[str]) -> pa.Table:
        """`columns` of the tables that name the documents behind each packed sample, in the order of the samples."""
        return pa.concat_tables([_read(file, columns) for file in self._piece_files()])

    def trained(self, segments: Iterable[Segment]) -> Int64:
        """Consumption indices on which the segments trained, as ascending half-open ranges, shape [n, 2].

        Raises:
            LedgerError: a segment followed another data plan, or its samples are not those of its steps.
        """
        steps: list[tuple[int, int]] = []
        for segment in segments:
            self._check_plan(segment)
            start = segment.first_step
            for first, last in segment.skipped:
                steps.append((start, first))
                start = last + 1
            steps.append((start, segment.last_step + 1))
        return self.plan.ramp.consumed([pair for pair in steps if pair[0] < pair[1]]).reshape(-1, 2)

    def fate(self, doc_id: str) -> str:
        """One sentence on a document that is not in the training set: held out, dropped, duplicate of another, or unknown."""
        if self._find("data/encode/heldout.documents.parquet", doc_id):
            return f"document {doc_id!r} is held out: no checkpoint was trained on it"
        for row in self._find("data/dedup/clusters.parquet", doc_id):
            if not row["survivor"]:
                return (
                    f"document {doc_id!r} was dropped as {row['kind']} duplicate of {row['cluster']!r} "
                    f"(Jaccard {row['jaccard']:.2f}). Remedy: ask for that document, which stayed"
                )
        for row in self._find("data/clean/drops.parquet", doc_id):
            return f"document {doc_id!r} was dropped by the clean stage: {row['reason']} ({row['detail']})"
        for row in self._find("data/decontaminate/hits.parquet", doc_id):
            return f"document {doc_id!r} overlaps with evaluation {row['evaluation']!r}: {row['action']}"
        near = self._sql(
            "SELECT doc_id FROM documents ORDER BY jaro_winkler_similarity(doc_id, ?) DESC, doc_id LIMIT 5", [doc_id]
        )
        return f"no document {doc_id!r} in the training set. Similar: {', '.join(near['doc_id'].to_pylist()) or 'none'}"

    @cached_property
    def _main_line(self) -> frozenset[int]:
        return frozenset(segment.index for segment in self.journal.main_line())

    def _status(self, segment: Segment) -> str:
        return "left behind" if segment.status == "kept" and segment.index not in self._main_line else segment.status

    def _check_plan(self, segment: Segment) -> None:
        where = f"{self.journal.path}, line {segment.index + 1}"
        if segment.plan != self.plan.digest:
            raise LedgerError(
                f"{where}: the segment followed another data plan ({segment.plan[:12]}) than data/pretrain/plan.json "
                f"({self.plan.digest[:12]}), which cannot tell what it saw. Remedy: ask the version of the project that has it"
            )
        samples = self.plan.ramp.consumed([segment.first_step, segment.last_step + 1]).tolist()
        if samples != [segment.first_sample, segment.last_sample + 1]:
            raise LedgerError(
                f"{where}: samples {segment.first_sample} to {segment.last_sample}, but by data/pretrain/plan.json its steps "
                f"take {samples[0]} to {samples[1] - 1}. Remedy: restore both files from the same version"
            )

    def _consumed(self, segments: list[Segment]) -> _Consumed:
        """How often and when each packed sample was consumed by the segments."""
        size = self.plan.order.samples * self.plan.order.epochs
        count, first, last = np.zeros(size, np.int32), np.zeros(size, np.int64), np.zeros(size, np.int64)
        for start, end in _chunks(self.trained(segments), self.plan.order.samples):
            consumption = np.arange(start, end)
            rows = self.plan.order.rows(consumption)  # within one epoch, so no row stands twice
            new = count[rows] == 0
            first[rows[new]] = consumption[new]
            last[rows] = consumption
            count[rows] += 1
        return _Consumed(count, first, last)

    def _sql(self, query: str, parameters: list[Any] | None = None, **tables: pa.Table) -> pa.Table:
        """Run a query over the pieces, the train documents and the given tables."""
        import duckdb

        with duckdb.connect() as connection:
            for name, files in (("pieces", self._piece_files()), ("documents", self._document_files())):
                patterns = [glob.escape(str(file)) for file in files]  # DuckDB reads file names as patterns
                connection.read_parquet(patterns, union_by_name=True).create_view(name)
            for name, table in tables.items():
                connection.register(name, table)
            return connection.sql(query, params=parameters).to_arrow_table()

    def _find(self, path: str, doc_id: str) -> list[dict[str, Any]]:
        """Rows about a document in one of the tables that tell what became of it; none where the stage left no table."""
        file = self.root / path
        if not file.is_file():
            return []
        rows: list[dict[str, Any]] = _read(file, filters=[("doc_id", "=", doc_id)]).to_pylist()
        return rows

    def _document_files(self) -> list[Path]:
        """The tables of what is trained on, numbered through: training documents, then labelled rows of instruction samples."""
        return [self._file("data/encode/train.documents.parquet"), self._file("data/instruct/documents.parquet")]

    def _piece_files(self) -> list[Path]:
        """Every table of pieces that there must be: one that is absent must not hide documents."""
        file = self._file("data/pack/pack.json")
        facts = json.loads(file.read_text(encoding="utf-8"))
        try:
            shards = -(-facts["samples_per_epoch"] * facts["epochs"] // facts["shard_samples"])
        except KeyError as error:
            raise LedgerError(f"{file}: no {error}. Remedy: run `dvc repro pack`") from error
        return [self._file(f"data/pack/pieces-{shard:05d}.parquet") for shard in range(shards)]

    def _file(self, path: str) -> Path:
        file = self.root / path
        if not file.is_file():
            raise LedgerError(f"{file}: no such file. Remedy: run `dvc repro` or `dvc pull`; is this the project's folder?")
        return file


@dataclass(frozen=True)
class _Consumed:
    """By packed sample: number of times it was consumed, first and last consumption index (0 where never)."""

    count: npt.NDArray[np.int32]
    first: Int64
    last: Int64


@dataclass(frozen=True)
class _Tally:
    """By document: consumed samples that hold a part of it, its tokens in them, first and last consumption index."""

    exposures: Int64
    tokens: Int64
    first: Int64
    last: Int64


def _tally(consumed: _Consumed, sample: Int64, doc_index: Int64, length: npt.NDArray[np.int32], documents: int) -> _Tally:
    """Sum up by document over the pieces; a sample that holds two pieces of a document exposes it once."""
    shown = consumed.count[sample] > 0
    sample, doc_index, length = sample[shown], doc_index[shown], length[shown]
    tokens, exposures, last = (np.zeros(documents, np.int64) for _ in range(3))
    first = np.full(documents, np.iinfo(np.int64).max)
    np.add.at(tokens, doc_index, consumed.count[sample] * length.astype(np.int64))
    np.minimum.at(first, doc_index, consumed.first[sample])
    np.maximum.at(last, doc_index, consumed.last[sample])
    pair = np.sort(sample * documents + doc_index, kind="stable")  # nearly sorted as it is: pieces follow the samples
    sample, doc_index = np.divmod(pair[np.diff(pair, prepend=-1) > 0], documents)
    np.add.at(exposures, doc_index, consumed.count[sample])
    return _Tally(exposures, tokens, first, last)


def _read(file: Path, columns: list[str] | None = None, filters: list[tuple[str, str, str]] | None = None) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(file, columns=columns, filters=filters)


def _within(values: Int64, ranges: Int64) -> npt.NDArray[np.bool_]:
    """Which of `values` lie in one of the ascending half-open `ranges`."""
    return np.asarray(np.searchsorted(ranges.ravel(), values, side="right") % 2 == 1)


def _chunks(ranges: Int64, samples: int) -> Iterator[tuple[int, int]]:
    """The ranges cut at the ends of epochs, and into pieces of bounded length."""
    for first, end in ranges.tolist():
        start = first
        while start < end:
            stop = min(end, start + _CHUNK, (start // samples + 1) * samples)
            yield start, stop
            start = stop

"""Questions to the ledger of a project folder: what made a checkpoint, who saw a document, what one step trained on.

Nothing is logged per sample. The order formula gives the rows of packed samples that a stretch of training consumed, the
journal which stretches count, the document table (`ledger.table`, made from `data/pack/pieces-*.parquet`) the documents
behind a row, and the rows that hold a document. Numpy does all of it, without a Python loop over samples.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Iterator, Sequence
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
from ledger.query.match import Match, Request, find
from ledger.query.stream import Training
from ledger.query.trace import Fate, fates
from ledger.table.documents import DocumentTable
from ledger.table.sources import Sources

_TEXT = [("doc_id", pa.string()), ("source", pa.string()), ("lang", pa.string()), ("licence", pa.string())]
_COUNTS = [(name, pa.int64()) for name in ("tokens", "exposures", "first_step", "last_step")]
_CODES = [(name, pa.dictionary(pa.int32(), pa.string())) for name in ("source", "lang", "licence")]
_LOOKED_UP = 1 << 17  # samples
DOCUMENTS = pa.schema([*_TEXT, *_COUNTS])
NUMBERED = pa.schema([("doc_index", pa.int64()), *_CODES, *_COUNTS])
PIECES = pa.schema(
    [("consumption", pa.int64()), ("row", pa.int64()), *_TEXT, ("doc_offset", pa.int64()), ("length", pa.int64())]
)


@dataclass(frozen=True)
class Sighting:
    """What one checkpoint (or an abandoned segment that left none) was shown of one document, or of several together.

    Attributes:
        checkpoint: its name; None for an abandoned segment without one, whose own steps alone are counted.
        segment: number of the journal's segment that left it.
        status: "kept", "abandoned", or "left behind" where training later went back behind it.
        documents: how many of them it was shown.
        exposures: consumed samples that hold a part of any.
        tokens: their tokens in these.
        first_step, last_step: of the steps that consumed them; None where there is none.
        steps: these steps, ascending, each once.
    """

    checkpoint: str | None
    segment: int
    status: str
    documents: int
    exposures: int
    tokens: int
    first_step: int | None
    last_step: int | None
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
class Found:
    """A document that a request means.

    Attributes:
        match: how the document was found.
        fate: what became of it.
        stayed: what became of the document that stayed in its place; `fate` itself, where it is no dropped copy.
        seen: who saw that one; None where nobody was to.
    """

    match: Match
    fate: Fate
    stayed: Fate
    seen: Seen | None


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
        self.root, self.sources = root, Sources(root)
        self.plan = DataPlan.read(root / "data/pretrain/plan.json")
        self.journal = Journal.read(root / "data/pretrain/journal.jsonl")
        manifest = self.sources.file("data/pack/manifest.json")
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
        return pa.Table.from_batches(self.stream(checkpoint), DOCUMENTS)

    def stream(self, checkpoint: str | Path, names: bool = True) -> Iterator[pa.RecordBatch]:
        """`documents`, a batch at a time, in memory that grows by a byte a document.

        Args:
            checkpoint: as everywhere.
            names: whether to name documents by doc_id, which takes what all ids take; else by doc_index.
        """
        training = Training(self.table, self.plan, self.trained(self.journal.ancestry(self.resolve(checkpoint))))
        ids = self.sources.all_names() if names else None
        step_of = self.plan.ramp.step_of
        for shown in training.in_order():
            numbers = [shown.tokens, shown.exposures, step_of(shown.first), step_of(shown.last)]
            name = pa.array(shown.doc_index) if ids is None else ids.take(shown.doc_index)
            columns = [name, *self._groups(shown.doc_index, names), *map(pa.array, numbers)]
            schema = DOCUMENTS if names else NUMBERED
            yield pa.record_batch(columns, schema=schema)

    def consumptions(self, doc_index: npt.ArrayLike) -> tuple[Int64, Int64, Int64]:
        """When documents, given by number, were consumed, on whatever branch.

        Returns:
            `which` (position in `doc_index`), consumption index and tokens of every exposure, by position.
        """
        parts = self.table.parts_of(doc_index)
        until = max((segment.last_sample + 1 for segment in self.journal.segments), default=0)
        found = [(np.empty(0, np.int64),) * 3]
        for start in range(0, len(parts.row), _LOOKED_UP):
            which, consumption = self.plan.order.consumptions(parts.row[start : start + _LOOKED_UP], until)
            found.append((parts.which[start + which], consumption, parts.tokens[start + which]))
        which, consumption, tokens = (np.concatenate(column) for column in zip(*found, strict=True))
        return which, consumption, tokens

    def seen(self, doc_id: str) -> Seen:
        """Where a document was seen: by every checkpoint of the journal, and on branches that were given up.

        Raises:
            LedgerError: no such document in the training set; the message says what became of it, or names similar ids.
        """
        rows = self._sql("SELECT * FROM documents WHERE doc_id = ?", [doc_id]).to_pylist()
        if not rows:
            raise LedgerError(self.fate(doc_id))
        return self._seen(rows[0]["doc_index"])

    def _seen(self, doc_index: int) -> Seen:
        document = self._sql("SELECT * FROM documents WHERE doc_index = ?", [doc_index]).to_pylist()[0]
        fields = {name: document[name] for name in ("doc_id", "source", "lang", "licence", "length")}
        return Seen(**fields, sightings=self.sightings([doc_index]))

    def sightings(self, doc_index: npt.ArrayLike) -> tuple[Sighting, ...]:
        """What every segment of the journal was shown of documents, given by number and taken together."""
        segments = self.journal.segments
        which, consumption, tokens = self.consumptions(doc_index)
        trained = [_within(consumption, self.trained([segment])) for segment in segments]
        found = []
        for segment in segments:
            ancestry = self.journal.ancestry(segment) if segment.checkpoint else [segment]
            shown = np.logical_or.reduce([trained[ancestor.index] for ancestor in ancestry])
            samples = np.unique(consumption[shown])
            steps = np.unique(self.plan.ramp.step_of(samples)).tolist()
            found.append(
                Sighting(
                    checkpoint=segment.checkpoint,
                    segment=segment.index,
                    status=self.status(segment),
                    documents=len(np.unique(which[shown])),
                    exposures=len(samples),
                    tokens=int(tokens[shown].sum()),
                    first_step=steps[0] if steps else None,
                    last_step=steps[-1] if steps else None,
                    steps=tuple(steps),
                )
            )
        return tuple(found)

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
        rows = self.plan.order.rows(consumption)
        held = self.table.pieces_of(rows)
        columns: list[Any] = [consumption[held.which], rows[held.which], self.sources.names(held.doc_index)]
        columns += [*self._groups(held.doc_index, True), held.doc_offset, held.length]
        pieces = pa.table([pa.array(column) for column in columns], schema=PIECES)
        runs = tuple(Run(segment.index, self.status(segment), segment.skips(step)) for segment in segments)
        return StepRecord(step, first, end - 1, runs, pieces)

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

    def fates(self, doc_ids: Sequence[str]) -> dict[str, Fate]:
        """What became of documents, by name, whether or not they are trained on."""
        return fates(self.root, doc_ids)

    def find(self, request: Request) -> list[Found]:
        """Documents that an address, a domain, a text, a hash or a name means, each with what became of it and who saw it.

        A copy that was dropped is answered with the sightings of the document that stayed in its place.
        """
        matches = find(self.root, [request])[0]
        known = self.fates([match.doc_id for match in matches])
        survivors = self.fates([fate.survivor for fate in known.values() if fate.survivor is not None])
        found = []
        for match in matches:
            fate = known[match.doc_id]
            stayed = survivors[fate.survivor] if fate.survivor is not None else fate
            seen = self._seen(stayed.doc_index) if stayed.doc_index is not None else None
            found.append(Found(match, fate, stayed, seen))
        return found

    def fate(self, doc_id: str) -> str:
        """One sentence on a document that is not in the training set: held out, dropped, duplicate of another, or unknown."""
        fate = self.fates([doc_id])[doc_id]
        if fate.outcome == "held out":
            return f"document {doc_id!r} is held out: no checkpoint was trained on it"
        if fate.outcome == "duplicate":
            return f"document {doc_id!r} was dropped as {fate.detail}. Remedy: ask for that document, which stayed"
        if fate.outcome == "dropped":
            return f"document {doc_id!r} was dropped {fate.detail}"
        if fate.outcome == "contaminated":
            return f"document {doc_id!r} {fate.detail}"
        if fate.outcome != "unknown":
            return f"document {doc_id!r} was {fate.outcome}: {fate.detail}"
        near = self._sql(
            "SELECT doc_id FROM documents ORDER BY jaro_winkler_similarity(doc_id, ?) DESC, doc_id LIMIT 5", [doc_id]
        )
        return f"no document {doc_id!r} in the training set. Similar: {', '.join(near['doc_id'].to_pylist()) or 'none'}"

    @cached_property
    def _main_line(self) -> frozenset[int]:
        return frozenset(segment.index for segment in self.journal.main_line())

    def status(self, segment: Segment) -> str:
        """`kept`, `abandoned`, or `left behind` where training later went back behind a kept one."""
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

    @cached_property
    def table(self) -> DocumentTable:
        """The table behind the answers, made at the first question; see `ledger.table.documents`."""
        table = self.sources.table()
        if (table.samples, table.epochs) != (self.plan.order.samples, self.plan.order.epochs):
            raise LedgerError(
                f"{self.root / 'data/pack/pack.json'}: {table.epochs} epochs of {table.samples} samples, but "
                f"data/pretrain/plan.json has {self.plan.order.epochs} of {self.plan.order.samples}. Remedy: `dvc checkout`"
            )
        return table

    def _groups(self, doc_index: Int64, plain: bool) -> list[pa.Array]:
        """source, lang and licence of documents; dictionaries, unless they are to be plain."""
        numbers = pa.array(self.table.groups[doc_index].astype(np.int32))
        columns = [pa.DictionaryArray.from_arrays(numbers, pa.array(names)) for names in zip(*self.table.names, strict=True)]
        return [column.cast(pa.string()) for column in columns] if plain else columns

    def _sql(self, query: str, parameters: list[Any]) -> pa.Table:
        """Run a query over the documents that are trained on."""
        import duckdb

        with duckdb.connect() as connection:
            patterns = [glob.escape(str(file)) for file in self.sources.documents()]  # DuckDB reads file names as patterns
            connection.read_parquet(patterns, union_by_name=True).create_view("documents")
            return connection.sql(query, params=parameters).to_arrow_table()


def _within(values: Int64, ranges: Int64) -> npt.NDArray[np.bool_]:
    """Which of `values` lie in one of the ascending half-open `ranges`."""
    return np.asarray(np.searchsorted(ranges.ravel(), values, side="right") % 2 == 1)

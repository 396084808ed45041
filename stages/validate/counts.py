"""Suite "counts": nothing is lost between stages but what a rule counted, and similar documents stand on one side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages import _documents
from stages._runner import StageIO
from stages.validate.documents import SIDES
from stages.validate.expect import Suite, Table, between
from stages.validate.params import Params
from stages.validate.store import Store

_FATES = ("dropped", "emptied", "duplicate", "contaminated", "taken down", *SIDES)
_STEPS = {"corpus": "data/corpus", "clean": "data/clean", "dedup": "data/dedup"}


class Counts:
    """The ids of every stage and the fates of its documents, compared in `store`, which already knows the split."""

    def __init__(self, io: StageIO, store: Store) -> None:
        self._io, self._store = io, store

    def fates(self) -> Iterator[pa.Table]:
        """One row for each document: how often it is in the corpus, and how often it met its fate; both must be once."""
        self._fill()
        yield from self._store.ask(
            """SELECT coalesce(ids.doc_id, met.doc_id) AS doc_id, coalesce(in_corpus, 0) AS in_corpus,
                      coalesce(fates, 0) AS fates, coalesce(fate, '') AS fate
               FROM (SELECT doc_id, count(*) AS in_corpus FROM ids WHERE stage = 'corpus' GROUP BY doc_id) AS ids
               FULL JOIN (SELECT doc_id, count(*) AS fates, string_agg(fate, '+' ORDER BY fate) AS fate
                          FROM met GROUP BY doc_id) AS met
               ON ids.doc_id = met.doc_id ORDER BY 1"""
        )

    def groups(self) -> Iterator[pa.Table]:
        """One row for each group of similar documents, with the number of sides on which its members stand: at most one."""
        return self._store.ask(
            """SELECT "group", count(DISTINCT side) AS sides FROM
               (SELECT "group", doc_id FROM clusters UNION SELECT "group", cluster FROM clusters)
               LEFT JOIN split USING (doc_id) GROUP BY "group" ORDER BY "group" """
        )

    def steps(self) -> Iterator[pa.Table]:
        """For each step the documents before it, kept, removed, and the difference, which must be zero."""
        before = {stage: self._store.count("ids", f"stage = '{stage}'") for stage in _STEPS}
        met = {fate: self._store.count("met", f"fate = '{fate}'") for fate in _FATES}
        encoded = {side: _rows(self._io.input(f"data/encode/{side}.documents.parquet")) for side in SIDES}
        steps = {
            "clean": (before["corpus"], before["clean"], met["dropped"]),
            "dedup": (before["clean"], before["dedup"], met["duplicate"] + met["emptied"]),
            "decontaminate": (before["dedup"], met["train"] + met["heldout"], met["contaminated"] + met["taken down"]),
            **{f"encode {side}": (met[side], encoded[side], 0) for side in SIDES},
        }
        yield pa.Table.from_pylist(
            [
                {"step": step, "before": a, "kept": b, "removed": c, "difference": a - b - c, "kept_share": b / max(1, a)}
                for step, (a, b, c) in steps.items()
            ]
        )

    def _fill(self) -> None:
        """The store's tables `ids` (of each stage's documents), `clusters`, and `met` (every fate of every document)."""
        for stage, folder in _STEPS.items():
            for file in _documents.document_files(self._io.input(folder)):
                self._copy(file, "ids", ["doc_id"], "stage", stage)
        self._copy(self._io.input("data/dedup/clusters.parquet"), "clusters", ["doc_id", "cluster", "survivor", "group"])
        self._copy(self._io.input("data/decontaminate/hits.parquet"), "hits", ["doc_id", "action"])
        self._copy(self._io.input("data/clean/drops.parquet"), "met", ["doc_id"], "fate", "dropped")
        queries = [
            "SELECT doc_id, 'duplicate' AS fate FROM clusters WHERE NOT survivor",
            "SELECT DISTINCT doc_id, 'contaminated' AS fate FROM hits WHERE action = 'remove'",
            "SELECT doc_id, side AS fate FROM split",
        ]
        dedup = self._io.input("data/dedup")
        if (dedup / "passages.parquet").is_file():  # dedup removed copies of passages, and with them whole documents
            self._copy(dedup / "passages.parquet", "passages", ["doc_id", "emptied"])
            queries.append("SELECT doc_id, 'emptied' AS fate FROM passages WHERE emptied")
        if (self._io.input("data/decontaminate") / "takedowns.parquet").is_file():
            taken_down = self._io.input("data/decontaminate/takedowns.parquet")
            self._copy(taken_down, "met", ["doc_id"], "fate", "taken down")
        for query in queries:
            for rows in list(self._store.ask(query)):
                self._store.add("met", rows)

    def _copy(self, file: Path, table: str, columns: list[str], name: str | None = None, value: str = "") -> None:
        for rows in [pq.read_schema(file).empty_table().select(columns), *_documents.read_batches(file, columns)]:
            part = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
            label = pa.array([value] * len(part), pa.string())
            self._store.add(table, part if name is None else part.append_column(name, label))


def _rows(file: Path) -> int:
    return int(pq.read_metadata(file).num_rows)


def suite(params: Params, io: StageIO, store: Store) -> Suite:
    """The suite; it comes after "documents", which fills the store's table of the split."""
    reader = Counts(io, store)
    return Suite(
        "counts",
        [
            Table("fates", "doc_id", reader.fates),
            Table("groups", "group", reader.groups),
            Table("steps", "step", reader.steps),
        ],
        [
            between("fates", "in_corpus", 1, 1),
            between("fates", "fates", 1, 1),
            between("groups", "sides", None, 1),
            between("steps", "difference", 0, 0),
            between("steps", "kept_share", params.min_kept_share, None),
        ],
    )

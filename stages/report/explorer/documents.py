"""Every document that the page knows: its names, its origin, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages import _takedowns
from stages._documents import document_files
from stages._runner import StageError
from stages.report.corpus import Removal
from stages.report.explorer.columns import Columns
from stages.report.facts import Facts

Int64 = npt.NDArray[np.int64]
_ORIGIN = ("source", "lang", "licence")
_NAMES = ("doc_id", "url", "title", "author", *_ORIGIN)
HELD_OUT = "held out"
_UNKNOWN_ORIGIN = "und"  # language of what no table describes any more: undetermined (ISO 639)
_UNLISTED = "removed; no table of the stages names it"


@dataclass(frozen=True)
class Documents:
    """The documents in the order of the page: those trained on by doc_index, then all others by doc_id.

    Attributes:
        table: doc_id, url, title, author.
        origin: number of each document's (source, lang, licence) in `origins`.
        origins: the different ones, sorted.
        length: tokens of the first `len(length)` documents, which are the training set.
        fate: of the documents behind those, number in `reasons`; `detail` words (why), `other` the place of a document, or -1.
        reasons: why a document was not trained on.
        all: documents that there are; more than in `table` where the page was too small for all.
        place: by doc_index, the place in `table`, or -1.
        trained: by doc_index, the number in `origins`.
    """

    table: pa.Table
    origin: Int64
    origins: list[tuple[str, str, str]]
    length: Int64
    fate: Int64
    detail: list[str]
    other: Int64
    reasons: list[str]
    all: int
    place: Int64
    trained: Int64

    def pack(self, columns: Columns) -> None:
        """Add everything to a page."""
        columns.lines("ids", self.table["doc_id"].to_pylist())
        pairs = zip(self.table["title"].to_pylist(), self.table["author"].to_pylist(), strict=True)
        columns.lines("titles", (" · ".join(filter(None, pair)) for pair in pairs))
        urls = self.table["url"].combine_chunks()
        order = pc.sort_indices(urls).to_numpy()[: len(urls) - urls.null_count]  # nulls stand at the end
        columns.lines("urls", urls.take(pa.array(order)).to_pylist())
        columns.integers("url_document", order)
        columns.integers("origin", self.origin)
        columns.integers("length", self.length)
        columns.integers("fate", self.fate)
        columns.lines("detail", self.detail)
        columns.integers("other", self.other + 1)

    def examples(self) -> list[tuple[str, str]]:
        """(id, what it is an example of): the longest document trained on, and the first of each fate, three in all."""
        found = [(int(np.argmax(self.length)), "trained on")] if self.length.size else []
        for number, reason in enumerate(self.reasons):
            (places,) = np.nonzero(self.fate == number)
            found += [(len(self.length) + int(places[0]), reason)] if places.size else []
        return [(self.table["doc_id"][place].as_py(), words) for place, words in found[:3]]


def read_documents(facts: Facts, removed: Sequence[Removal], most: int) -> Documents:
    """The documents of the corpus and the labelled rows of instruction samples; evenly spaced ones if more than `most`.

    Those that a takedown names stand there in any case: who asks for one shall read that it was removed.

    Raises:
        StageError: a table is absent or damaged, or a training document is not in the corpus.
    """
    corpus = _corpus(facts)
    train = facts.documents(["doc_id", "length", *_ORIGIN])
    labelled = facts.table("data/instruct/documents.parquet", ["doc_id"])
    at = _places(train["doc_id"], corpus["doc_id"])
    texts = train.num_rows - labelled.num_rows
    if (at[:texts] < 0).any():
        lost = train["doc_id"][int(np.flatnonzero(at[:texts] < 0)[0])].as_py()
        raise StageError(
            f"{lost!r} is trained on, but not in the corpus", file="data/corpus/documents", remedy="run `dvc repro encode`"
        )
    named = corpus.select(["url", "title", "author"]).take(pa.array(at, mask=at < 0))
    trained = train.select(["doc_id", *_ORIGIN]).add_column(1, "url", named["url"])
    trained = trained.append_column("title", named["title"]).append_column("author", named["author"]).select(_NAMES)
    rest = np.setdiff1d(np.arange(corpus.num_rows), at[at >= 0])
    taken = _taken_down(facts)
    lost = sorted(taken.keys() - set(corpus["doc_id"].to_pylist()) - set(train["doc_id"].to_pylist()))
    others = pa.concat_tables([corpus.take(pa.array(rest)), _nameless(lost, corpus.schema)]).sort_by("doc_id")
    reasons, fate, detail, other_names = _fates(facts, others["doc_id"], removed, taken)
    whole = pa.concat_tables([trained, others]).combine_chunks()
    number = whole.num_rows
    kept = np.arange(number)
    if number > most:
        asked = np.flatnonzero(pc.is_in(others["doc_id"], pa.array(sorted(taken), pa.string())).to_numpy())
        kept = np.union1d(np.arange(most) * number // most, train.num_rows + asked)
    place = np.full(number, -1)
    place[kept] = np.arange(len(kept))
    behind = kept[kept >= train.num_rows] - train.num_rows
    table = whole.take(pa.array(kept))
    origins, origin = _origins(whole)
    found = _places(pa.chunked_array([pa.array([other_names[index] for index in behind], pa.string())]), table["doc_id"])
    return Documents(
        table=table,
        origin=origin[kept],
        origins=origins,
        length=train["length"].to_numpy().astype(np.int64)[kept[kept < train.num_rows]],
        fate=fate[behind],
        detail=[detail[index] for index in behind],
        other=found,
        reasons=reasons,
        all=number,
        place=place[: train.num_rows],
        trained=origin[: train.num_rows],
    )


def _corpus(facts: Facts) -> pa.Table:
    files = document_files(facts.io.input("data/corpus"))
    if not files:
        raise StageError("no documents", file="data/corpus/documents", remedy="run `dvc repro corpus`")
    tables = []
    for file in files:
        held = pq.ParquetFile(file)
        names = [name for name in _NAMES if name in held.schema_arrow.names]
        table = held.read(columns=names)
        for name in sorted(set(_NAMES) - set(names)):  # a corpus whose sources state no address has no such column
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
        tables.append(table.select(_NAMES))
    return pa.concat_tables(tables)


def _taken_down(facts: Facts) -> dict[str, tuple[str, str]]:
    """(reason, detail) for every document that the tombstone file names, by id; the last takedown that names it."""
    found: dict[str, tuple[str, str]] = {}
    for number, entry in enumerate(_takedowns.of_stage(facts.io).entries, 1):
        said = f"line {number} of takedowns.jsonl, asked for on {entry.date}"
        before = "; an earlier build's checkpoints had been trained on it" if entry.held_by else ""
        found |= {document.doc_id: (f"removed by takedown {number}", said + before) for document in entry.documents}
    return found


def _nameless(names: list[str], schema: pa.Schema) -> pa.Table:
    """Rows for documents of which no table of this build tells any more: labelled rows, or a corpus without them."""
    told = {"doc_id": names, "source": [name.partition("/")[0] for name in names]}
    told |= {"lang": [_UNKNOWN_ORIGIN] * len(names), "licence": ["unknown"] * len(names)}
    return pa.table([pa.array(told.get(field.name, [None] * len(names)), field.type) for field in schema], schema)


def _places(names: pa.ChunkedArray, among: pa.ChunkedArray) -> Int64:
    """Where each of `names` stands in `among`; -1 for nowhere."""
    found = pc.index_in(names, value_set=among, skip_nulls=True)
    return np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64)


def _fates(
    facts: Facts, names: pa.ChunkedArray, removed: Sequence[Removal], taken: dict[str, tuple[str, str]]
) -> tuple[list[str], Int64, list[str], list[str | None]]:
    """(reasons, and for each document the number of its reason, what is said of it, the document it is a copy of)."""
    reasons = [HELD_OUT, *sorted({reason_of(item) for item in removed}), *dict.fromkeys(reason for reason, _ in taken.values())]
    number = {reason: index for index, reason in enumerate(reasons)}
    fate = np.full(len(names), len(reasons), np.int64)
    detail = [""] * len(names)
    other: list[str | None] = [None] * len(names)
    heldout = facts.table("data/encode/heldout.documents.parquet", ["doc_id"])["doc_id"]
    at = _places(heldout, names)
    fate[at[at >= 0]] = 0
    at = _places(pa.chunked_array([pa.array([item.doc_id for item in removed], pa.string())]), names)
    for index, item in zip(at.tolist(), removed, strict=True):
        if index >= 0:
            fate[index], detail[index], other[index] = number[reason_of(item)], item.detail, item.other
    at = _places(pa.chunked_array([pa.array(list(taken), pa.string())]), names)
    for index, (reason, said) in zip(at.tolist(), taken.values(), strict=True):
        if index >= 0 and fate[index] != 0:  # it would still be held out until the next build
            fate[index], detail[index], other[index] = number[reason], said, None
    if (fate == len(reasons)).any():
        reasons.append(_UNLISTED)
    return reasons, fate, detail, other


def reason_of(item: Removal) -> str:
    """Why a document was removed, in words that need no table around them."""
    return f"dropped by the rule {item.reason!r}" if item.last == "corpus" else item.reason


def _origins(table: pa.Table) -> tuple[list[tuple[str, str, str]], Int64]:
    """The different (source, lang, licence), sorted, and the number of each document's."""
    joined = pc.binary_join_element_wise(*(table[name] for name in _ORIGIN), "\x1f").combine_chunks().dictionary_encode()
    spelled = joined.dictionary.to_pylist()
    origins = sorted(spelled)
    number = {name: index for index, name in enumerate(origins)}
    new = np.array([number[name] for name in spelled], np.int64)
    source_lang_licence = [(parts[0], parts[1], parts[2]) for parts in (name.split("\x1f") for name in origins)]
    return source_lang_licence, new[joined.indices.to_numpy()]

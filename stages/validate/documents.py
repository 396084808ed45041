"""Suite "documents": every document of the split by itself, its language's share and lengths, and equal texts."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages import _documents
from stages._runner import StageIO
from stages.validate.expect import Suite, Table, between, in_set, not_null, zero
from stages.validate.params import Params
from stages.validate.store import Store

SIDES = ("train", "heldout")
_CONTROL = np.zeros(256, np.bool_)  # C0 but tab and line feed, and DEL
_CONTROL[[*range(9), *range(11, 32), 127]] = True
_MARK = "\ufffd".encode()


class Documents:
    """The split, read once: the measures of each document, what is summed over them, and what `store` keeps of each."""

    def __init__(self, params: Params, split: Path, store: Store) -> None:
        self._params, self._split, self._store = params, split, store
        self._bytes: dict[str, Counter[str]] = {side: Counter() for side in SIDES}
        self._lengths: dict[str, list[NDArray[np.int64]]] = defaultdict(list)

    def measures(self) -> Iterator[pa.Table]:
        """One row for each document."""
        for side in SIDES:
            for file in _documents.document_files(self._split / side):
                for batch in _documents.read_batches(file, ["doc_id", "source", "lang", "licence", "text"]):
                    table = measure(batch, side)
                    self._remember(table, side)
                    yield table.drop_columns(["sha256"])

    def equal_texts(self) -> Iterator[pa.Table]:
        """One row for each text, with the documents that have it."""
        query = """SELECT min(doc_id) AS doc_id, count(*) AS documents, string_agg(doc_id, ' ' ORDER BY doc_id)[:1000] AS names
                   FROM split GROUP BY sha256 ORDER BY doc_id"""
        return self._store.ask(query)

    def languages(self) -> Iterator[pa.Table]:
        """Training bytes of each language, their share of all, and held-out bytes."""
        train, heldout = (self._bytes[side] for side in SIDES)
        total = max(1, train.total())
        rows = [
            {"lang": lang, "bytes": train[lang], "share": train[lang] / total, "heldout_bytes": heldout[lang]}
            for lang in self._params.languages
        ]
        yield pa.Table.from_pylist(rows)

    def lengths(self) -> Iterator[pa.Table]:
        """One row with the quantiles of the characters of each language's training documents; null where it has none."""
        row: dict[str, int | str | None] = {"side": "train"}
        for lang, bounds in self._params.lengths.items():
            values = np.concatenate([np.zeros(0, np.int64), *self._lengths[lang]])
            for bound in bounds:
                lower = int(np.quantile(values, bound.quantile, method="lower")) if len(values) else None
                row[f"{lang} {bound.quantile}"] = lower
        yield pa.Table.from_pylist([row])

    def _remember(self, table: pa.Table, side: str) -> None:
        self._store.add("split", table.select(["doc_id", "side", "sha256"]))
        for lang in pc.unique(table["lang"]).to_pylist():
            rows = table.filter(pc.equal(table["lang"], lang))
            self._bytes[side][str(lang)] += int(np.sum(rows["bytes"].to_numpy()))
            if side == "train":
                self._lengths[str(lang)].append(rows["characters"].to_numpy())


def measure(batch: pa.RecordBatch, side: str) -> pa.Table:
    """Measures of the texts of a batch in place of the texts, which are read as bytes: Arrow does not check for UTF-8."""
    data = batch["text"].cast(pa.large_binary()).fill_null(b"")
    joined, places = _bytes_of(data)
    continuation = (joined & 0xC0) == 0x80
    c1 = np.zeros(len(joined), np.bool_)  # U+0080 to U+009F: 0xC2 and a continuation byte below 0xA0
    c1[:-1] = (joined[:-1] == 0xC2) & continuation[1:] & (joined[1:] < 0xA0)
    size = np.diff(places)
    characters = size - _sums(continuation, places)
    marks = pc.count_substring(data, _MARK).to_numpy().astype(np.int64)
    columns = {
        "side": pa.array([side] * len(batch), pa.string()),
        "bytes": size,
        "characters": characters,
        "blank": pc.equal(pc.binary_length(pc.ascii_trim_whitespace(_readable(data))), 0),
        "control_characters": _sums(_CONTROL[joined] | c1, places),
        "replacement_share": marks / np.maximum(1, characters),
        "valid_utf8": _valid(batch["text"], data),
        "sha256": pa.array([hashlib.sha256(text.as_buffer()).hexdigest() for text in data], pa.string()),
    }
    pairs = pc.binary_join_element_wise(batch["source"], batch["licence"], ": ")
    table = pa.table({name: batch[name] for name in ("doc_id", "source", "lang", "licence")})
    for name, column in (columns | {"source_licence": pairs}).items():
        table = table.append_column(name, pa.array(column) if isinstance(column, np.ndarray) else column)
    return table


def _bytes_of(data: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All bytes of a large_binary array, and where each value begins and ends among them."""
    _, places, values = data.buffers()
    offsets = np.frombuffer(places, np.int64, len(data) + 1 + data.offset)[data.offset :]
    joined = np.frombuffer(values or b"", np.uint8)[offsets[0] : offsets[-1]]
    return joined, offsets - offsets[0]


def _sums(flags: NDArray[np.bool_], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Set flags between each place and the next."""
    running = np.concatenate([np.zeros(1, np.int64), np.cumsum(flags, dtype=np.int64)])
    return running[places[1:]] - running[places[:-1]]


def _readable(data: pa.Array) -> pa.Array:
    return data.view(pa.large_string())


def _valid(texts: pa.Array, data: pa.Array) -> pa.Array:
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return pa.array([_decodes(text.as_py()) for text in data], pa.bool_())
    return pa.array(np.ones(len(texts), np.bool_))


def _decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def suite(params: Params, io: StageIO, store: Store, licences: Iterable[str]) -> Suite:
    """The suite; `licences` are the register's `source: licence` pairs."""
    reader = Documents(params, io.input("data/decontaminate"), store)
    tables = [
        Table("documents", "doc_id", reader.measures),
        Table("texts", "doc_id", reader.equal_texts),
        Table("languages", "lang", reader.languages),
        Table("lengths", "side", reader.lengths),
    ]
    quantiles = [(f"{lang} {bound.quantile}", bound) for lang, bounds in params.lengths.items() for bound in bounds]
    return Suite(
        "documents",
        tables,
        [
            *not_null("documents", "doc_id", "source", "lang", "licence"),
            in_set("documents", "lang", params.languages),
            in_set("documents", "source_licence", sorted(licences)),
            in_set("documents", "valid_utf8", [True]),
            in_set("documents", "blank", [False]),
            between("documents", "characters", params.min_characters, params.max_characters),
            between("documents", "replacement_share", None, params.max_replacement_share),
            *zero("documents", "control_characters"),
            between("texts", "documents", 1, 1),
            between("languages", "share", params.min_language_share, params.max_language_share),
            between("languages", "bytes", params.min_language_bytes, None),
            between("languages", "heldout_bytes", params.min_heldout_bytes, None),
            *not_null("lengths", *(name for name, _ in quantiles)),
            *(between("lengths", name, bound.low, bound.high) for name, bound in quantiles),
        ],
    )

"""Finds the tables behind the document table, checks that they are whole, and keeps the document table that they give.

It is made at the first question and kept in `.cache/ledger/` of the project, under a name that changes with what it is made
from; where the project cannot be written to, it is made for the process alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ledger import LedgerError
from ledger.order import Int64
from ledger.table.arrays import argsort
from ledger.table.documents import VERSION, DocumentTable
from ledger.table.tabulate import Batch, Described, Groups, tabulate

_ROWS = 1 << 20
_FOOTER = 1 << 16


class Names:
    """Names by number, held in the chunks in which they were read: to make one array of them would take their size again."""

    def __init__(self, chunks: list[pa.Array]) -> None:
        self._chunks = chunks
        self._bounds = np.cumsum([0, *map(len, chunks)])

    def take(self, numbers: Int64) -> pa.Array:
        """The names of some numbers; every chunk is asked once for all that it holds."""
        order = argsort(numbers)
        ascending = numbers.take(order)
        bounds, cuts = self._bounds.tolist(), np.searchsorted(ascending, self._bounds).tolist()
        found = [
            chunk.take(pa.array(ascending[first:end] - base))
            for chunk, base, first, end in zip(self._chunks, bounds, cuts, cuts[1:], strict=False)
            if end > first
        ]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return pa.concat_arrays([*found, pa.array([], pa.string())]).take(pa.array(back))


class Sources:
    """The tables of one project that name documents and what stands in packed samples."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def documents(self) -> list[Path]:
        """The tables of what is trained on, numbered through: training documents, then labelled rows of instruction samples."""
        return [self.file("data/encode/train.documents.parquet"), self.file("data/instruct/documents.parquet")]

    def pieces(self) -> list[Path]:
        """Every table of pieces that there must be: one that is absent, or cut short, must not hide documents.

        Raises:
            LedgerError: one is absent or has another size than the manifest of the packed samples says.
        """
        facts, listed = self.facts, self._manifest["files"]
        shards = -(-facts["samples_per_epoch"] * facts["epochs"] // facts["shard_samples"])
        files = [self.file(f"data/pack/pieces-{shard:05d}.parquet") for shard in range(shards)]
        for file in files:
            known = listed.get(file.name, {}).get("bytes")
            if file.stat().st_size != known:
                raise LedgerError(
                    f"{file}: {file.stat().st_size} bytes, but data/pack/manifest.json lists {known}: cut short or of another "
                    "build. Remedy: run `dvc checkout data/pack`"
                )
        return files

    def file(self, path: str) -> Path:
        """A file of the project.

        Raises:
            LedgerError: there is none.
        """
        file = self.root / path
        if not file.is_file():
            raise LedgerError(f"{file}: no such file. Remedy: run `dvc repro` or `dvc pull`; is this the project's folder?")
        return file

    @cached_property
    def facts(self) -> dict[str, Any]:
        """`data/pack/pack.json`."""
        file = self.file("data/pack/pack.json")
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        missing = [name for name in ("samples_per_epoch", "epochs", "shard_samples") if name not in facts]
        if missing:
            raise LedgerError(f"{file}: no {missing[0]!r}. Remedy: run `dvc repro pack`")
        return facts

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(self.file("data/pack/manifest.json").read_text(encoding="utf-8"))
        return manifest

    def table(self) -> DocumentTable:
        """The document table, made where it is not there yet.

        Raises:
            LedgerError: a table is absent, not the one that its manifest lists, or contradicts the others.
        """
        documents, pieces = self.documents(), self.pieces()
        digest = hashlib.sha256(self.file("data/pack/manifest.json").read_bytes())
        for file in documents:
            digest.update(_footer(file))
        folder = self.root / ".cache/ledger" / f"{VERSION}-{digest.hexdigest()[:24]}"
        if (folder / "table.json").is_file():
            return DocumentTable.load(folder)
        for file in pieces:
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != self._manifest["files"][file.name]["sha256"]:
                    raise LedgerError(
                        f"{file}: not the file that data/pack/manifest.json lists. Remedy: `dvc checkout data/pack`"
                    )
        groups, facts = Groups(), self.facts
        described, batches = _described(documents, groups), _batches(pieces)
        with _keeping(folder) as target:
            return tabulate(target, facts["samples_per_epoch"], facts["epochs"], described, groups, batches)

    def all_names(self) -> Names:
        """doc_id of all documents."""
        import pyarrow.parquet as pq

        columns = [pq.read_table(path, columns=["doc_id"])["doc_id"] for path in self.documents()]
        return Names([chunk.cast(pa.string()) for column in columns for chunk in column.chunks])

    def names(self, doc_index: Int64) -> pa.Array:
        """doc_id of some documents, from the row groups that hold them."""
        import pyarrow.parquet as pq

        order = np.argsort(doc_index, kind="stable")
        ascending, found, base = doc_index[order], [], 0
        for path in self.documents():
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    first, end = np.searchsorted(ascending, [base, base + rows]).tolist()
                    if end > first:
                        column = file.read_row_group(group, ["doc_id"])["doc_id"]
                        found.append(column.take(pa.array(ascending[first:end] - base)).combine_chunks())
                    base += rows
        names = pa.chunked_array(found, pa.string()).combine_chunks()
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return names.take(pa.array(back))


@contextmanager
def _keeping(folder: Path) -> Iterator[Path]:
    """Where to make the table: `folder`, or, in a project that cannot be written to, a place that is gone afterwards.

    What was mapped there stays readable as long as it is mapped.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder.parent, os.W_OK)
    except OSError:
        writable = False
    if writable:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="ledger-") as temporary:
        yield Path(temporary) / folder.name


def _footer(file: Path) -> bytes:
    """Size and end of a Parquet file: its schema, and the place and the range of values of every column chunk."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(max(0, size - _FOOTER))
        return size.to_bytes(8, "little") + stream.read()


def _described(files: list[Path], groups: Groups) -> Iterator[Described]:
    import pyarrow.parquet as pq

    for number, path in enumerate(files):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS, columns=["source", "lang", "licence", "length"]):
                yield Described(batch["length"].to_numpy().astype(np.int64), groups.of(batch), number == 0)


def _batches(files: list[Path]) -> Iterator[Batch]:
    """The pieces of whole samples."""
    import pyarrow.parquet as pq

    rest = Batch(*(np.empty(0, np.int64) for _ in Batch._fields))
    for path in files:
        with pq.ParquetFile(path) as file:
            for part in file.iter_batches(_ROWS, columns=list(Batch._fields)):
                read = [part[name].to_numpy().astype(np.int64) for name in Batch._fields]
                batch = Batch(*(np.concatenate(pair) for pair in zip(rest, read, strict=True)))
                whole = int(np.searchsorted(batch.sample, batch.sample[-1])) if len(batch.sample) else 0
                yield Batch(*(column[:whole] for column in batch))
                rest = Batch(*(column[whole:] for column in batch))
    yield rest

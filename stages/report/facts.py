"""Reads what the stages before left, and says by file and field what is absent; nothing is assumed in its place."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages._manifest import MANIFEST, sha256_file
from stages._runner import StageError, StageIO

_LANGUAGES = {"en": "English", "zh": "Chinese"}


class Facts:
    """The outputs of all stages before this one.

    Attributes:
        io: the stage's hands.
        manifests, digests: manifest of each stage and the SHA-256 of its bytes, in the order of the declared inputs.
    """

    def __init__(self, io: StageIO) -> None:
        """Read the manifests.

        Raises:
            StageError: one is absent or damaged, names another version of its input than the one that lies here, or a file
                that is absent or has another size.
        """
        self.io = io
        folders = [dep for dep in io.deps if dep.startswith("data/")]
        self.manifests: dict[str, dict[str, Any]] = {}
        self.digests: dict[str, str] = {}
        for folder in folders:
            stage, file = Path(folder).name, f"{folder}/{MANIFEST}"
            self.manifests[stage] = self.json(file)
            self.digests[stage] = sha256_file(io.input(file))
        for stage in self.manifests:
            self._check_files(stage)
            for dep, digest in self.of(stage, "inputs").items():
                if self.digests.get(Path(dep).name, digest) != digest:
                    raise StageError(
                        f"stage {stage} was made from another {dep} than the one that lies here",
                        file=f"data/{stage}/{MANIFEST}",
                        remedy=f"bring them to one version: `dvc repro {stage}`, or `dvc checkout`",
                    )

    def _check_files(self, stage: str) -> None:
        """Every file of the manifest lies here with its size; its hash is for `glm lineage verify`, which reads it whole."""
        for name, entry in self.of(stage, "files").items():
            file = self.io.root / "data" / stage / name
            size = file.stat().st_size if file.is_file() else None
            if size != entry["bytes"]:
                raise StageError(
                    "the file is absent" if size is None else f"{size:,} bytes; its manifest says {entry['bytes']:,}",
                    file=f"data/{stage}/{name}",
                    remedy=f"run `dvc checkout data/{stage}`, or `dvc repro --force {stage}`",
                )

    def of(self, stage: str, *keys: str) -> Any:
        """The manifest's value under `keys`; see `at`."""
        return at(self.manifests[stage], f"data/{stage}/{MANIFEST}", *keys)

    def count(self, stage: str, *keys: str) -> Any:
        """The value under `keys` of the stage's counts."""
        return self.of(stage, "counts", *keys)

    def json(self, path: str) -> Any:
        """Content of a JSON file.

        Raises:
            StageError: it is absent, undeclared or not JSON.
        """
        try:
            return json.loads(self.io.input(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise StageError(f"not JSON: {error}", file=path, remedy="run `dvc checkout`") from error

    def csv(self, path: str, columns: Sequence[str]) -> list[dict[str, str]]:
        """Rows of a CSV file with a header, one at least.

        Raises:
            StageError: it is absent or empty, or one of `columns` is not in it.
        """
        with self.io.input(path).open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            rows = list(reader)
        _require(columns, reader.fieldnames or (), path)
        if not rows:
            raise StageError("the table has no rows", file=path, remedy="run the stage that writes it again")
        return rows

    def table(self, path: str, columns: Sequence[str]) -> pa.Table:
        """`columns` of a Parquet file.

        Raises:
            StageError: it is absent or damaged, or a column is not in it.
        """
        try:
            file = pq.ParquetFile(self.io.input(path))
        except pa.ArrowInvalid as error:
            raise StageError(f"not a Parquet file: {error}", file=path, remedy="run `dvc checkout`") from error
        _require(columns, file.schema_arrow.names, path)
        return file.read(columns=list(columns))

    def documents(self, columns: Sequence[str]) -> pa.Table:
        """`columns` of what is trained on, by doc_index: training documents, then labelled rows of instruction samples.

        Raises:
            StageError: as `table`.
        """
        tables = ("data/encode/train.documents.parquet", "data/instruct/documents.parquet")
        return pa.concat_tables([self.table(table, columns) for table in tables])

    def pieces(self, columns: Sequence[str]) -> pa.Table:
        """`columns` of the tables that name the documents behind each packed sample, in the order of the samples.

        Raises:
            StageError: as `table`.
        """
        file = "data/pack/pack.json"
        samples, epochs, size = (at(self.json(file), file, name) for name in ("samples_per_epoch", "epochs", "shard_samples"))
        shards = range(-(-samples * epochs // size))
        return pa.concat_tables([self.table(f"data/pack/pieces-{shard:05d}.parquet", columns) for shard in shards])


def at(data: Any, file: str, *keys: str) -> Any:
    """The value under `keys` of nested mappings.

    Raises:
        StageError: a key is absent; the message names the file and the whole path.
    """
    for depth, key in enumerate(keys):
        if not isinstance(data, dict) or key not in data:
            place = ".".join(keys[: depth + 1])
            raise StageError(f"no field {place!r}", file=file, remedy="run the stage that writes the file again")
        data = data[key]
    return data


def language(lang: str) -> str:
    """A language's English name; its tag where there is none."""
    return _LANGUAGES.get(lang, lang)


def number(row: dict[str, str], column: str, file: str, index: int) -> float | None:
    """A cell of a CSV row as a number; None where it is empty.

    Raises:
        StageError: it is something else.
    """
    cell = row[column]
    try:
        return float(cell) if cell else None
    except ValueError as error:
        raise StageError(f"column {column!r}: {cell!r} is not a number", file=file, row=index) from error


def _require(wanted: Sequence[str], found: Sequence[str], file: str) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise StageError(
            f"no column {', '.join(map(repr, missing))}; found: {', '.join(found) or 'none'}",
            file=file,
            remedy="run the stage that writes it again",
        )

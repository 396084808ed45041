"""A corpus with planted duplicates, made of real text: the truth that recall and precision are measured against.

Real documents are cut into paragraphs, equal paragraphs are taken once, and neighbours are joined again to documents of
log-normal length. Of the bytes 60 % are such documents, 20 % exact copies of some of them and 20 % edited copies, of four kinds
in equal numbers: 1, 2 or 5 % of all units replaced at random, or one run of 5 % of the units. Each document has at most one
exact and one edited copy. Truth holds the exact Jaccard similarity of every planted pair.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from stages import _documents, _ngrams

LANGUAGES = ("en", "zh")
N = 5  # units in a shingle: words of English, characters of Chinese
EDITS = {"random 1 %": 0.01, "random 2 %": 0.02, "random 5 %": 0.05, "run of 5 %": 0.05}
_MEDIAN, _SIGMA, _SHORTEST = 1500.0, 0.75, 300  # bytes of UTF-8; mean about 2,000
_UNIT = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]|[^\\W_\u3400-\u4dbf\u4e00-\u9fff]+")


class Pair(NamedTuple):
    """One planted pair: row numbers of copy and parent in the corpus of their language, the kind of copy, exact Jaccard."""

    copy: int
    parent: int
    kind: str
    jaccard: float


@dataclass(frozen=True)
class Planted:
    """The corpus of one language, in the order in which it is written."""

    lang: str
    texts: list[str]
    pairs: list[Pair]

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all texts."""
        return sum(len(text.encode()) for text in self.texts)

    def first(self, size: int) -> list[str]:
        """The first documents of about `size` bytes together."""
        taken, total = [], 0
        for text in self.texts:
            if total >= size:
                break
            taken.append(text)
            total += len(text.encode())
        return taken


def plant(lang: str, texts: Iterable[str], size: int, seed: int = 130) -> Planted:
    """A corpus of about `size` bytes, less where `texts` do not hold 60 % of that; equal arguments give an equal corpus.

    Raises:
        ValueError: there is hardly any text of this language.
    """
    rng = np.random.default_rng([seed, LANGUAGES.index(lang)])
    base = list(_joined(_paragraphs(texts), int(size * 0.6), rng))
    if len(base) < 20:
        raise ValueError(f"only {len(base)} documents of language {lang}: benchmarks need real text, see --text")
    words = [unit for text in base[:: max(1, len(base) // 2000)] for unit in _UNIT.findall(text)]
    third = sum(len(text.encode()) for text in base) // 3
    entries: list[tuple[str, int, str]] = [(text, number, "base") for number, text in enumerate(base)]
    entries += [(base[number], number, "exact") for number in _parents(base, third, rng)]
    for turn, number in enumerate(_parents(base, third, rng)):
        kind = list(EDITS)[turn % len(EDITS)]
        entries.append((_edited(base[number], kind, words, rng), number, kind))
    order = rng.permutation(len(entries))
    place = {entries[old][1]: new for new, old in enumerate(order) if entries[old][2] == "base"}
    pairs = []
    for new, old in enumerate(order):
        text, parent, kind = entries[old]
        if kind != "base":
            pairs.append(Pair(new, place[parent], kind, 1.0 if kind == "exact" else jaccard(text, base[parent])))
    return Planted(lang, [entries[old][0] for old in order], pairs)


def jaccard(a: str, b: str) -> float:
    """Exact Jaccard similarity of two texts by the project's own definition of n-grams."""
    left, right = _ngrams.shingles(a, N), _ngrams.shingles(b, N)
    return len(left & right) / len(left | right)


def write(planted: Planted, folder: Path, shards: int, name: str = "planted") -> None:
    """The corpus as documents of a stage's output, in `shards` Parquet files; doc_id is `<name>-<lang>/<row>`."""
    source = f"{name}-{planted.lang}"
    bounds = np.linspace(0, len(planted.texts), shards + 1).astype(int)
    for shard, (start, end) in enumerate(pairwise(bounds)):
        rows = (_row(source, number, planted) for number in range(start, end))
        _documents.write_shard(folder / "documents" / f"{source}-{shard:05d}.parquet", rows)


def row_number(doc_id: str) -> int:
    """The place in `Planted.texts` of a document written by `write`."""
    return int(doc_id.rpartition("/")[2])


def _row(source: str, number: int, planted: Planted) -> dict[str, Any]:
    text = planted.texts[number]
    row: dict[str, Any] = dict.fromkeys(_documents.SCHEMA.names)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return row | {
        "doc_id": f"{source}/{number:07d}",
        "source": source,
        "path": f"{number:07d}",
        "licence": "LicenseRef-PublicDomain",
        "lang": planted.lang,
        "raw_sha256": digest,
        "text": text,
    }


def _paragraphs(texts: Iterable[str]) -> Iterator[str]:
    seen: set[bytes] = set()
    for text in texts:
        for line in text.split("\n"):
            paragraph = line.strip()
            key = hashlib.blake2b(paragraph.encode(), digest_size=8).digest()
            if paragraph and key not in seen:
                seen.add(key)
                yield paragraph


def _joined(paragraphs: Iterator[str], size: int, rng: np.random.Generator) -> Iterator[str]:
    total = 0
    while total < size:
        wanted, parts, length = max(_SHORTEST, rng.lognormal(np.log(_MEDIAN), _SIGMA)), [], 0
        while length < wanted:
            paragraph = next(paragraphs, None)
            if paragraph is None:
                return
            parts.append(paragraph)
            length += len(paragraph.encode()) + 1
        total += length
        yield "\n".join(parts)


def _parents(base: list[str], size: int, rng: np.random.Generator) -> Iterator[int]:
    total = 0
    for number in rng.permutation(len(base)):
        if total >= size:
            return
        total += len(base[number].encode())
        yield int(number)


def _edited(text: str, kind: str, words: list[str], rng: np.random.Generator) -> str:
    spans = [match.span() for match in _UNIT.finditer(text)]
    if kind.startswith("run"):
        length = max(1, round(EDITS[kind] * len(spans)))
        start = int(rng.integers(0, len(spans) - length + 1))
        chosen = range(start, start + length)
    else:
        chosen = np.flatnonzero(rng.random(len(spans)) < EDITS[kind]).tolist() or [int(rng.integers(len(spans)))]
    parts, end = [], 0
    for index in chosen:
        parts += [text[end : spans[index][0]], words[int(rng.integers(len(words)))]]
        end = spans[index][1]
    return "".join(parts) + text[end:]


def read_texts(folder: Path, lang: str) -> Iterator[str]:
    """The texts of one language in the Parquet, JSONL, JSONL.gz and JSONL.zst files below `folder`, in order of name.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(path for path in folder.rglob("*") if path.name.endswith((".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")))
    if not files:
        raise FileNotFoundError(f"no Parquet or JSON lines below {folder}: build the project, or name a folder with --text")
    for file in files:
        rows = _parquet_rows(file) if file.suffix == ".parquet" else _json_rows(file)
        yield from (text for text, its_lang in rows if its_lang == lang)


def _parquet_rows(file: Path) -> Iterator[tuple[str, str]]:
    for batch in pq.ParquetFile(file).iter_batches(4096, columns=["text", "lang"]):
        yield from zip(batch["text"].to_pylist(), batch["lang"].to_pylist(), strict=True)


def _json_rows(file: Path) -> Iterator[tuple[str, str]]:
    import gzip

    import zstandard

    with file.open("rb") as raw:
        stream: Any = raw
        if file.suffix == ".gz":
            stream = gzip.GzipFile(fileobj=raw)
        elif file.suffix == ".zst":
            stream = zstandard.ZstdDecompressor().stream_reader(raw)
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            row = json.loads(line)
            yield row["text"], row["lang"]

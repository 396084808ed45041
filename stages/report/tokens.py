"""Section "Tokenizer": how many tokens text takes, what the vocabulary consists of, and a sentence of each language."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from markupsafe import Markup

from stages._documents import document_files
from stages._runner import StageError
from stages.report.charts import Words, bar_chart
from stages.report.facts import Facts, at
from stages.report.pieces import pieces

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer

_REPORT = "data/tokenizer/report.json"
_FERTILITY = (
    "documents", "bytes", "characters", "tokens", "bytes_per_token", "tokens_per_byte", "tokens_per_character",
    "byte_fallback_share", "coverage",
)  # fmt: skip
_KINDS = ("pieces", "common", "english", "chinese", "other")
_SENTENCE = {"zh": (18, 48), "en": (60, 150)}  # characters: long enough to show something, short enough for two lines


def section(facts: Facts, tokenizer: Tokenizer) -> dict[str, Any]:
    """What the template needs."""
    report = facts.json(_REPORT)
    heldout = at(report, _REPORT, "heldout")
    fertility = {lang: {key: at(heldout, _REPORT, lang, key) for key in _FERTILITY} for lang in sorted(heldout)}
    sources = at(report, _REPORT, "sources")
    comparison = at(report, _REPORT, "comparison")
    described = facts.json("data/tokenizer/tokenizer.json")
    composition: dict[str, int] = at(report, _REPORT, "composition")
    shown = []
    for lang in sorted(heldout):
        doc_id, words = sentence(facts, lang)
        ids = tokenizer.encode(words)
        shown.append({"lang": lang, "doc_id": doc_id, "text": words, "pieces": pieces(tokenizer, ids)})
    return {
        "fertility": fertility,
        "sources": [
            {"lang": lang, "source": source, **{key: at(sources, _REPORT, lang, source, key) for key in _FERTILITY}}
            for lang in sorted(sources)
            for source in sorted(sources[lang])
        ],
        "comparison": {who: {kind: at(comparison, _REPORT, who, kind) for kind in _KINDS} for who in ("ours", "icetk")},
        "comparison_source": at(comparison, _REPORT, "icetk", "source"),
        "piece_count": at(described, "data/tokenizer/tokenizer.json", "piece_count"),
        "padded_size": at(described, "data/tokenizer/tokenizer.json", "padded_size"),
        "sample_bytes": facts.count("tokenizer", "sample_bytes"),
        "chart": _composition(composition),
        "sentences": shown,
        "encoded": {split: facts.count("encode", split) for split in ("train", "heldout")},
    }


def sentence(facts: Facts, lang: str) -> tuple[str, str]:
    """A held-out sentence of fitting length, the first in the order of a hash of the document ids, and its document.

    Where no document has one, the beginning of the first document.
    """
    low, high = _SENTENCE.get(lang, _SENTENCE["en"])
    folder = "data/decontaminate/heldout"
    candidates = []
    for file in document_files(facts.io.input(folder)):
        for row in pq.read_table(file, columns=["doc_id", "lang"]).to_pylist():
            if row["lang"] == lang:
                candidates.append((hashlib.sha256(row["doc_id"].encode()).digest(), row["doc_id"], file))
    for _, doc_id, file in sorted(candidates):
        for words in _sentences(file, doc_id):
            if low <= len(words) <= high:
                return doc_id, words
    if not candidates:
        remedy = "run `dvc repro tokenizer`"
        raise StageError(f"no held-out document in language {lang!r}", file=f"{folder}/documents", remedy=remedy)
    _, doc_id, file = min(candidates)
    return doc_id, _text(file, doc_id)[:high]


def _text(file: Path, doc_id: str) -> str:
    (text,) = pq.read_table(file, columns=["text"], filters=[("doc_id", "=", doc_id)])["text"].to_pylist()
    return str(text)


def _sentences(file: Path, doc_id: str) -> Iterator[str]:
    for paragraph in _text(file, doc_id).split("\n\n"):
        joined = " ".join(paragraph.split("\n")) if paragraph.isascii() else paragraph.replace("\n", "")
        yield from (part.strip() for part in re.findall(r"[A-Z“\u3400-\u9fff][^.!?。！？]+[.!?。！？]", joined))


def _composition(composition: dict[str, int]) -> Markup:
    total = sum(composition.values())
    rows = [
        (kind.replace("-", " "), _style(kind), count, f"{count:,} · {count / total:.1%}")
        for kind, count in sorted(composition.items(), key=lambda item: (-item[1], item[0]))
    ]
    said = ", ".join(f"{kind} {count}" for kind, _, count, _ in rows)
    words = Words("composition", "What the vocabulary consists of", f"Pieces by kind: {said}")
    return bar_chart(words, rows, 440)


def _style(kind: str) -> str:
    return "c-en" if kind.startswith("latin") else "c-zh" if kind.startswith("han") else "c-other"

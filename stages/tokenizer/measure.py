"""What a vocabulary consists of, and how much text its tokens hold, beside the published figures of icetk."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from model.tokenizer import BLANK, Tokenizer

ICETK = {
    "pieces": 130_000,
    "common": 100,
    "english": 63_723,
    "chinese": 61_830,
    "other": 4_347,
    "image_tokens": 20_000,
    "sample_bytes": 25_000_000_000,
    "english_share": 0.5,
    "source": "icetk README (ids 20,000-20,099, 20,100-83,822, 83,823-145,652, 145,653-149,999); GLM-130B paper, appendix B.1",
}
_KINDS = {  # how icetk's README sorts pieces
    "common": ("special", "byte", "blank", "digit", "punctuation"),
    "english": ("latin",),
    "chinese": ("han-character", "han-word"),
    "other": ("other-letter", "mixed"),
}
Row = dict[str, float]


class Fertility:
    """Counts tokens by language and by source, document by document.

    Each row holds documents, bytes, characters, tokens; byte_pieces, tokens that are one byte of a character without a piece;
    uncovered, these characters; and what follows: tokens_per_character, tokens_per_byte, bytes_per_token,
    byte_fallback_share (of the tokens) and coverage (share of the characters that have a piece).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        values = tokenizer.byte_values()
        self._is_byte = values >= 0
        self._is_first = self._is_byte & ((values < 0x80) | (values >= 0xC0))  # the others continue a character
        self._totals: dict[tuple[str, str], Counter[str]] = {}

    def add(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Count documents, by their `lang`, `source` and `text`."""
        rows = list(documents)
        for row, ids in zip(rows, self._tokenizer.encode_batch([row["text"] for row in rows]), strict=True):
            self._totals.setdefault((row["lang"], row["source"]), Counter()).update(
                documents=1,
                bytes=len(row["text"].encode()),
                characters=len(row["text"]),
                tokens=len(ids),
                byte_pieces=int(self._is_byte[ids].sum()),
                uncovered=int(self._is_first[ids].sum()),
            )

    def by_language(self) -> dict[str, Row]:
        """A row for each language."""
        totals: dict[str, Counter[str]] = {}
        for (language, _), total in sorted(self._totals.items()):
            totals.setdefault(language, Counter()).update(total)
        return {language: _row(total) for language, total in totals.items()}

    def by_source(self) -> dict[str, dict[str, Row]]:
        """A row for each source of each language."""
        found: dict[str, dict[str, Row]] = {}
        for (language, source), total in sorted(self._totals.items()):
            found.setdefault(language, {})[source] = _row(total)
        return found


def fertility(tokenizer: Tokenizer, documents: Iterable[Mapping[str, Any]]) -> dict[str, Row]:
    """The rows of `Fertility` by language."""
    counted = Fertility(tokenizer)
    counted.add({"source": "", **document} for document in documents)
    return counted.by_language()


def _row(total: Counter[str]) -> Row:
    return dict(total) | {
        "tokens_per_character": round(total["tokens"] / total["characters"], 4),
        "tokens_per_byte": round(total["tokens"] / total["bytes"], 4),
        "bytes_per_token": round(total["bytes"] / total["tokens"], 4),
        "byte_fallback_share": round(total["byte_pieces"] / total["tokens"], 6),
        "coverage": round(1 - total["uncovered"] / total["characters"], 6),
    }


def composition(tokenizer: Tokenizer) -> dict[str, int]:
    """How many pieces the vocabulary spends on what: special tokens, bytes, blanks, and each script."""
    specials = set(asdict(tokenizer.special).values())
    is_byte = tokenizer.byte_values() >= 0
    counts: Counter[str] = Counter()
    for index in range(tokenizer.piece_count):
        counts["special" if index in specials else "byte" if is_byte[index] else script(tokenizer.piece(index))] += 1
    return dict(sorted(counts.items()))


def beside_icetk(counts: Mapping[str, int]) -> dict[str, Any]:
    """The composition in icetk's four kinds, and icetk's own figures."""
    ours = {kind: sum(counts.get(name, 0) for name in names) for kind, names in _KINDS.items()}
    return {"ours": {"pieces": sum(counts.values()), **ours}, "icetk": ICETK}


def script(piece: str) -> str:
    """Script of a piece by its characters; `mixed` where they are of more than one kind."""
    kinds = {_kind(character) for character in piece.replace(BLANK, "").strip()}
    if not kinds:
        return "blank"
    if kinds == {"han"}:
        return "han-character" if len(piece.replace(BLANK, "")) == 1 else "han-word"
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _kind(character: str) -> str:
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if name.startswith("CJK") and category == "Lo":
        return "han"
    if category.startswith("L") and name.startswith(("LATIN", "FULLWIDTH LATIN")):
        return "latin"
    if category.startswith("L"):
        return "other-letter"
    return "digit" if category == "Nd" else "punctuation"

"""Normalises text, identifies its language by script and drops what fails a quality rule.

Reads: data/corpus/documents/*.parquet
Writes: data/clean/documents/*.parquet (the same shards), data/clean/drops.parquet
Params: clean
Promises: each document of the corpus stands in documents, or in drops with its reason; `lang` is identified, not claimed.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import pyarrow as pa

from stages import _documents, _ngrams
from stages._params import Fraction, NonNegative, OneOf, Positive
from stages._runner import StageError, StageIO, run_stage

UNDETERMINED = "und"  # BCP 47: the language could not be identified
STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))  # Gopher, appendix A.1.1
BULLETS = ("•", "‣", "-", "*")
ELLIPSES = ("...", "…")
DROPS = pa.schema([(name, pa.string()) for name in ("doc_id", "source", "lang", "reason", "detail")])


@dataclass(frozen=True)
class Limits:
    """Thresholds of the quality rules for one language; null switches a rule off."""

    min_characters: Positive
    max_characters: Positive
    max_replacement_share: Fraction
    max_symbol_ratio: Fraction
    max_bullet_line_share: Fraction
    max_ellipsis_line_share: Fraction
    max_duplicate_line_share: Fraction
    max_duplicate_character_share: Fraction
    min_mean_word_length: float | None
    max_mean_word_length: float | None
    min_alphabetic_word_share: Fraction | None
    min_stop_words: NonNegative | None


@dataclass(frozen=True)
class Params:
    """Parameters of this stage; shares are of letters where nothing else is said."""

    unicode_form: Annotated[str, OneOf("NFC", "NFKC")]
    max_blank_lines: NonNegative
    min_han_share: Fraction
    min_latin_share: Fraction
    max_other_share: Fraction
    en: Limits
    zh: Limits

    def limits(self, lang: str) -> Limits:
        """The thresholds for `lang`."""
        return {"en": self.en, "zh": self.zh}[lang]


# --- normalisation ---------------------------------------------------------------------------------------------------------

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_BLANKS = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")  # not U+3000: the ideographic space indents Chinese paragraphs
# Control characters, zero-width and direction marks, soft hyphens. A joiner (U+200D) between emoji is part of the emoji.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
    "|(?<![\u2600-\u27bf\ufe0f\U0001f000-\U0001faff])\u200d"
)


def normalise(text: str, form: str = "NFC", max_blank_lines: int = 1) -> str:
    """`text` in Unicode normal form `form`, without invisible characters, with `\\n` line ends and no blanks at line ends.

    NFC leaves full-width Chinese punctuation alone; NFKC would turn it into ASCII. More than `max_blank_lines` blank lines in
    a row become that many. The result is a fixed point: normalising it again changes nothing.
    """
    text = _LINE_ENDS.sub("\n", text)
    text = unicodedata.normalize(cast(Literal["NFC", "NFKC"], form), _BLANKS.sub(" ", _INVISIBLE.sub("", text)))
    text = "\n".join(line.rstrip(" \t\u3000") for line in text.split("\n"))
    return re.sub(rf"\n{{{max_blank_lines + 2},}}", "\n" * (max_blank_lines + 1), text).strip("\n")


# --- scripts and language --------------------------------------------------------------------------------------------------


@dataclass
class Scripts:
    """Number of characters by class."""

    han: int = 0
    latin: int = 0
    other_letter: int = 0
    mark: int = 0
    digit: int = 0
    punctuation: int = 0
    operator: int = 0
    symbol: int = 0
    replacement: int = 0
    blank: int = 0
    unassigned: int = 0

    @property
    def letters(self) -> int:
        """Letters of every script."""
        return self.han + self.latin + self.other_letter

    @property
    def total(self) -> int:
        """All characters."""
        return sum(getattr(self, item.name) for item in fields(self))


@lru_cache(maxsize=1 << 17)
def script(char: str) -> str:
    """The class of one character: the name of a field of `Scripts`."""
    category, name = unicodedata.category(char), unicodedata.name(char, "")
    if char == "\ufffd":
        return "replacement"
    if char == "〇" or ("CJK" in name and category == "Lo") or 0x20000 <= ord(char) < 0x40000:  # the ideographic planes
        return "han"
    if category[0] == "L":
        return "latin" if "LATIN" in name else "other_letter"
    if char == "#" or category == "So":  # signs, dingbats, emoji; Gopher counts the hash among them
        return "symbol"
    if category[0] == "S":  # mathematics, currency, accents by themselves: formulas and code, not noise
        return "operator"
    if char.isspace():
        return "blank"
    return {"M": "mark", "N": "digit", "P": "punctuation"}.get(category[0], "unassigned")


def count_scripts(text: str) -> Scripts:
    """Script statistics of a text."""
    counts: Counter[str] = Counter()
    for char, number in Counter(text).items():
        counts[script(char)] += number
    return Scripts(**counts)


def identify(scripts: Scripts, params: Params) -> str | None:
    """`zh` or `en` by the shares of Han and Latin letters, or None.

    At five letters a word, a Han share of a sixth means as many Han characters as Latin words; hence a low threshold for Han.
    Kana and other scripts count against both languages. Latin text that is not English meets the stop-word rule.
    """
    if scripts.letters == 0 or scripts.other_letter / scripts.letters > params.max_other_share:
        return None
    if scripts.han / scripts.letters >= params.min_han_share:
        return "zh"
    return "en" if scripts.latin / scripts.letters >= params.min_latin_share else None


# --- quality rules ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What the rules look at: text, script statistics, non-blank lines, words (Han characters count as words)."""

    text: str
    scripts: Scripts
    lines: list[str] = field(repr=False)
    words: list[str] = field(repr=False)


def measure(text: str) -> Measured:
    """Everything that the rules need of a normalised text."""
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    return Measured(text, count_scripts(text), lines, _ngrams.units(text))


def too_short(doc: Measured, limits: Limits) -> str | None:
    """Fewer letters and digits than the minimum. WuDaoCorpora (GLM-130B's Chinese source; Yuan et al. 2021) drops pages of
    fewer than 10 Chinese characters; Gopher (Rae et al. 2021, A.1.1) English documents of fewer than 50 words.
    """
    return _below(doc.scripts.letters + doc.scripts.digit, limits.min_characters)


def too_long(doc: Measured, limits: Limits) -> str | None:
    """More characters than the maximum: a book or a log that was not split (Gopher, A.1.1: 100,000 words)."""
    return _above(len(doc.text), limits.max_characters)


def replacement_characters(doc: Measured, limits: Limits) -> str | None:
    """U+FFFD, the trace of a wrong decoding, as a share of all characters."""
    return _above(doc.scripts.replacement / len(doc.text), limits.max_replacement_share)


def symbols(doc: Measured, limits: Limits) -> str | None:
    """Symbols for each word: Gopher (A.1.1) allows 0.1 for hash signs; here dingbats, box drawing and emoji count too, and the
    □ that stands for a lost character in old Chinese texts.
    """
    return _above(doc.scripts.symbol / max(1, len(doc.words)), limits.max_symbol_ratio)


def bullet_lines(doc: Measured, limits: Limits) -> str | None:
    """Share of lines that start with a bullet (Gopher, A.1.1: at most 0.9)."""
    return _above(_share(doc.lines, lambda line: line.startswith(BULLETS)), limits.max_bullet_line_share)


def ellipsis_lines(doc: Measured, limits: Limits) -> str | None:
    """Share of lines that end with an ellipsis (Gopher, A.1.1: at most 0.3)."""
    return _above(_share(doc.lines, lambda line: line.endswith(ELLIPSES)), limits.max_ellipsis_line_share)


def duplicate_lines(doc: Measured, limits: Limits) -> str | None:
    """Share of lines that repeat an earlier line (Gopher, table A1: at most 0.3)."""
    return _above(1 - len(set(doc.lines)) / len(doc.lines), limits.max_duplicate_line_share)


def duplicate_characters(doc: Measured, limits: Limits) -> str | None:
    """Share of characters in lines that repeat an earlier line (Gopher, table A1: at most 0.2)."""
    distinct = sum(map(len, set(doc.lines)))
    return _above(1 - distinct / sum(map(len, doc.lines)), limits.max_duplicate_character_share)


def word_length(doc: Measured, limits: Limits) -> str | None:
    """Mean length of the blank-separated words (Gopher, A.1.1: 3 to 10 characters; has no meaning for Chinese)."""
    words = doc.text.split()
    mean = sum(map(len, words)) / len(words)
    low, high = limits.min_mean_word_length, limits.max_mean_word_length
    return (None if low is None else _below(mean, low)) or (None if high is None else _above(mean, high))


def alphabetic_words(doc: Measured, limits: Limits) -> str | None:
    """Share of blank-separated words with a letter in them (Gopher, A.1.1: at least 0.8)."""
    if limits.min_alphabetic_word_share is None:
        return None
    return _below(_share(doc.text.split(), lambda word: any(map(str.isalpha, word))), limits.min_alphabetic_word_share)


def stop_words(doc: Measured, limits: Limits) -> str | None:
    """Number of different common English words (Gopher, A.1.1: at least two of eight): lists and other languages have none."""
    return None if limits.min_stop_words is None else _below(len(STOP_WORDS.intersection(doc.words)), limits.min_stop_words)


RULES: tuple[Callable[[Measured, Limits], str | None], ...] = (
    too_short,
    too_long,
    replacement_characters,
    symbols,
    bullet_lines,
    ellipsis_lines,
    duplicate_lines,
    duplicate_characters,
    word_length,
    alphabetic_words,
    stop_words,
)


def _below(value: float, limit: float) -> str | None:
    return f"{value:.4g} < {limit:g}" if value < limit else None


def _above(value: float, limit: float) -> str | None:
    return f"{value:.4g} > {limit:g}" if value > limit else None


def _share(items: list[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, items)) / len(items)


@dataclass(frozen=True)
class Verdict:
    """What becomes of one document; `reason` is None where it is kept."""

    text: str
    lang: str
    scripts: Scripts
    reason: str | None = None
    detail: str = ""


def judge(text: str, params: Params) -> Verdict:
    """Normalise a text, identify its language, and apply the rules in order: the first that fails is the reason."""
    doc = measure(normalise(text, params.unicode_form, params.max_blank_lines))
    lang = identify(doc.scripts, params)
    if lang is None:
        letters = doc.scripts.letters
        shares = {name: getattr(doc.scripts, name) / max(1, letters) for name in ("han", "latin", "other_letter")}
        detail = ", ".join(f"{name} {share:.2f}" for name, share in shares.items()) if letters else "no letters"
        return Verdict(doc.text, UNDETERMINED, doc.scripts, "language", detail)
    for rule in RULES:
        detail = rule(doc, params.limits(lang)) or ""
        if detail:
            return Verdict(doc.text, lang, doc.scripts, rule.__name__, detail)
    return Verdict(doc.text, lang, doc.scripts)


# --- the stage -------------------------------------------------------------------------------------------------------------


@dataclass
class _Tally:
    documents: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    relabelled: Counter[str] = field(default_factory=Counter)
    scripts: dict[str, Counter[str]] = field(default_factory=dict)
    drops: list[dict[str, str]] = field(default_factory=list)
    seen: int = 0

    def counts(self) -> dict[str, Any]:
        drops: dict[str, Counter[str]] = {}
        for row in self.drops:
            drops.setdefault(row["reason"], Counter())[row["lang"]] += 1
        languages = {
            lang: {"documents": self.documents[lang], "bytes": self.bytes[lang], "characters": dict(self.scripts[lang])}
            for lang in sorted(self.documents)
        }
        return {
            "documents_in": self.seen,
            "documents": self.documents.total(),
            "dropped": len(self.drops),
            "drops": {reason: dict(counter) for reason, counter in sorted(drops.items())},
            "languages": languages,
            "relabelled": dict(self.relabelled),
        }


def clean_shard(file: Path, params: Params, tally: _Tally) -> Iterator[dict[str, Any]]:
    """The kept documents of one shard, normalised; what happens to each is entered in `tally`."""
    for row in _documents.read_shard(file):
        tally.seen += 1
        verdict = judge(row["text"], params)
        if verdict.reason is not None:
            drop = {"doc_id": row["doc_id"], "source": row["source"], "lang": verdict.lang}
            tally.drops.append({**drop, "reason": verdict.reason, "detail": verdict.detail})
            continue
        tally.documents[verdict.lang] += 1
        tally.bytes[verdict.lang] += len(verdict.text.encode())
        tally.scripts.setdefault(verdict.lang, Counter()).update(vars(verdict.scripts))
        if verdict.lang != row["lang"]:
            tally.relabelled[f"{row['lang']} to {verdict.lang}"] += 1
        yield {**row, "text": verdict.text, "lang": verdict.lang}


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Clean every shard of the corpus."""
    files, tally = _documents.document_files(io.input("data/corpus")), _Tally()
    for file in io.track(files, "cleaning", total=len(files), unit="shards"):
        _documents.write_shard(io.output / "documents" / file.name, clean_shard(file, params, tally))
    if not tally.documents:
        raise StageError(f"no document is left of {tally.seen}", file="data/corpus/documents", remedy="see the limits of clean")
    _documents.write_table(io.output / "drops.parquet", DROPS, tally.drops)
    return tally.counts()


if __name__ == "__main__":
    run_stage("clean", Params, run)

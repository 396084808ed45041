"""The quality rules: each one statistic, its published threshold, and where it was published.

Thresholds are parameters, per language, and null switches a rule off. Three papers are the source of nearly all of them:
Gopher (Rae et al. 2021, "Scaling Language Models", appendix A.1 and table A1), C4 (Raffel et al. 2020, "Exploring the Limits
of Transfer Learning", section 2.2) and FineWeb (Penedo et al. 2024, section 3.6); their values are for English words. For
Chinese there are WuDaoCorpora (Yuan et al. 2021, GLM-130B's own source) and FineWeb-2 (Penedo et al. 2025, configuration
cmn_Hani), whose values count segmented words. Here a unit of Chinese is a character: the profile's values are measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stages._params import Fraction, NonNegative, Positive
from stages.clean.columns import DUPLICATE, TOP

if TYPE_CHECKING:
    from stages.clean.statistics import Statistics  # which loads numba

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """Thresholds for one language; null switches a rule off. Lists hold one share for each n."""

    min_characters: Positive | None
    max_characters: Positive | None
    max_replacement_share: Fraction | None
    max_symbol_ratio: float | None
    max_ellipsis_ratio: float | None
    max_curly_brace_ratio: float | None
    max_lorem_ipsum: NonNegative | None
    min_mean_word_length: float | None
    max_mean_word_length: float | None
    min_alphabetic_word_share: Fraction | None
    min_stop_words: NonNegative | None
    max_bullet_line_share: Fraction | None
    max_ellipsis_line_share: Fraction | None
    min_terminal_line_share: Fraction | None
    max_short_line_share: Fraction | None
    max_few_word_line_share: Fraction | None
    max_newline_ratio: float | None
    max_javascript_line_share: Fraction | None
    max_policy_line_share: Fraction | None
    max_duplicate_line_share: Fraction | None
    max_duplicate_line_character_share: Fraction | None
    max_duplicate_paragraph_share: Fraction | None
    max_duplicate_paragraph_character_share: Fraction | None
    max_top_ngram_shares: tuple[float, ...] | None
    max_duplicate_ngram_shares: tuple[float, ...] | None

    def __post_init__(self) -> None:
        for name, sizes in (("max_top_ngram_shares", TOP), ("max_duplicate_ngram_shares", DUPLICATE)):
            shares = getattr(self, name)
            if shares is not None and len(shares) != len(sizes):
                raise ValueError(f"{name}: expected a share for each n of {sizes}, found {len(shares)}")


@dataclass(frozen=True)
class Rule:
    """A rule: `value` of a batch is float64 [documents] or [documents, thresholds]; it fails below or above the limit."""

    name: str
    limit: str
    value: Callable[[Statistics], Values]

    @property
    def below(self) -> bool:
        """Whether the limit is a minimum."""
        return self.limit.startswith("min_")


RULES: list[Rule] = []


def _rule(limit: str) -> Callable[[Callable[[Statistics], Values]], Callable[[Statistics], Values]]:
    def register(value: Callable[[Statistics], Values]) -> Callable[[Statistics], Values]:
        RULES.append(Rule(value.__name__, limit, value))
        return value

    return register


def _ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> Values:
    ratio: Values = part / np.maximum(whole, 1)
    return ratio


# --- length, and characters that should not be there -----------------------------------------------------------------------


@_rule("min_characters")
def too_short(doc: Statistics) -> Values:
    """Letters and digits. WuDaoCorpora drops pages of fewer than 10 Chinese characters, Gopher (A.1.1) of under 50 words."""
    return (doc.letters + doc["digit"]).astype(np.float64)


@_rule("max_characters")
def too_long(doc: Statistics) -> Values:
    """Characters: a book or a log that was not split (Gopher, A.1.1: 100,000 words)."""
    return doc.characters.astype(np.float64)


@_rule("max_replacement_share")
def replacement_characters(doc: Statistics) -> Values:
    """U+FFFD, the trace of a wrong decoding, as a share of all characters (WuDaoCorpora drops pages with garbled text)."""
    return _ratio(doc["replacement"], doc.characters)


@_rule("max_symbol_ratio")
def symbols(doc: Statistics) -> Values:
    """Symbols for each unit: Gopher (A.1.1) allows 0.1 hash signs for each word; here dingbats, box drawing and emoji count
    too, and the □ that stands for a lost character in old Chinese texts.
    """
    return _ratio(doc["symbol"], doc["units"])


@_rule("max_ellipsis_ratio")
def ellipses(doc: Statistics) -> Values:
    """Ellipses for each unit (Gopher, A.1.1: at most 0.1 for each word)."""
    return _ratio(doc["ellipses"], doc["units"])


@_rule("max_curly_brace_ratio")
def curly_braces(doc: Statistics) -> Values:
    """Opening curly braces for each unit: code. C4 drops every page that has one, and with it every page about programming."""
    return _ratio(doc["curly_braces"], doc["units"])


@_rule("max_lorem_ipsum")
def lorem_ipsum(doc: Statistics) -> Values:
    """Occurrences of the typesetters' filler (C4: none)."""
    return doc["lorem_ipsum"].astype(np.float64)


# --- words -----------------------------------------------------------------------------------------------------------------


@_rule("min_mean_word_length")
def short_words(doc: Statistics) -> Values:
    """Mean length of the blank-separated words (Gopher, A.1.1: at least 3 characters; has no meaning for Chinese)."""
    return _ratio(doc["word_characters"], doc["words"])


@_rule("max_mean_word_length")
def long_words(doc: Statistics) -> Values:
    """Mean length of the blank-separated words (Gopher, A.1.1: at most 10 characters)."""
    return _ratio(doc["word_characters"], doc["words"])


@_rule("min_alphabetic_word_share")
def alphabetic_words(doc: Statistics) -> Values:
    """Share of blank-separated words with a letter in them (Gopher, A.1.1: at least 0.8; FineWeb-2 for Chinese: 0.735)."""
    return _ratio(doc["alphabetic_words"], doc["words"])


@_rule("min_stop_words")
def stop_words(doc: Statistics) -> Values:
    """Number of different common English words (Gopher, A.1.1: at least two of eight): lists have none."""
    return doc["stop_words"].astype(np.float64)


# --- lines -----------------------------------------------------------------------------------------------------------------


@_rule("max_bullet_line_share")
def bullet_lines(doc: Statistics) -> Values:
    """Share of lines that start with a bullet (Gopher, A.1.1: at most 0.9)."""
    return _ratio(doc["bullet_lines"], doc["lines"])


@_rule("max_ellipsis_line_share")
def ellipsis_lines(doc: Statistics) -> Values:
    """Share of lines that end with an ellipsis (Gopher, A.1.1: at most 0.3)."""
    return _ratio(doc["ellipsis_lines"], doc["lines"])


@_rule("min_terminal_line_share")
def unpunctuated_lines(doc: Statistics) -> Values:
    """Share of lines that end a sentence (FineWeb: at least 0.12; FineWeb-2 for Chinese 0.106). C4 removes all others."""
    return _ratio(doc["terminal_lines"], doc["lines"])


@_rule("max_short_line_share")
def short_lines(doc: Statistics) -> Values:
    """Share of lines of at most 30 columns (FineWeb: at most 0.67 of 30 characters): menus, and all verse."""
    return _ratio(doc["short_lines"], doc["lines"])


@_rule("max_few_word_line_share")
def few_word_lines(doc: Statistics) -> Values:
    """Share of lines of fewer than three units; C4 removes such lines, here too many of them drop the page."""
    return _ratio(doc["few_word_lines"], doc["lines"])


@_rule("max_newline_ratio")
def newlines(doc: Statistics) -> Values:
    """Line ends for each unit (FineWeb: at most 0.3 for each word; FineWeb-2 for Chinese 0.178): lists."""
    return _ratio(doc["newlines"], doc["units"])


@_rule("max_javascript_line_share")
def javascript_lines(doc: Statistics) -> Values:
    """Share of lines that name JavaScript, most of them asking for it; C4 removes the lines."""
    return _ratio(doc["javascript_lines"], doc["lines"])


@_rule("max_policy_line_share")
def policy_lines(doc: Statistics) -> Values:
    """Share of lines about terms of use and cookies; C4 removes the lines."""
    return _ratio(doc["policy_lines"], doc["lines"])


# --- repetition ------------------------------------------------------------------------------------------------------------


@_rule("max_duplicate_line_share")
def duplicate_lines(doc: Statistics) -> Values:
    """Share of lines that repeat an earlier line (Gopher, table A1: at most 0.3; FineWeb-2 for Chinese 0.287)."""
    return _ratio(doc["duplicate_lines"], doc["lines"])


@_rule("max_duplicate_line_character_share")
def duplicate_characters(doc: Statistics) -> Values:
    """Share of characters in lines that repeat an earlier line (Gopher, table A1: at most 0.2; FineWeb: 0.1)."""
    return _ratio(doc["duplicate_line_characters"], doc["line_characters"])


@_rule("max_duplicate_paragraph_share")
def duplicate_paragraphs(doc: Statistics) -> Values:
    """Share of paragraphs that repeat an earlier one (Gopher, table A1: at most 0.3)."""
    return _ratio(doc["duplicate_paragraphs"], doc["paragraphs"])


@_rule("max_duplicate_paragraph_character_share")
def duplicate_paragraph_characters(doc: Statistics) -> Values:
    """Share of characters in paragraphs that repeat an earlier one (Gopher, table A1: at most 0.2)."""
    return _ratio(doc["duplicate_paragraph_characters"], doc["line_characters"])


@_rule("max_top_ngram_shares")
def top_ngrams(doc: Statistics) -> Values:
    """Share of the characters of units in the most frequent n-gram, n = 2, 3, 4 (Gopher, table A1: 0.20, 0.18, 0.16; FineWeb-2
    for Chinese: 0.256, 0.201, 0.171).
    """
    return np.stack([_ratio(doc[f"top_{n}_gram_characters"], doc["unit_characters"]) for n in TOP], axis=1)


@_rule("max_duplicate_ngram_shares")
def duplicate_ngrams(doc: Statistics) -> Values:
    """Share of the characters of units in n-grams that stood earlier, n = 5 to 10 (Gopher, table A1: 0.15 to 0.10 in steps of
    0.01; FineWeb-2 for Chinese: 0.198 to 0.127).
    """
    return np.stack([_ratio(doc[f"duplicate_{n}_gram_characters"], doc["unit_characters"]) for n in DUPLICATE], axis=1)


# --- judging ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """What one rule says of a batch, all [documents].

    Attributes:
        fails: bool.
        value, limit: float64; of several thresholds, those of the one that is nearest to failing, or has failed by most.
    """

    fails: npt.NDArray[np.bool_]
    value: Values
    limit: Values


def judge(rule: Rule, statistics: Statistics, limits: Limits) -> Judgement | None:
    """Apply one rule to a batch; None where it is switched off."""
    threshold = getattr(limits, rule.limit)
    if threshold is None:
        return None
    bounds = np.atleast_1d(np.asarray(threshold, np.float64))
    values = rule.value(statistics).reshape(len(statistics), len(bounds))
    excess = bounds - values if rule.below else values - bounds
    if len(bounds) == 1:
        return Judgement(excess[:, 0] > 0, values[:, 0], np.full(len(values), bounds[0]))
    worst = excess.argmax(axis=1)
    rows = np.arange(len(statistics))
    return Judgement(excess[rows, worst] > 0, values[rows, worst], bounds[worst])


def detail(rule: Rule, value: float, limit: float) -> str:
    """What a reader of the drops is told: the value and the limit."""
    return f"{value:.4g} {'<' if rule.below else '>'} {limit:g}"

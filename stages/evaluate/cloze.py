"""A cloze in LAMBADA's form for both languages: which of five words ends this sentence?

An item is the end of a held-out sentence: the word before its final punctuation, and what stands before that word. A word is a
piece of the vocabulary: in English a whole word with the blank before it, in Chinese one or more Han characters (there is
no other definition of a word there). So every choice is one token, and no choice is favoured for being short.

The four wrong choices end training sentences of the same source (hence the same script, spelling and register) about as
often as the right one, and in Chinese have as many characters. Nothing but the context tells them apart. All draws are by
SHA-256 of seed, item and piece.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.tokenizer import BLANK, Tokenizer
from stages.evaluate.heldout import Split
from stages.evaluate.settings import Cloze

CHOICES = 5
_WORD = {"en": re.compile(f"{BLANK}[A-Za-z][a-z]+"), "zh": re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]+")}
_END = {"en": re.compile("[.!?]"), "zh": re.compile("[。！？]")}


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        item: `<doc_id>@<token number of the answer>`.
        lang, doc_id: of the document.
        context: tokens before the blank.
        choices: five single tokens.
        label: which of them is right.
    """

    item: str
    lang: str
    doc_id: str
    context: NDArray[np.int32]
    choices: NDArray[np.int32]
    label: int


class Vocabulary:
    """What the cloze has to know of each piece, as arrays [pieces] for one language."""

    def __init__(self, tokenizer: Tokenizer, lang: str) -> None:
        pieces = [tokenizer.piece(index) for index in range(tokenizer.piece_count)]
        self.word = np.array([_WORD[lang].fullmatch(piece) is not None for piece in pieces])
        self.end = np.array([_END[lang].match(piece.lstrip(BLANK)) is not None for piece in pieces])
        # English choices may differ in length as LAMBADA's do; Chinese ones may not
        self.characters = np.array([len(piece) if lang == "zh" else 0 for piece in pieces])
        self.folded = np.array([piece.casefold() for piece in pieces])

    def last_words(self, tokens: NDArray[np.int32]) -> NDArray[np.int64]:
        """Where a word stands right before the end of a sentence."""
        return np.flatnonzero(self.word[tokens[:-1]] & self.end[tokens[1:]])


def make_items(train: Split, heldout: Split, tokenizer: Tokenizer, settings: Cloze, seed: int) -> list[Item]:
    """At most `settings.items` questions for each language, in the order of the held-out documents."""
    items = []
    for lang in sorted(set(heldout.lang.tolist()) & set(_WORD)):
        vocabulary = Vocabulary(tokenizer, lang)
        counts = {
            source: np.bincount(_last_words_of(train, source, lang, vocabulary), minlength=tokenizer.piece_count)
            for source in sorted(set(heldout.source[heldout.lang == lang].tolist()))
        }
        found: list[tuple[int, int, list[int]]] = []
        places = _places(heldout, lang, vocabulary, settings)
        for document, at in sorted(places, key=lambda place: _digest(seed, _name(heldout, *place))):
            choices = _choices(heldout, document, at, vocabulary, counts[str(heldout.source[document])], settings, seed)
            if choices is not None:
                found.append((document, at, choices))
            if len(found) == settings.items:
                break
        items += [
            _item(heldout, document, at, choices, settings) for document, at, choices in sorted(found, key=lambda f: f[:2])
        ]
    return items


def _last_words_of(train: Split, source: str, lang: str, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """The words that end the training sentences of a source."""
    inside = np.repeat((train.source == source) & (train.lang == lang), np.diff(train.start))
    at = vocabulary.last_words(train.tokens)
    return train.tokens[at[inside[at]]]


def _places(heldout: Split, lang: str, vocabulary: Vocabulary, settings: Cloze) -> Iterator[tuple[int, int]]:
    """(document, token number) of each last word with enough before it."""
    for document in np.flatnonzero(heldout.lang == lang).tolist():
        tokens = heldout.text_tokens(document)
        ends = np.flatnonzero(vocabulary.end[tokens])
        for at in vocabulary.last_words(tokens).tolist():
            before = int(np.searchsorted(ends, at))
            sentence = int(ends[before - 1]) + 1 if before else 0
            if at >= settings.min_context and at - sentence >= settings.min_sentence:
                yield document, at


def _choices(
    heldout: Split, document: int, at: int, vocabulary: Vocabulary, counts: NDArray[np.int64], settings: Cloze, seed: int
) -> list[int] | None:
    """The right word and four others, in the order of their digests; None where there are not enough alike."""
    word = int(heldout.text_tokens(document)[at])
    count = int(counts[word])
    if count < settings.min_count:
        return None
    alike = (
        (counts >= max(settings.min_count, count / settings.frequency_ratio))
        & (counts <= count * settings.frequency_ratio)
        & (vocabulary.characters == vocabulary.characters[word])
        & (vocabulary.folded != vocabulary.folded[word])
    )
    name = _name(heldout, document, at)

    def key(piece: int) -> str:
        return _digest(seed, f"{name}/{piece}")

    distractors = sorted(np.flatnonzero(alike).tolist(), key=key)[: CHOICES - 1]
    if len(distractors) < CHOICES - 1:
        return None
    return [word, *distractors]


def _item(heldout: Split, document: int, at: int, choices: list[int], settings: Cloze) -> Item:
    name = _name(heldout, document, at)
    order = sorted(range(CHOICES), key=lambda index: _digest(0, f"{name}/order/{index}"))
    return Item(
        item=name,
        lang=str(heldout.lang[document]),
        doc_id=str(heldout.doc_id[document]),
        context=heldout.text_tokens(document)[max(0, at - settings.context) : at],
        choices=np.array([choices[index] for index in order], dtype=np.int32),
        label=order.index(0),
    )


def _name(heldout: Split, document: int, at: int) -> str:
    return f"{heldout.doc_id[document]}@{at}"


def _digest(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}/{text}".encode()).hexdigest()

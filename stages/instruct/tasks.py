"""Tasks: each finds, in one document, the labelled examples that are surely there, and leaves the rest alone.

An example is a mapping of template variables. `text` is the one that may be cut (its head is kept) to fit a block.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

Example = dict[str, str]
Task = Callable[[dict[str, Any]], Iterator[Example]]

_UNKNOWN = frozenset(["无名氏", "無名氏", "佚名", "不详", "不詳", "阙名", "闕名", "anonymous", "unknown"])
_HAN = r"[\u3400-\u9fff]"
_DYNASTY = rf"(?:[（(]{_HAN}{{1,3}}[）)]|{_HAN}{{1,4}}：)?"  # set before a name by some collections, a work's name behind it
_AUTHOR = re.compile(rf"{_DYNASTY}({_HAN}{{2,5}})(?:《.*》)?|([A-Z][A-Za-z.' -]{{2,50}})")
_CHAPTER = re.compile(rf"第{_HAN}+[回章]\s+")
_COUPLET = re.compile(rf"({_HAN}{{4,9}})，({_HAN}{{4,9}})[。？！；]")
_HEADING = re.compile(rf"({_HAN}{{5,12}})\s+({_HAN}{{5,12}})")
_NOTES = re.compile(r"[()（）\[\]【】#*_=|<>{}□○]")  # editors' marks and gaps: no fair question, no fair answer
_SPEAKER = re.compile(r"[A-Z][A-Z' -]{1,30}\.")
_VERSE = re.compile(rf"['\"]?[A-Z][^A-Z]*(?:[A-Z](?![A-Z])[^A-Z]*)*|{_HAN}[^a-zA-Z]*")  # begins large, names no one in capitals
_SENTENCE = re.compile(rf"(?:[A-Z]|{_HAN})[^.!?。！？]{{20,400}}(?:[.!?](?=\s|$)|[。！？])")
_ABBREVIATION = re.compile(r".*\b[A-Z][a-z]{0,2}\.", re.DOTALL)
_SMALL = frozenset(["a", "an", "and", "as", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"])


def author(document: dict[str, Any]) -> Iterator[Example]:
    """Work -> author, where the source names one person."""
    match = _AUTHOR.fullmatch((document["author"] or "").strip())
    name = (match[1] or match[2]) if match else ""
    if name and name.lower() not in _UNKNOWN:
        yield {"text": document["text"], "author": name}


def title(document: dict[str, Any]) -> Iterator[Example]:
    """Work -> title as the source states it, without the number of a chapter."""
    name = _title(document)
    if name and not _NOTES.search(name):
        yield {"text": document["text"], "title": name}


def couplet(document: dict[str, Any]) -> Iterator[Example]:
    """First half of a couplet of two equally long halves -> second half."""
    for line in document["text"].split("\n"):
        match = _COUPLET.fullmatch(line.strip())
        if match and len(match[1]) == len(match[2]):
            yield {"text": match[1] + "，", "next": line.strip()[len(match[1]) + 1 :]}


def heading(document: dict[str, Any]) -> Iterator[Example]:
    """First half of a chapter's two-part heading -> second half (the headings of classical Chinese novels rhyme in sense)."""
    match = _HEADING.fullmatch(_title(document))
    if match and len(match[1]) == len(match[2]):
        yield {"text": match[1], "next": match[2]}


def next_line(document: dict[str, Any]) -> Iterator[Example]:
    """Line of verse -> next line of the same stanza. Lines of prose are longer; names and stage directions are no verse."""
    for line, following in pairwise(line.strip() for line in document["text"].split("\n")):
        if _is_verse(line) and _is_verse(following):
            yield {"text": line, "next": following}


def play(document: dict[str, Any]) -> Iterator[Example]:
    """Speech -> play."""
    name = _title(document)
    for _, speech in _speeches(document["text"]):
        if name and len(speech) >= 80:  # a shorter one could stand in any play
            yield {"text": speech, "play": name}


def speaker(document: dict[str, Any]) -> Iterator[Example]:
    """Speech -> speaker, with the play's title, for those who speak at least three times in the scene."""
    play_name, speeches = _title(document), list(_speeches(document["text"]))
    often = Counter(name for name, _ in speeches)
    for name, speech in speeches:
        if play_name and often[name] >= 3 and len(speech) >= 40:
            yield {"text": speech, "speaker": string.capwords(name), "play": play_name}


def topic(document: dict[str, Any]) -> Iterator[Example]:
    """First sentence of a paragraph of an article -> the article's title."""
    name = _title(document)
    for paragraph in document["text"].split("\n"):
        match = _SENTENCE.match(paragraph.strip())
        if name and match and not _ABBREVIATION.fullmatch(match[0]):
            yield {"text": match[0], "title": name}


TASKS: dict[str, Task] = {
    "author": author,
    "title": title,
    "tune": title,  # ci are titled by the tune that they are written to
    "couplet": couplet,
    "heading": heading,
    "next_line": next_line,
    "play": play,
    "speaker": speaker,
    "topic": topic,
}


def _is_verse(line: str) -> bool:
    return 10 <= len(line.encode()) <= 75 and not _NOTES.search(line) and _VERSE.fullmatch(line) is not None


def _speeches(text: str) -> Iterator[tuple[str, str]]:
    """(speaker, speech) of paragraphs that begin with a line of capitals and a full stop, as modern editions set them."""
    for paragraph in re.split(r"\n\s*\n", text):
        name, _, speech = paragraph.strip().partition("\n")
        if _SPEAKER.fullmatch(name) and not name.startswith(("ACT", "SCENE")) and speech and not _NOTES.search(speech):
            yield name[:-1], speech


def _title(document: dict[str, Any]) -> str:
    """The document's title without a chapter's number; one printed in capitals, in the spelling of running text."""
    name = _CHAPTER.sub("", (document["title"] or "").strip())
    if not (name.isupper() and name.isascii() and len(name) > 7):  # shorter ones may be acronyms
        return name
    words = [_capitalised(word) for word in name.split()]
    return " ".join(word.lower() if place and word.lower() in _SMALL else word for place, word in enumerate(words))


def _capitalised(word: str) -> str:
    return word if re.fullmatch(r"[IVX]+[.,;:]?", word) else word.capitalize()

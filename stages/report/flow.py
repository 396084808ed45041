"""The picture of the corpus: two streams of text, one a language, and what each step takes out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stages.report.facts import language
from stages.report.svg import picture, tag, text

_WIDTH, _BODY, _GAP, _LINE = 1060, 210.0, 30.0, 16.0
_LEFT, _LAST = 84.0, 990.0


@dataclass(frozen=True)
class Loss:
    """Documents that leave at a step, for one reason; `kept` where they are kept elsewhere."""

    label: str
    documents: int
    bytes: int
    kept: bool = False


@dataclass(frozen=True)
class Passage:
    """What stands after a step by language (documents, bytes), and what the next step takes away from it."""

    stage: str
    label: str
    standing: dict[str, Counter[str]]
    losses: dict[str, list[Loss]]


def flow(steps: tuple[list[Passage], Passage], languages: Sequence[str]) -> Markup:
    """Draw the streams. Widths are bytes on one scale, so what is lost is as thin as it is small; two languages at most.

    The first language loses upwards, the second downwards, so that no label crosses a stream.
    """
    passages, last = steps
    every = [*passages, last]
    streams = list(languages[:2])
    most = max(sum(_bytes(passage, lang) for lang in streams) for passage in every)
    unit = _BODY / max(1, most)
    widest = {lang: unit * max(_bytes(passage, lang) for passage in every) for lang in streams}
    above = 50 + _LINE * _lines(passages, streams[:1])
    axis = above + widest[streams[0]]
    below = axis + _GAP + sum(widest[lang] for lang in streams[1:])
    places = [_LEFT + index * (_LAST - _LEFT) / len(passages) for index in range(len(every))]
    parts = []
    for side, lang in zip((-1, 1), streams, strict=False):
        base = axis if side < 0 else axis + _GAP
        for index, passage in enumerate(passages):
            ends = (places[index], places[index + 1])
            first, second = (_bytes(p, lang) * unit for p in (passage, every[index + 1]))
            parts.append(_stream(lang, base, side, ends, (first, second)))
            parts += _losses(passage.losses.get(lang, []), base, side, ends, first, widest[lang] + 14, unit)
        middle = base + side * _bytes(every[0], lang) * unit / 2
        parts.append(text(language(lang), 0, middle + 5, f"stream-name c-{lang}"))
    for place, passage in zip(places, every, strict=True):
        parts += _station(place, axis, passage, streams, unit)
    height = below + 34 + _LINE * _lines(passages, streams[1:])
    title = "What each step left of the corpus"
    return picture("flow", title, _description(every), _WIDTH, height, parts)


def _bytes(passage: Passage, lang: str) -> int:
    return passage.standing.get(lang, Counter())["bytes"]


def _lines(passages: Sequence[Passage], languages: Sequence[str]) -> int:
    return max((len(passage.losses.get(lang, [])) for passage in passages for lang in languages), default=0)


def _stream(lang: str, base: float, side: int, ends: tuple[float, float], sizes: tuple[float, float]) -> str:
    (x1, x2), (y1, y2) = ends, (base + side * sizes[0], base + side * sizes[1])
    bend = (x1 + x2) / 2
    edge = f"{x1:.2f},{y1:.2f}C{bend:.2f},{y1:.2f} {bend:.2f},{y2:.2f} {x2:.2f},{y2:.2f}"
    outline = f"M{x1:.2f},{base:.2f}L{edge}L{x2:.2f},{base:.2f}Z"
    return tag("path", d=outline, class_=f"stream c-{lang}")


def _losses(
    losses: Sequence[Loss], base: float, side: int, ends: tuple[float, float], size: float, outer: float, unit: float
) -> list[str]:
    """One thin branch for what leaves, from the stream's outer edge to the list of reasons."""
    if not losses:
        return []
    thickness = max(1.5, sum(loss.bytes for loss in losses) * unit)
    x1, x2 = ends[0] + 8, ends[0] + (ends[1] - ends[0]) * 0.3
    y1, y2 = base + side * (size - thickness / 2), base + side * (outer + 2)
    bend = f"M{x1:.2f},{y1:.2f}C{x2:.2f},{y1:.2f} {x2:.2f},{y1:.2f} {x2:.2f},{y2:.2f}"
    parts = [tag("path", d=bend, class_="loss", stroke_width=thickness)]
    order = list(reversed(losses)) if side < 0 else losses
    for index, loss in enumerate(order):
        y = y2 + side * (6 + _LINE * index) + (0 if side < 0 else 10)
        style = "loss-label kept" if loss.kept else "loss-label"
        parts.append(text(f"{loss.label} {loss.documents:,}", x2 - 4, y, style))
    return parts


def _station(place: float, axis: float, passage: Passage, streams: Sequence[str], unit: float) -> list[str]:
    heights = [_bytes(passage, lang) * unit for lang in streams]
    top, bottom = axis - heights[0], axis + (_GAP + heights[1] if len(heights) > 1 else 0)
    total: Counter[str] = sum((passage.standing.get(lang, Counter()) for lang in streams), Counter())
    said = f"{total['documents']:,} documents"
    return [
        tag("rect", x=place - 2, y=top, width=4, height=bottom - top, class_="station"),
        tag("rect", x=place - 64, y=axis + 1, width=128, height=_GAP - 2, rx=3, class_="plate"),
        text(passage.label, place, axis + 13, "station-name", "middle"),
        text(said, place, axis + 26, "tick", "middle"),
    ]


def _description(every: Sequence[Passage]) -> str:
    parts = []
    for passage in every:
        standing = ", ".join(f"{lang} {counts['documents']:,}" for lang, counts in sorted(passage.standing.items()))
        parts.append(f"{passage.label}: {standing} documents")
    return "; ".join(parts) + ". The tables below hold the numbers."

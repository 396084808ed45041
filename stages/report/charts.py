"""The page's charts: lines over steps, values with intervals, bars. Pure functions of numbers, named by their callers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from markupsafe import Markup

from stages.report.svg import Scale, measure, path, picture, plain, rounded, spread, tag, text


@dataclass(frozen=True)
class Line:
    """One line of a chart; `low` and `high` draw a band behind it. `style` is a class: `c-en`, `c-zh`, `c-1` ..."""

    label: str
    style: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Marker:
    """A vertical line at `x`, with a label at its top."""

    x: float
    label: str


@dataclass(frozen=True)
class Words:
    """What a chart is called: id in the page, title, description for readers who do not see it, names of the axes."""

    name: str
    title: str
    description: str
    x: str = ""
    y: str = ""


@dataclass(frozen=True)
class Value:
    """A measured value, with its interval where there is one."""

    series: str
    style: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """A row of a chart of values: a label and what stands in it; `heading` rows have no values."""

    label: str
    values: Sequence[Value] = field(default=())
    heading: bool = False


def bins(x: Sequence[float], y: Sequence[float | None], most: int) -> tuple[list[float], list[float], list[float], list[float]]:
    """At most `most` bins of neighbouring points: their mean x, mean, lowest and highest y. Points without a y are left out."""
    points = [(at, value) for at, value in zip(x, y, strict=True) if value is not None]
    count = min(most, len(points))
    found: tuple[list[float], list[float], list[float], list[float]] = ([], [], [], [])
    for index in range(count):
        part = points[index * len(points) // count : (index + 1) * len(points) // count]
        values = [value for _, value in part]
        middle = math.fsum(at for at, _ in part) / len(part)
        for column, item in zip(found, (middle, math.fsum(values) / len(values), min(values), max(values)), strict=True):
            column.append(item)
    return found


def line_chart(
    words: Words,
    lines: Sequence[Line],
    size: tuple[int, int],
    markers: Sequence[Marker] = (),
    x_range: tuple[float, float] | None = None,
    y_from: float | None = None,
) -> Markup:
    """Lines with their names at their right ends (one line alone has none).

    Args:
        size: width and height in units, about pixels.
        markers: vertical lines.
        x_range: first and last x; that of the points where it is not given.
        y_from: lowest y of the axis; that of the points where it is not given.
    """
    width, height = size
    named = len(lines) > 1
    values = [value for line in lines for value in (*line.y, *line.low, *line.high)]
    y_low, y_high = rounded(min(values) if y_from is None else y_from, max(values), 4)
    right = 14 + (max(measure(line.label) for line in lines) if named else 0)
    marks = [plain(tick) for tick in Scale(y_low, y_high, 0, 1).ticks(4)]
    left = 10 + max(map(measure, marks))
    at = [value for line in lines for value in line.x]
    x = Scale(*(x_range or (min(at), max(at))), left, width - right)
    y = Scale(y_low, y_high, height - 36, 40 if markers else 26)
    parts = [_grid(x, y, marks), *_markers(markers, x, y), text(words.y, 0, 12, "axis-name")]
    parts.append(text(words.x, x.end, height - 4, "axis-name", "end"))
    for line in lines:
        if line.low:
            outline = [*zip(line.x, line.high, strict=True), *reversed(list(zip(line.x, line.low, strict=True)))]
            parts.append(path([(x(a), y(b)) for a, b in outline], f"band {line.style}", closed=True))
        parts.append(path([(x(a), y(b)) for a, b in zip(line.x, line.y, strict=True)], f"line {line.style}"))
    if named:
        places = spread([y(line.y[-1]) + 4 for line in lines], 14)
        parts += [text(line.label, x.end + 6, place, f"label {line.style}") for line, place in zip(lines, places, strict=True)]
    return picture(words.name, words.title, words.description, width, height, parts)


def _grid(x: Scale, y: Scale, marks: Sequence[str]) -> str:
    parts = []
    for tick, label in zip(y.ticks(4), marks, strict=True):
        parts.append(tag("line", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(text(label, x.start - 6, y(tick) + 4, "tick", "end"))
    room = max(measure(plain(x.high)), 20) * 1.7
    for tick in x.ticks(max(1, int((x.end - x.start) / room))):
        if tick != int(tick):  # steps and layers are counted
            continue
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=y.start, y2=y.start + 4, class_="axis"))
        parts.append(text(plain(tick), x(tick), y.start + 17, "tick", "middle"))
    parts.append(tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    return "".join(parts)


def _markers(markers: Sequence[Marker], x: Scale, y: Scale) -> list[str]:
    parts, free = [], -math.inf
    for marker in markers:
        place = x(marker.x)
        parts.append(tag("line", x1=place, x2=place, y1=y.end - 6, y2=y.start, class_="marker"))
        half = measure(marker.label) / 2
        centre = min(max(place, x.start + half), x.end - half + 8)
        if centre - half > free:  # a label that would touch the one before is left out; the line stays
            parts.append(text(marker.label, centre, y.end - 10, "tick", "middle"))
            free = centre + half + 6
    return parts


def value_chart(words: Words, rows: Sequence[Row], width: int, reference: Marker | None = None) -> Markup:
    """One row per label, its values as dots on a common axis, each with its interval as a bar.

    Args:
        width: in units; labels take what the longest of them needs.
        reference: a value to compare with, drawn as a line through all rows.
    """
    values = [value for row in rows for value in row.values]
    ends = [end for value in values for end in (value.value, value.low, value.high) if end is not None]
    ends += [reference.x] if reference else []
    low, high = rounded(min(ends), max(ends), 5)
    left = 12 + max(measure(row.label) for row in rows)
    x = Scale(low, high, left, width - 16)
    parts, bottom = [], 24.0
    for row in rows:
        if row.heading:
            parts.append(text(row.label, 0, bottom + 16, "row-heading"))
            bottom += 26
            continue
        height = max(20, 9 * len(row.values) + 8)
        parts.append(text(row.label, left - 10, bottom + height / 2 + 4, "row-label", "end"))
        parts.append(tag("line", x1=x.start, x2=x.end, y1=bottom + height, y2=bottom + height, class_="grid"))
        for index, value in enumerate(row.values):
            parts.append(_dot(value, x, bottom + height / 2 + (index - (len(row.values) - 1) / 2) * 9, row.label))
        bottom += height
    axis = []
    for tick in x.ticks(max(2, int((x.end - x.start) / 70))):
        axis.append(tag("line", x1=x(tick), x2=x(tick), y1=18, y2=bottom, class_="grid"))
        axis.append(text(plain(tick), x(tick), 12, "tick", "middle"))
    if reference:
        axis.append(tag("line", x1=x(reference.x), x2=x(reference.x), y1=18, y2=bottom + 4, class_="marker"))
        axis.append(text(reference.label, x(reference.x), bottom + 18, "tick", "middle") if reference.x else "")
    parts.append(text(words.x, x.end, bottom + 18, "axis-name", "end"))
    return picture(words.name, words.title, words.description, width, bottom + 24, [*axis, *parts])


def _dot(value: Value, x: Scale, y: float, row: str) -> str:
    said = f"{row}, {value.series}: {plain(round(value.value, 4))}"
    parts = []
    if value.low is not None and value.high is not None:
        said += f" ({plain(round(value.low, 4))} to {plain(round(value.high, 4))})"
        parts.append(tag("line", x1=x(value.low), x2=x(value.high), y1=y, y2=y, class_=f"interval {value.style}"))
    parts.append(tag("circle", cx=x(value.value), cy=y, r=3.6, class_=f"dot {value.style}"))
    return tag("g", tag("title", escape(said)) + "".join(parts))


def bar_chart(words: Words, rows: Sequence[tuple[str, str, float, str]], width: int, highest: float | None = None) -> Markup:
    """Horizontal bars from zero. `rows` are label, class, value and what stands behind the bar; `highest` ends the axis."""
    left = 12 + max(measure(label) for label, _, _, _ in rows)
    right = 12 + max(measure(behind) for _, _, _, behind in rows)
    x = Scale(0, highest or max(value for _, _, value, _ in rows) or 1, left, width - right)
    parts = []
    for index, (label, style, value, behind) in enumerate(rows):
        y = 4 + 24 * index
        parts.append(text(label, left - 10, y + 14, "row-label", "end"))
        parts.append(tag("rect", x=left, y=y + 2, width=x.end - x.start, height=16, rx=2, class_="trough"))
        parts.append(tag("rect", x=left, y=y + 2, width=max(1.0, x(value) - left), height=16, rx=2, class_=f"bar {style}"))
        parts.append(text(behind, x.end + 8, y + 14, "row-label"))
    return picture(words.name, words.title, words.description, width, 8 + 24 * len(rows), parts)

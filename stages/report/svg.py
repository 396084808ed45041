"""SVG as text: elements, scales, ticks, and the frame that gives every picture its title and description.

Colours and fonts are classes of `templates/page.css`, so that pictures follow the reader's light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from unicodedata import east_asian_width

from markupsafe import Markup


def tag(name: str, content: str = "", **attributes: str | float | None) -> str:
    """One element; `class_` and `font_size` stand for `class` and `font-size`, None leaves an attribute out."""
    parts = [
        f'{key.rstrip("_").replace("_", "-")}="{escape(value) if isinstance(value, str) else coordinate(value)}"'
        for key, value in attributes.items()
        if value is not None
    ]
    head = " ".join([name, *parts])
    return f"<{head}>{content}</{name}>" if content else f"<{head}/>"


def text(words: str, x: float, y: float, class_: str = "", anchor: str | None = None) -> str:
    """A line of text at (x, y), escaped; `anchor` is `middle` or `end`."""
    return tag("text", escape(words), x=x, y=y, class_=class_ or None, text_anchor=anchor)


def path(points: Iterable[tuple[float, float]], class_: str, *, closed: bool = False) -> str:
    """A line through the points."""
    steps = " ".join(f"{coordinate(x)},{coordinate(y)}" for x, y in points)
    return tag("path", d=f"M{steps}{'Z' if closed else ''}", class_=class_)


def measure(words: str) -> float:
    """About the width of a label in units: Han characters and their like count double."""
    return sum(12.0 if east_asian_width(character) in "WF" else 6.9 for character in words)


def coordinate(value: float) -> str:
    """A number as SVG wants it, to a hundredth of a unit."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def picture(name: str, title: str, description: str, width: float, height: float, parts: Iterable[str]) -> Markup:
    """The whole picture; `name` is its id in the page. Screen readers get title and description."""
    head = tag("title", escape(title), id=f"{name}-title") + tag("desc", escape(description), id=f"{name}-desc")
    return Markup(  # every text in `parts` went through `tag` or `text`, which escape
        tag(
            "svg",
            head + "".join(parts),
            id=name,
            class_="picture",
            viewBox=f"0 0 {coordinate(width)} {coordinate(height)}",
            width=width,
            height=height,
            role="img",
            aria_labelledby=f"{name}-title {name}-desc",
        )
    )


@dataclass(frozen=True)
class Scale:
    """A linear map of [low, high] onto the screen's [start, end]; either may run downwards."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Place of `value` on the screen."""
        width = self.high - self.low
        return self.start + (value - self.low) / width * (self.end - self.start) if width else (self.start + self.end) / 2

    def ticks(self, count: int) -> list[float]:
        """Up to about `count` round values inside the interval."""
        return ticks(self.low, self.high, count)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten in [low, high], at most `count` + 1 of them."""
    if not high > low:
        return [low]
    step = _step(low, high, count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def rounded(low: float, high: float, count: int) -> tuple[float, float]:
    """The interval widened to the next tick on both sides."""
    if not high > low:
        return low - 0.5, high + 0.5
    step = _step(low, high, count)
    return round(math.floor(low / step + 1e-9) * step, 12), round(math.ceil(high / step - 1e-9) * step, 12)


def _step(low: float, high: float, count: int) -> float:
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))


def plain(value: float) -> str:
    """A tick's label: thousands with commas, small numbers with their digits, very small ones as powers of ten."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.6g}" if abs(value) < 1e6 else f"{value / 1e6:,.4g}M"


def spread(places: Sequence[float], distance: float) -> list[float]:
    """The places moved apart until neighbours keep `distance`, each as near to its own as that allows; order is kept."""
    order = sorted(range(len(places)), key=lambda index: (places[index], index))
    blocks: list[list[float]] = []  # [sum of wanted first places, members, first place]
    for index in order:
        blocks.append([places[index], 1, places[index]])
        while len(blocks) > 1 and blocks[-2][2] + blocks[-2][1] * distance > blocks[-1][2]:
            total, members, _ = blocks.pop()
            before = blocks[-1]
            before[0] += total - members * before[1] * distance
            before[1] += members
            before[2] = before[0] / before[1]
    moved = [0.0] * len(places)
    ranks = iter(order)
    for _, members, first in blocks:
        for offset in range(int(members)):
            moved[next(ranks)] = first + offset * distance
    return moved

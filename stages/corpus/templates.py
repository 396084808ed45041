"""Wikitext templates: those that carry words of the sentence they stand in are expanded, all others are dropped."""

from __future__ import annotations

import re
from collections.abc import Callable

_DEPTH = 20  # deepest nesting that is resolved
_PARAMETER = re.compile(r"\{\{\{[^{}]*\}\}\}")
_TEMPLATE = re.compile(r"\{\{((?:[^{}]|\{(?!\{)|\}(?!\}))*)\}\}")
_BAR = re.compile(r"\|(?![^\[\]]*\]\])")  # a bar that is not inside a link
_POSITION = re.compile(r"\s*\d+\s*=")
_NAMED = re.compile(r"\s*[A-Za-z][\w .-]*=")
_NUMBER = re.compile(r"[\d.,/+−–-]*\d[\d.,/+−–-]*")
_BETWEEN = {
    "-": "–",
    "–": "–",
    "to": "to",
    "to(-)": "to",
    "and": "and",
    "and(-)": "and",
    "or": "or",
    "by": "by",
    "x": "×",
    "×": "×",
}
_UNIT = {
    **{
        "C": "°C",
        "F": "°F",
        "sqmi": "square miles",
        "sqkm": "km²",
        "ft0in": "ft",
        "e6m3": "million m³",
        "Moilbbl": "million barrels",
    },
    **{"Goilbbl": "billion barrels", "oilbbl": "barrels", "kn": "knots", "nmi": "nautical miles", "impgal": "gallons"},
    **{
        "acre": "acres",
        "mi": "miles",
        "lb": "pounds",
        "LT": "tons",
        "ST": "tons",
        "t": "tonnes",
        "ha": "hectares",
        "mph": "mph",
    },
}


def expand_templates(text: str) -> str:
    """`text` without templates, from the innermost outwards."""
    text = _PARAMETER.sub("", text)
    for _ in range(_DEPTH):
        text, found = _TEMPLATE.subn(lambda match: _expand(match[1]), text)
        if not found:
            break
    return text


def _expand(body: str) -> str:
    name, *arguments = _BAR.split(body)
    name = re.sub(r"[\s_]+", " ", name).strip().lower()
    values = [_POSITION.sub("", value, count=1).strip() for value in arguments if not _NAMED.match(value)]
    if name.startswith("lang-"):
        return values[0] if values else ""
    rule = _RULES.get(name)
    return rule(values) if rule else ""


def _first(values: list[str]) -> str:
    return values[0] if values else ""


def _last(values: list[str]) -> str:
    return values[-1] if values else ""


def _text(text: str) -> Callable[[list[str]], str]:
    return lambda values: text


def _behind(prefix: str) -> Callable[[list[str]], str]:
    return lambda values: f"{prefix} {values[0]}" if values else prefix


def _fraction(values: list[str]) -> str:
    whole, parts = (f"{values[0]} ", values[1:]) if len(values) == 3 else ("", values)
    return whole + "/".join(parts)


def _quantity(values: list[str]) -> str:
    """{{convert|5|to|10|km|mi}}: the quantity as the author gave it, without its conversion."""
    words: list[str] = []
    for value in values:
        if _NUMBER.fullmatch(value):
            words.append(f"{int(value):,}" if value.isdigit() else value)
        elif value in _BETWEEN:
            words.append(_BETWEEN[value])
        else:
            unit = value.removesuffix("-change")  # a difference of temperatures
            words.append(_UNIT.get(unit) or re.sub(r"(?<=[a-z])[23]\b", lambda match: "²³"[int(match[0]) - 2], unit))
            break
    return " ".join(words).replace(" – ", "–")


_RULES: dict[str, Callable[[list[str]], str]] = {
    **dict.fromkeys(("lang", "transl", "transliteration", "wikt-lang", "color", "font color"), _last),
    **dict.fromkeys(
        ("nowrap", "nobr", "no wrap", "nobold", "small", "smaller", "big", "larger", "sc", "smallcaps", "strong", "em"), _first
    ),
    **dict.fromkeys(
        ("abbr", "tooltip", "vanchor", "visible anchor", "sic", "as written", "linktext", "mvar", "var", "code"), _first
    ),
    **dict.fromkeys(("quote", "cquote", "quotation", "blockquote", "quotebox", "poemquote", "poem quote"), _first),
    **dict.fromkeys(
        ("nihongo", "nts", "dts", "formatnum", "val", "num", "flag", "flagcountry", "ill", "interlanguage link"), _first
    ),
    **dict.fromkeys(("convert", "cvt"), _quantity),
    **dict.fromkeys(("frac", "sfrac", "fraction"), _fraction),
    **dict.fromkeys(("circa", "c.", "ca."), _behind("c.")),
    **dict.fromkeys(("ndash", "en dash", "spaced ndash", "snd", "spnd"), _text(" – ")),
    **dict.fromkeys(("mdash", "em dash", "spaced mdash"), _text(" — ")),
    **dict.fromkeys(("nbsp", "spaces", "space", "thinsp", "sp"), _text(" ")),
    **dict.fromkeys(("·", "•", "dot", "bull"), _text(" · ")),
    **dict.fromkeys(("!", "pipe"), _text("&#124;")),
    **dict.fromkeys(("chem", "chem2", "simplenuclide", "simplenuclide2", "nuclide"), "".join),
    "keypress": "+".join,
    "'s": _text("'s"),
    "as of": _behind("As of"),
    "vol.": _behind("vol."),
    "p.": _behind("p."),
    "angbr": lambda values: f"⟨{_first(values)}⟩",
    "sup": lambda values: f"<sup>{_first(values)}</sup>",
    "sub": _first,
}

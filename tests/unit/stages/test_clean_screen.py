"""The screen: what it passes, the slow steps would have left as it is."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.clean.normalise import is_normalised, normalise, repair
from stages.clean.privacy import Masks, mask
from stages.clean.screen import ADDRESSES, MOJIBAKE, NUMBERS, UNTIDY, screen
from stages.clean.statistics import utf8

MASKS = Masks(email="<email>", resident_id="<id>", ip="<ip>", phone="<phone>")
PIECES = (
    *(
        "a",
        "b",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\n\n\n",
        "\t",
        "\u3000",
        "\r\n",
        "\u200d",
        "👩",
        "\u200b",
        "\xa0",
        "\u0301",
        "é",
        "e",
    ),
    *("Ã©", "â€œ", "Ã", "©", "ä¸\xad", "\x85", "中国", "ÖÐ¹úÈËÃñ", "™", "–", "’"),
    *(
        "1",
        "23",
        "-",
        ".",
        ":",
        "(",
        ")",
        "+86",
        "138",
        "12345678",
        "@",
        "x.org",
        "8.8.8.8",
        "2001:4860:4860::8888",
        "me@home.org",
    ),
)


def screened(texts: list[str], max_blank_lines: int = 1) -> list[int]:
    return [int(bits) for bits in screen(*utf8(pa.array(texts, pa.large_string())), max_blank_lines)]


def passed_wrongly(text: str, bits: int) -> bool:
    return (
        (not bits & UNTIDY and not bits & MOJIBAKE and is_normalised(text) and normalise(text) != text)
        or (not bits & MOJIBAKE and repair(text) != (text, 0))
        or (not bits & (NUMBERS | ADDRESSES) and mask(text, MASKS) != (text, {}))
    )


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("plain text\n\nof 2 paragraphs: 12,345 words.", 0),
        ("　　床前明月光，疑是地上霜。\n举头望明月", 0),
        ("trailing \nblank", UNTIDY),
        ("\nline end at the start", UNTIDY),
        ("a\n\n\nb", UNTIDY),
        ("a\u200bb", UNTIDY),
        ("cafÃ©", MOJIBAKE),
        ("call 138-1234-5678", NUMBERS),
        ("a@b", ADDRESSES),
        ("", 0),
    ],
)
def test_examples(text: str, bits: int) -> None:
    assert screened([text]) == [bits]


def test_blank_lines_by_parameter() -> None:
    assert screened(["a\n\n\nb", "a\n\nb", "a\nb"], 2) == [0, 0, 0]
    assert screened(["a\n\n\nb", "a\n\nb", "a\nb"], 0) == [UNTIDY, UNTIDY, 0]


def test_passes_nothing_that_a_step_would_change() -> None:
    draw = random.Random(1)
    texts = ["".join(draw.choices(PIECES, k=draw.randrange(1, 12))) for _ in range(5000)]
    found = screened(texts)
    assert [text for text, bits in zip(texts, found, strict=True) if passed_wrongly(text, bits)] == []
    assert any(bits == 0 for bits in found)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_passes_nothing_of_any_text_that_a_step_would_change(text: str) -> None:
    assert not passed_wrongly(text, screened([text])[0])

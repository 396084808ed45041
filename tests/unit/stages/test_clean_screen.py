"""The screen: what it passes, the slow steps would have left as it is."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.clean.normalise import is_normalised, normalise, repair
from stages.clean.privacy import Masks, mask
from stages.clean.screen import ADDRESSES, FORM, MOJIBAKE, NUMBERS, UNTIDY, screen
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
        (not bits & (UNTIDY | MOJIBAKE | FORM) and normalise(text) != text)
        or (not bits & (UNTIDY | MOJIBAKE) and is_normalised(text) and normalise(text) != text)
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
        ("12:30:45 and std::vector", 0),
        ("at 2001:db8:a::f now", ADDRESSES),
        ("8.8.8.8", NUMBERS),
        ("1998, 2003; 12.5 million", 0),
        ("e\u0301", FORM),
        ("中国人民。" * 10, 0),
        ("\ud55c\uae00", 0),
        ("\u1100\u1161", FORM),
        ("a" * 8 + "\n\n\n" + "b" * 8, UNTIDY),
        ("abcdefg \nabcdefgh", UNTIDY),
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


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_every_character_before_and_behind_another(form: str) -> None:
    draw = random.Random(3)
    others = "a\u1100\u1161\u0301\u09c7\u0b92中\uac00"
    texts = [f"{chr(code)}{draw.choice(others)}{chr(code)}" for code in range(1, 0x30000) if not 0xD800 <= code < 0xE000]
    found = screen(*utf8(pa.array(texts, pa.large_string())), 1, form).tolist()
    assert [text for text, bits in zip(texts, found, strict=True) if not bits & FORM and not is_normalised(text, form)] == []


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_passes_nothing_of_any_text_that_a_step_would_change(text: str) -> None:
    assert not passed_wrongly(text, screened([text])[0])

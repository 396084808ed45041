from __future__ import annotations

import pytest

from stages._ngrams import is_unspaced, ngrams, shingles, units


def test_words_and_han_characters_are_units():
    assert units("The 2 Noble-Kinsmen, 三国 ABC演义。") == ["the", "2", "noble", "kinsmen", "三", "国", "abc", "演", "义"]
    assert [is_unspaced(unit) for unit in ("三", "abc", "か", "한", "𠀀", "2")] == [True, False, True, True, True, False]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Don't go!", "don’t   GO"),
        ("对酒当歌，人生几何？", "对酒当歌\n人生几何"),
        ("snake_case", "snake case"),
    ],
)
def test_typography_does_not_count(a, b):
    assert units(a) == units(b)


def test_ngrams_are_the_windows_in_order():
    assert list(ngrams(["a", "b", "c", "d"], 3)) == ["a b c", "b c d"]
    assert list(ngrams(["a", "b"], 3)) == []
    assert list(ngrams(["a", "b"], 1)) == ["a", "b"]


def test_shingles_are_never_empty():
    assert shingles("one two", 5) == {"one two"}
    assert shingles("短诗", 5) == {"短 诗"}
    assert shingles("……", 5) == {"……"}
    assert shingles("……", 5) != shingles("!!", 5)
    assert shingles("a b a b a b", 2) == {"a b", "b a"}

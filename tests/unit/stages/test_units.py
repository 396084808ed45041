"""The kernels over bytes against their definition over strings."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from stages import _ngrams, _units

ALL = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
NO_LIMIT = 10**9


def hashed(texts: Iterable[str]) -> list[int]:
    return [xxhash.xxh64_intdigest(text.encode()) for text in texts]


def expected(text: str, n: int) -> list[int]:
    units = _ngrams.units(text)
    return hashed(_ngrams.ngrams(units, n) if len(units) >= n else [" ".join(units) or text])


def ngram_hashes(texts: list[str], n: int, limit: int = NO_LIMIT) -> list[list[int]]:
    column = pa.array(texts, pa.large_string())
    hashes, splits = _units.ngram_hashes(column, np.full(len(texts), n), limit)
    return [part.tolist() for part in np.split(hashes, splits[1:-1])]


def mixed(generator: random.Random) -> str:
    """Words, Han characters, capitals, accents, apostrophes and signs, and now and then any character at all."""
    pieces = [
        "the",
        "Don’t",
        "O'Brien",
        "Straße",
        "ΐ",
        "ﬃ",
        "naïve",
        "İ",
        "x_y",
        "12",
        "中",
        "文字",
        "々",
        "ー",
        "，",
        " ",
        "\n",
        "…",
        "'",
    ]
    return "".join(generator.choice(pieces) if generator.random() < 0.95 else generator.choice(ALL) for _ in range(80))


def test_every_code_point_is_treated_as_by_the_definition():
    texts = [f"a{'b'.join(ALL[start : start + 64])}文{'中'.join(ALL[start : start + 64])}" for start in range(0, len(ALL), 64)]
    assert ngram_hashes(texts, 2) == [expected(text, 2) for text in texts]


@pytest.mark.parametrize("n", [1, 5, 13])
def test_mixed_texts_have_the_ngrams_of_the_definition(n: int):
    generator = random.Random(n)
    texts = ["", " ", "…", "one", "a b c d e", "a b c d e f", "'", "\u0000", *(mixed(generator) for _ in range(300))]
    assert ngram_hashes(texts, n) == [expected(text, n) for text in texts]


@pytest.mark.parametrize("odd", ["", "'", "é", "中", "，", "’", "İ", "😀", "\x00", "\x7f", "Z"])
def test_words_may_begin_and_end_anywhere_in_a_block(odd: str):
    """Plain text is taken in blocks of 64 bytes: words of all lengths before, across and behind their borders."""
    texts = [
        f"{' ' * gap}{'Ab1' * 50}"[: gap + length] + f"{odd} tail {'x' * 70}, {odd}"
        for gap in range(3)
        for length in range(140)
    ]
    texts += ["." * length + odd + "a" * length for length in range(140)]
    assert ngram_hashes(texts, 1) == [expected(text, 1) for text in texts]


def test_every_byte_of_plain_text_is_told_apart_as_by_the_definition():
    plain = "".join(map(chr, range(128)))
    texts = [plain[turn:] + plain[:turn] for turn in range(128)]
    assert ngram_hashes([f"{text} {text.swapcase()}" for text in texts], 1) == [
        expected(f"{text} {text.swapcase()}", 1) for text in texts
    ]


def test_a_text_never_grows_more_than_there_is_room_for():
    for character in ALL:
        grown = sum(len(unit.encode()) + 1 for unit in _ngrams.units(character))
        assert grown <= _units.GROWTH * len(character.encode())


def test_the_limit_counts_characters():
    text = "中文字abc déf 四五六七八"
    for limit in range(1, len(text) + 2):
        assert ngram_hashes([text], 2, limit) == [expected(text[:limit], 2)]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_slices_of_columns_of_both_kinds(kind: pa.DataType):
    texts = [f"text {number} 中文" for number in range(9)]  # 4 units each
    hashes, splits = _units.ngram_hashes(pa.array(texts, kind).slice(2, 5), np.full(5, 2), NO_LIMIT)
    assert hashes.tolist() == [value for text in texts[2:7] for value in expected(text, 2)]
    assert splits.tolist() == [0, 3, 6, 9, 12, 15]
    empty, ends = _units.ngram_hashes(pa.array([], kind), np.empty(0, np.int64), NO_LIMIT)
    assert len(empty) == 0 and ends.tolist() == [0]


def test_nulls_are_refused():
    with pytest.raises(ValueError, match="1 values are null"):
        _units.utf8(pa.array(["a", None]))


def test_bytes_that_are_not_utf8_only_separate():
    broken = pa.Array.from_buffers(
        pa.large_string(), 1, [None, pa.py_buffer(np.array([0, 7], np.int64)), pa.py_buffer(b"a\xffb\xe4\xb8 \xe4")]
    )
    hashes, _ = _units.ngram_hashes(broken, np.array([1]), NO_LIMIT)
    assert hashes.tolist()[:2] == hashed(["a", "b"])


def test_digest_is_xxh64():
    generator = random.Random(5)
    for length in range(100):
        data, seed = generator.randbytes(length), generator.randrange(2**64)
        assert _units.digest(data, seed) == xxhash.xxh64_intdigest(data, seed)
    assert _units.digest(b"") == 0xEF46DB3751D8E999  # from the specification


def test_fingerprints_are_of_the_sequence_of_units():
    texts = ["To be, or NOT.", "to be or not", "tobe or not", "…", "——", "", "对酒当歌，", "对酒 当歌"]
    column, seeds = pa.array(texts), np.zeros(len(texts), np.uint64)
    marks, units = _units.fingerprints(column, seeds)
    assert units.tolist() == [4, 4, 3, 0, 0, 0, 4, 4]
    normal = [" ".join(_ngrams.units(text)) or text for text in texts]
    assert marks.tolist() == [[xxhash.xxh64_intdigest(text.encode(), seed) for seed in (0, 1)] for text in normal]
    others, _ = _units.fingerprints(column, seeds + np.uint64(7))
    assert not set(marks[:, 0].tolist()) & set(others[:, 0].tolist())

"""What the stage's own settings make: no text is lost; digits, lines, tabs and runs of blanks have pieces as they should."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from model.tokenizer import BLANK, PIECES, SPECIAL, Tokenizer
from stages._params import load_section
from stages.tokenizer import Params, train
from tests.support.text import text

ROOT = Path(__file__).resolve().parents[3]
PROFILE = load_section(Params, ROOT / "params.yaml", "tokenizer")
NUMBERS = [f"In {1000 + 7 * number} there were {number * 7919} of them, 3.14159 each, 2,048 in all." for number in range(400)]
CODE = ["def f(x):", "    if x:", "        return\t0", "                deep" + " " * 40 + "end", "\t\ttabs"] * 40
LINES = [*text("en", 1, 60_000).split("\n"), *text("zh", 1, 60_000).split("\n"), *NUMBERS, *CODE]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The laptop profile's settings, on less text and with fewer pieces."""
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    path.write_bytes(train(LINES, replace(PROFILE, vocab_size=2000, seed_pieces=20_000)))
    return Tokenizer(path)


_PARTS = st.one_of(
    st.text(),  # all of Unicode but surrogates
    st.text(alphabet=" \t\n\r0123456789\u3000\u00a0\u2028\x00" + BLANK),
    st.sampled_from([*PIECES.values(), "<0x0A>", "[MASK", " " * 16, " " * 17, "\r\n", "\ufeff", "१२३", "１２３", "Ⅷ½"]),
    st.sampled_from(["The farmer carried the letter.", "农夫搬走了书信。", NUMBERS[7], CODE[3]]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_PARTS, max_size=8).map("".join))
def test_every_text_comes_back_unchanged(tokenizer: Tokenizer, sample: str) -> None:
    ids = tokenizer.encode(sample)
    assert tokenizer.decode(ids) == sample
    assert all(SPECIAL.eop < piece < tokenizer.piece_count for piece in ids)
    assert tokenizer.encode_batch([sample])[0].tolist() == ids


def test_every_character_comes_back_unchanged_between_any_two(tokenizer: Tokenizer) -> None:
    characters = [chr(code) for code in [*range(0xD800), *range(0xE000, 0x110000)]]
    for between in ("", "\n", "7", " "):
        whole = between.join(characters)
        assert tokenizer.decode_bytes(tokenizer.encode(whole)) == whole.encode()


def test_each_digit_is_a_piece_and_no_piece_holds_two(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.piece(index) for index in range(tokenizer.piece_count)]
    assert not [piece for piece in pieces if re.search(r"\d", piece) and len(piece) > 1 and not piece.startswith("<0x")]
    for number in ("2048", "1907", "00001", "3141592653589793"):
        assert [tokenizer.decode([piece]) for piece in tokenizer.encode(number)] == list(number)
        assert [tokenizer.decode([piece]) for piece in tokenizer.encode(f"x{number}")][-len(number) :] == list(number)


def test_blanks_up_to_the_longest_run_are_one_piece_and_longer_ones_few(tokenizer: Tokenizer) -> None:
    for length in range(1, PROFILE.blank_runs + 1):
        assert len(tokenizer.encode(" " * length)) == 1, length
        assert tokenizer.decode(tokenizer.encode("x" + " " * length + "x")) == "x" + " " * length + "x"
    for length in (17, 31, 32, 33, 100):
        assert len(tokenizer.encode(" " * length)) == -(-length // PROFILE.blank_runs)
    assert [len(tokenizer.encode(sample)) for sample in ("\n", "\t", "\n\n", "\t\t")] == [1, 1, 2, 2]


def test_every_printable_ascii_character_has_a_piece(tokenizer: Tokenizer) -> None:
    for code in range(0x20, 0x7F):
        (piece,) = tokenizer.encode(chr(code))
        assert not tokenizer.is_byte(piece), chr(code)


def test_every_byte_has_a_piece(tokenizer: Tokenizer) -> None:
    assert sorted(tokenizer.byte_values()[tokenizer.byte_values() >= 0].tolist()) == list(range(256))


def test_ids_are_sentencepieces_own_whatever_the_text(tokenizer: Tokenizer) -> None:
    own = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    samples = [*LINES, "\n".join(LINES[:200]), " ".join(PIECES.values()), "\x00\x7f", " " * 100, "🐉" * 40, ""]
    assert [ids.tolist() for ids in tokenizer.encode_batch(samples)] == own.encode(samples)


def test_the_laptop_profile_asks_for_about_twelve_thousand_pieces_of_both_languages_alike() -> None:
    assert 11_000 <= PROFILE.vocab_size <= 13_000
    assert (PROFILE.english_share, PROFILE.pad_multiple, PROFILE.split_digits) == (0.5, 128, True)

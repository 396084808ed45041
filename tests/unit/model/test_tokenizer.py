from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from model.tokenizer import BLANK, PIECES, SPECIAL, Tokenizer, may_hold_blank
from tests.support.text import text

CONTROL = [PIECES[name] for name in ("mask", "gmask", "smask", "sop", "eop")]
HARD = [
    "",
    " ",
    "   leading and trailing   ",
    "tab\there\n\nand  two,   three,                                   many blanks\n",
    f"the sign of a blank {BLANK}{BLANK}x{BLANK}",
    f"{BLANK} {BLANK}",
    "[MASK] [gMASK] [sMASK] <sop> <eop> <eod> <pad> <unk> <0xE2>",
    "\x00\x01\x7f\r\n",
    "\ufeffﬁ ﬂ ① Å Å ｶﾞ Ａ　全角",
    "龘𠀀𪚥👩‍👩‍👧‍👦🏳️‍🌈",
    "\ufffd\ufffe\U0010ffff",
    "e\u0301 é नमस्ते مرحبا",
]


def train(**changes: Any) -> bytes:
    """A small model with the project's settings; `changes` break one of them."""
    model = io.BytesIO()
    lines = (text("en", 1, 60_000) + "\n" + text("zh", 1, 60_000)).split("\n")
    settings: dict[str, Any] = {
        "vocab_size": 1600,
        "character_coverage": 0.999,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
        "pad_id": SPECIAL.pad,
        "unk_id": SPECIAL.unk,
        "bos_id": -1,
        "eos_id": SPECIAL.eod,
        "pad_piece": "<pad>",
        "eos_piece": "<eod>",
        "control_symbols": CONTROL,
        "user_defined_symbols": ["\n", "\t", BLANK * 2, BLANK * 3],
        "num_threads": 1,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **settings | changes)
    return model.getvalue()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    path.write_bytes(train())
    return Tokenizer(path)


@pytest.mark.parametrize("sample", HARD)
def test_hard_text_comes_back_unchanged_and_never_as_special_tokens(tokenizer: Tokenizer, sample: str) -> None:
    ids = tokenizer.encode(sample)
    assert tokenizer.decode(ids) == sample
    assert tokenizer.decode_bytes(ids) == sample.encode()
    assert all(piece > SPECIAL.eop for piece in ids)


_PARTS = st.one_of(
    st.text(),  # all of Unicode but surrogates
    st.text(alphabet=" \t\n\r\u3000" + BLANK),
    st.sampled_from([*HARD, *CONTROL, "The farmer carried the letter.", "农夫搬走了书信。"]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_PARTS, max_size=6).map("".join))
def test_every_text_comes_back_unchanged(tokenizer: Tokenizer, sample: str) -> None:
    ids = tokenizer.encode(sample)
    assert tokenizer.decode(ids) == sample
    assert all(SPECIAL.eop < piece < tokenizer.piece_count for piece in ids)


def test_every_character_of_unicode_comes_back_unchanged(tokenizer: Tokenizer) -> None:
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    assert tokenizer.decode(tokenizer.encode(every)) == every


@pytest.mark.parametrize("between", ["\n", " ", "a", "的"])
def test_every_character_of_unicode_comes_back_unchanged_between_others(tokenizer: Tokenizer, between: str) -> None:
    every = between.join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    ids = tokenizer.encode(every)
    assert tokenizer.decode_bytes(ids) == every.encode()
    assert min(ids) > SPECIAL.eop


def test_characters_come_back_unchanged_as_texts_of_their_own(tokenizer: Tokenizer) -> None:
    every = [chr(code) for code in [*range(0x3000), *range(0xE000, 0x110000, 101)]]
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(every)] == every


@pytest.mark.parametrize("piece", PIECES.values())
@pytest.mark.parametrize("around", ["{}", " {} ", "x{}x", "{0}{0}", "\n{}\n", "。{}。", "\u2581{}\u2581"])
def test_a_special_token_spelled_in_text_stays_text(tokenizer: Tokenizer, piece: str, around: str) -> None:
    sample = around.format(piece)
    for ids in (tokenizer.encode(sample), *tokenizer.encode_batch([sample, sample.encode()])):
        assert min(ids) > SPECIAL.eop
        assert tokenizer.decode(ids) == sample


def test_lines_tabs_and_runs_of_blanks_are_pieces(tokenizer: Tokenizer) -> None:
    assert [len(tokenizer.encode(sample)) for sample in ("\n", "\t", " ", "  ", "   ")] == [1] * 5
    digits = tokenizer.encode("1907 0001")
    assert tokenizer.decode(digits) == "1907 0001"


def test_documents_end_where_it_is_asked_for(tokenizer: Tokenizer) -> None:
    texts = [text("en", 1, 200), "", f"{BLANK}x", BLANK]
    plain, ended = tokenizer.encode_batch(texts), tokenizer.encode_batch([sample.encode() for sample in texts], eod=True)
    assert [[*array.tolist(), SPECIAL.eod] for array in plain] == [array.tolist() for array in ended]
    assert all(array.dtype == np.int32 for array in ended)


def test_a_model_may_come_as_bytes(tokenizer: Tokenizer) -> None:
    again = Tokenizer("s3://bucket/tokenizer.model", tokenizer.path.read_bytes())
    assert again.encode(HARD[3]) == tokenizer.encode(HARD[3])
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        Tokenizer("s3://bucket/tokenizer.model", b"not a model")


def test_byte_values_are_those_of_the_pieces(tokenizer: Tokenizer) -> None:
    values = tokenizer.byte_values()
    assert sorted(values[values >= 0].tolist()) == list(range(256))
    assert all(tokenizer.is_byte(piece) == (value >= 0) for piece, value in enumerate(values.tolist()))
    assert [int(values[piece]) for piece in tokenizer.encode("\U0001f409")] == list("\U0001f409".encode())


def test_batches_equal_single_texts_whatever_the_threads(tokenizer: Tokenizer) -> None:
    texts = [*HARD, *(text("zh", seed, 500) for seed in range(20)), BLANK]
    single = [tokenizer.encode(sample) for sample in texts]
    for threads in (1, 2, 5):
        batch = tokenizer.encode_batch(texts, threads)
        assert [array.tolist() for array in batch] == single
        assert all(array.dtype == np.int32 for array in batch)
    assert tokenizer.encode_batch([]) == []


def test_a_sign_of_a_blank_is_found_wherever_it_stands(tokenizer: Tokenizer) -> None:
    for before in range(5):
        for behind in range(5):
            assert may_hold_blank(np.frombuffer(f"{'x' * before}{BLANK}{'y' * behind}".encode(), np.uint8))
    texts = ["", "x", "五字中文", "no such sign \u2582 here"]
    assert not any(may_hold_blank(np.frombuffer(text.encode(), np.uint8)) for text in texts)
    searched, trusted = tokenizer.encode_batch(texts, eod=True), tokenizer.encode_batch(texts, eod=True, blanks=False)
    assert [ids.tolist() for ids in searched] == [ids.tolist() for ids in trusted]


def test_common_text_is_short_and_needs_no_bytes(tokenizer: Tokenizer) -> None:
    sample = text("en", 2, 2000)
    ids = tokenizer.encode(sample)
    assert len(ids) < len(sample) / 3
    assert not any(tokenizer.is_byte(piece) for piece in ids)


def test_prompts_turn_the_mask_tokens_into_ids(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_prompt("The [MASK] walked[gMASK]home [sMASK] [EOS]")
    assert [piece for piece in ids if piece <= SPECIAL.eop] == [SPECIAL.mask, SPECIAL.gmask, SPECIAL.smask]
    assert tokenizer.decode(ids) == "The walkedhome [EOS]"
    assert tokenizer.encode_prompt("no token here ") == tokenizer.encode("no token here ")
    assert tokenizer.encode_prompt("[MASK]") == [SPECIAL.mask]


def test_the_blank_before_a_mask_belongs_to_what_is_filled_in(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_prompt("It is [MASK] now") == tokenizer.encode_prompt("It is[MASK] now")
    assert tokenizer.encode_prompt("It is  [MASK]") == [*tokenizer.encode("It is "), SPECIAL.mask]


def test_decode_leaves_special_tokens_out_and_shows_broken_bytes(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("\U0001f409")  # no piece of its own: four bytes
    assert len(ids) == 4
    assert tokenizer.decode([SPECIAL.mask, *ids, SPECIAL.eop]) == "\U0001f409"
    assert tokenizer.decode(ids[:3]) == "\ufffd"
    assert tokenizer.decode_bytes(ids[:2]) + tokenizer.decode_bytes(ids[2:]) == "\U0001f409".encode()
    assert tokenizer.decode(np.array(ids)) == "\U0001f409"


@pytest.mark.parametrize("index", [-1, 1600, 10**6])
def test_decode_refuses_ids_outside_the_vocabulary(tokenizer: Tokenizer, index: int) -> None:
    with pytest.raises(ValueError, match=rf"id {index} is outside the vocabulary of 1600 pieces"):
        tokenizer.decode([index])


@pytest.mark.parametrize("texts", [["fine", "\ud800"], [f"{BLANK}\udfff"]])
def test_a_surrogate_is_refused(tokenizer: Tokenizer, texts: list[str]) -> None:
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode_batch(texts)


def test_padded_size_is_the_next_multiple(tokenizer: Tokenizer) -> None:
    assert tokenizer.piece_count == 1600
    assert [tokenizer.padded_size(multiple) for multiple in (1, 128, 1600, 1601)] == [1600, 1664, 1600, 1601]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"control_symbols": CONTROL[1:]}, r"piece 3 is '\[gMASK\]', not '\[MASK\]'"),
        ({"pad_id": -1}, "piece 0 is"),
        ({"byte_fallback": False}, "loses text"),
        ({"add_dummy_prefix": True}, "loses text"),
        ({"remove_extra_whitespaces": True}, "loses text"),
        ({"normalization_rule_name": "nmt_nfkc"}, "loses text"),
    ],
)
def test_a_model_that_breaks_the_contract_is_refused(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train(vocab_size=1000, **changes))
    with pytest.raises(ValueError, match=complaint):
        Tokenizer(path)


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.model"):
        Tokenizer(path)

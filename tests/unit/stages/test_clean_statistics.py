"""The statistics against the plain-Python oracle, and the rules on them."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import clean
from stages.clean import characters, counting, phrases, rules, runs
from stages.clean.columns import COLUMNS, PHRASES, STOP_WORDS
from stages.clean.statistics import Statistics, measure
from tests.support import clean_oracle
from tests.support.cleaning_project import params
from tests.support.text import text as sample_text

PARAMS = params(clean)
WORDS = "the be to of AND That have WITH there Terms of Use Privacy Policy JavaScript lorem ipsum use cookies"
MARKS = "a b c ab 1 2.5 # { } _ ' - • ... .... … …… 。 ！ ” é ﬁ \u0301 Ⅳ ٣ \U0001f600 \ufffd \ufeff \ue000 \U0010ffff"
UNSPACED = "人民 共和國 国 學 〇 か 한 \U00020000"
BLANKS = ("\n", "\n\n", "\n \n", " ", "\t", "\u3000", "\u2003", "\xa0", "\x85", "\u2028")
PIECES = [*WORDS.split(), *PHRASES, *MARKS.split(), *UNSPACED.split(), "- ", ". . .", *BLANKS]


def differences(texts: list[str]) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """(text, column -> (ours, oracle's)) wherever the two disagree."""
    found = []
    for text, row in zip(texts, measure(texts).counts.tolist(), strict=True):
        ours, oracle = dict(zip(COLUMNS, row, strict=True)), clean_oracle.measure(text)
        if ours != oracle:
            found.append((text, {name: (ours[name], oracle[name]) for name in COLUMNS if ours[name] != oracle[name]}))
    return found


class TestStatistics:
    def test_agree_with_the_oracle_on_mixtures(self):
        draw = random.Random(1)
        texts = ["".join(draw.choices(PIECES, k=draw.randrange(90))) for _ in range(2000)]
        assert differences(texts) == []

    def test_agree_with_the_oracle_on_few_units_that_repeat_much(self):
        draw = random.Random(2)
        texts = ["".join(draw.choices("ab 国\n", k=draw.randrange(120))) for _ in range(1000)]
        assert differences(texts) == []

    def test_agree_with_the_oracle_on_text(self):
        texts = [sample_text(lang, seed, 2000) for lang in ("en", "zh") for seed in range(30)]
        assert differences(texts) == []

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(PIECES)), max_size=30))
    def test_agree_with_the_oracle_on_any_text(self, pieces):
        assert differences([*pieces, "".join(pieces)]) == []

    def test_every_character_has_one_class_and_the_table_is_the_definition(self):
        table = characters.table()
        codes = [*range(0, 0x3100), *random.Random(3).sample(range(0x3100, characters.CODE_POINTS), 20000)]
        assert [code for code in codes if table[code] != characters.classes(chr(code))] == []

    def test_phrases_and_stop_words_are_found_by_short_cuts_that_miss_none(self):
        assert all(any(hint in phrase for hint in phrases.HINTS) for phrase in PHRASES)
        found = measure([f"x{word.upper()} {word.title()}, {word}y" for word in STOP_WORDS])
        assert found["stop_words"].tolist() == [1] * len(STOP_WORDS)
        assert np.count_nonzero(counting._STOP_TABLE) == len(STOP_WORDS)
        assert measure(["USE COOKIES", "causes cookies", "my JavaScripts\nprivacy policy", "privacy\npolicy"]).counts[
            :, [COLUMNS.index("policy_lines"), COLUMNS.index("javascript_lines")]
        ].tolist() == [[1, 0], [1, 0], [1, 1], [0, 0]]

    def test_eight_bytes_at_once_are_read_as_one_by_one(self):
        draw = random.Random(4)
        text = bytes(draw.choice(b"azAZ09@[`{/: \x00\x7f\x80\xff" + b"abcdefgh" * 8) for _ in range(4000))
        buffer = np.frombuffer(text, np.uint8)
        for place in range(len(text) - 8):
            end = min(len(text), place + draw.randrange(1, 12))
            assert runs.ascii_word(buffer, place, end) == runs._last_word(buffer, place, end)

    def test_a_word_is_the_same_at_the_end_of_the_buffer_and_before_it(self):
        words = ["a", "abcdefg", "abcdefgh", "abcdefghi", "abcdefghijklmnopq", "naïveté", "café"]
        assert differences([f"{word} {word}" for word in words]) == []
        assert differences([f"{word} {word}" + " and more" * 9 for word in words]) == []

    def test_scripts_count_every_character_once(self):
        text = "Aé三〇𠀀か9Ⅳ，.#□$\ufffd \n\u0301\ue000"
        counts = measure([text])
        assert counts.characters.tolist() == [len(text)]
        names = ("han", "latin", "other_letter", "digit", "punctuation", "symbol", "operator", "replacement", "blank", "mark")
        assert [int(counts[name][0]) for name in names] == [3, 2, 1, 2, 2, 2, 1, 1, 2, 1]
        assert counts.letters.tolist() == [6]

    def test_simplified_and_traditional(self):
        counts = measure(["学习国语", "學習國語", "人山日月"])
        assert counts["simplified"].tolist() == [4, 0, 0]
        assert counts["traditional"].tolist() == [0, 4, 0]

    def test_a_batch_is_its_documents(self):
        texts = ["a b c", "", "国 国\n国 国", "the end...\n\nthe end...\n\n"]
        together = measure(texts).counts
        assert np.array_equal(together, np.concatenate([measure([text]).counts for text in texts]))
        assert len(measure([])) == 0

    def test_repetition_by_hand(self):
        counts = measure(["a b c a b c a b", "x y\nz\n\nx y\nz\n\nw"])
        assert int(counts["top_2_gram_characters"][0]) == 6  # "a b" three times
        assert int(counts["top_3_gram_characters"][0]) == 6  # "a b c" twice
        assert int(counts["duplicate_5_gram_characters"][0]) == 5  # "a b c a b" from the fourth letter on
        assert int(counts["duplicate_6_gram_characters"][0]) == 0
        assert int(counts["duplicate_paragraphs"][1]) == 1
        assert int(counts["duplicate_paragraph_characters"][1]) == 4
        assert int(counts["duplicate_lines"][1]) == 2


def only(**limits) -> rules.Limits:
    """Limits with every rule off but those named."""
    return rules.Limits(**({field.name: None for field in dataclasses.fields(rules.Limits)} | limits))


def failing(text: str, limits: rules.Limits) -> list[str]:
    judged = ((rule.name, rules.judge(rule, measure([text]), limits)) for rule in rules.RULES)
    return [name for name, judgement in judged if judgement is not None and judgement.fails[0]]


PROSE = (
    "It was the best of times, it was the worst of times, and the people of the town went on with their work as they have "
    "always done, for there is little to be gained by those who wait."
)
NGRAMS = (0.2, 0.18, 0.16)


class TestRules:
    @pytest.mark.parametrize(
        ("text", "limit", "value", "name"),
        [
            ("To be, or not to be.", "min_characters", 100, "too_short"),
            (PROSE, "max_characters", 150, "too_long"),
            (PROSE + " \ufffd", "max_replacement_share", 0.001, "replacement_characters"),
            ("人间何处难忘酒。\n□□□□□□斗。", "max_symbol_ratio", 0.1, "symbols"),
            ("so... it... goes... on", "max_ellipsis_ratio", 0.1, "ellipses"),
            ("if (a) { b(); }", "max_curly_brace_ratio", 0.0, "curly_braces"),
            ("Lorem Ipsum dolor sit amet", "max_lorem_ipsum", 0, "lorem_ipsum"),
            ("a b c d e f", "min_mean_word_length", 3.0, "short_words"),
            ("Donaudampfschifffahrtsgesellschaft " * 2, "max_mean_word_length", 10.0, "long_words"),
            ("a 1 2 3", "min_alphabetic_word_share", 0.8, "alphabetic_words"),
            ("Il était une fois", "min_stop_words", 2, "stop_words"),
            ("- a\n- b\nc", "max_bullet_line_share", 0.5, "bullet_lines"),
            ("a...\nb…\nc", "max_ellipsis_line_share", 0.3, "ellipsis_lines"),
            ("a\nb\nc\nd.", "min_terminal_line_share", 0.5, "unpunctuated_lines"),
            ("short\nlines", "max_short_line_share", 0.67, "short_lines"),
            ("Home\nAbout us\n" + PROSE, "max_few_word_line_share", 0.5, "few_word_lines"),
            ("one\ntwo\nthree", "max_newline_ratio", 0.3, "newlines"),
            ("Please enable JavaScript.\nText", "max_javascript_line_share", 0.2, "javascript_lines"),
            ("Our Privacy Policy\nText", "max_policy_line_share", 0.2, "policy_lines"),
            ("a b\na b\nc d", "max_duplicate_line_share", 0.3, "duplicate_lines"),
            (f"{PROSE}\n{PROSE}\nab", "max_duplicate_line_character_share", 0.2, "duplicate_characters"),
            ("a\nb\n\na\nb\n\nc", "max_duplicate_paragraph_share", 0.3, "duplicate_paragraphs"),
            (f"{PROSE}\n\n{PROSE}\n\nab", "max_duplicate_paragraph_character_share", 0.2, "duplicate_paragraph_characters"),
            ("buy now " * 5 + PROSE, "max_top_ngram_shares", NGRAMS, "top_ngrams"),
            (PROSE + PROSE, "max_duplicate_ngram_shares", (0.15, 0.14, 0.13, 0.12, 0.11, 0.1), "duplicate_ngrams"),
        ],
    )
    def test_each_rule_fails_what_it_is_for_and_nothing_where_it_is_off(self, text, limit, value, name):
        assert failing(text, only(**{limit: value})) == [name]
        assert failing(text, only()) == []
        assert failing(PROSE, PARAMS.en) == []

    def test_every_rule_has_a_limit_and_every_limit_a_rule(self):
        assert sorted(rule.limit for rule in rules.RULES) == sorted(field.name for field in dataclasses.fields(rules.Limits))

    @pytest.mark.parametrize(
        "poem",
        [
            "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。",
            "长相思。\n长相思。\n若问相思甚了期。\n除非相见时。\n长相思。\n长相思。\n欲把相思说似谁。\n浅情人不知。",
            "采采芣苡，薄言采之。采采芣苡，薄言有之。\n采采芣苡，薄言掇之。采采芣苡，薄言捋之。\n采采芣苡，薄言袺之。采采芣苡，薄言襭之。",
        ],
    )
    def test_refrains_are_no_fault_of_a_song(self, poem):
        assert failing(poem, PARAMS.zh) == []

    def test_a_limit_is_met_by_what_equals_it(self):
        assert failing("a b\na b", only(max_duplicate_line_share=0.5)) == []
        assert failing("a b c", only(min_characters=3)) == []

    def test_of_several_thresholds_the_one_failed_by_most_is_named(self):
        judgement = rules.judge(rules.RULES[-2], measure(["spam " * 10]), only(max_top_ngram_shares=(0.9, 0.1, 0.5)))
        assert judgement is not None
        assert judgement.limit.tolist() == [0.1]

    def test_wrong_number_of_thresholds(self):
        with pytest.raises(ValueError, match="max_top_ngram_shares: expected a share for each n of"):
            only(max_top_ngram_shares=(0.2, 0.1))

    def test_empty_documents_divide_by_nothing(self):
        empty = Statistics(np.zeros((2, len(COLUMNS)), np.int64))
        assert all(np.isfinite(rule.value(empty)).all() for rule in rules.RULES)

from __future__ import annotations

import dataclasses

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import _documents, clean
from stages._runner import StageError
from tests.support.cleaning_project import document, params, run, write_corpus

PROSE = (
    "It was the best of times, it was the worst of times, and the people of the town went on with their work as they have "
    "always done, for there is little to be gained by those who wait."
)
FRENCH = (
    "Il était une fois un prince qui aimait une bergère plus que tous ses royaumes, mais elle ne voulait rien savoir de "
    "lui, ni de sa fortune."
)
QUATRAIN = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。"
PARAMS = params(clean)


def reason(text: str) -> str | None:
    return clean.judge(text, PARAMS).reason


class TestNormalise:
    @pytest.mark.parametrize(
        ("raw", "expected"),
        [
            ("a\r\nb\rc\u2028d\x0ce\x85f", "a\nb\nc\nd\ne\nf"),
            ("a\x00b\u200bc\ufeffd\u00ade\u202ef", "abcdef"),
            ("a\u00a0b\u2009c", "a b c"),
            ("a \t\nb\u3000\n\u3000\u3000c", "a\nb\n\u3000\u3000c"),
            ("\n\n a\n \n\n\t\nb\n\n", " a\n\nb"),
            ("e\u200b\u0301", "é"),
            ("，。！（）「」：", "，。！（）「」："),
            ("👨\u200d👩\u200d👧 a\u200db", "👨\u200d👩\u200d👧 ab"),
            ("", ""),
        ],
    )
    def test_examples(self, raw, expected):
        assert clean.normalise(raw) == expected

    def test_nfkc_is_a_choice_that_changes_chinese_punctuation(self):
        assert clean.normalise("，ＡＢ", "NFC") == "，ＡＢ"
        assert clean.normalise("，ＡＢ", "NFKC") == ",AB"

    def test_blank_lines_by_parameter(self):
        assert clean.normalise("a\n\n\n\nb", max_blank_lines=0) == "a\nb"
        assert clean.normalise("a\n\n\n\nb", max_blank_lines=2) == "a\n\n\nb"

    @given(st.text(alphabet=st.characters(exclude_categories=["Cs"]) | st.sampled_from("\r\n\u200d\u200b\u0301 \u3000👩é")))
    def test_is_a_fixed_point(self, text):
        once = clean.normalise(text)
        assert clean.normalise(once) == once

    def test_long_runs_of_blanks_take_linear_time(self):
        assert clean.normalise("a" + " " * 2_000_000 + "b").endswith(" b")


class TestLanguage:
    @pytest.mark.parametrize(
        ("text", "lang"),
        [
            (PROSE, "en"),
            (QUATRAIN, "zh"),
            ("`SHOW SCHEMAS` 语句是 `SHOW DATABASES` 的别名，用于列出数据库。", "zh"),
            ("The novel 三国演义 is set in the turbulent years towards the end of the Han dynasty.", "en"),
            ("吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。", None),
            ("Мой дядя самых честных правил", None),
            ("12:30 —— 45", None),
        ],
    )
    def test_by_script(self, text, lang):
        assert clean.identify(clean.count_scripts(text), PARAMS) == lang

    def test_scripts_count_every_character_once(self):
        text = "Aé三〇𠀀か9Ⅳ，.#□$\ufffd \n\u0301\ue000"
        scripts = clean.count_scripts(text)
        assert scripts.total == len(text)
        assert (scripts.han, scripts.latin, scripts.other_letter, scripts.digit) == (3, 2, 1, 2)
        assert (scripts.punctuation, scripts.symbol, scripts.operator, scripts.replacement) == (2, 2, 1, 1)
        assert (scripts.blank, scripts.mark, scripts.unassigned) == (2, 1, 1)


class TestRules:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (PROSE, None),
            (QUATRAIN, None),
            ("长相思。\n长相思。\n若问相思甚了期。\n除非相见时。\n长相思。\n长相思。\n欲把相思说似谁。\n浅情人不知。", None),
            ("To be, or not to be.", "too_short"),
            ("侣？。", "too_short"),
            ("……。", "language"),
            (PROSE + " \ufffd\ufffd", "replacement_characters"),
            ("人间何处难忘酒。\n□□□□□□斗。\n不是慕荣华。\n惟愁月□□。", "symbols"),
            ("\n".join(f"- the people of the town have number {n}" for n in "abcdef"), "bullet_lines"),
            ("\n".join(f"the people of the town have number {n} ..." for n in "abcdef"), "ellipsis_lines"),
            ("\n".join(["and the people of the town have gone"] * 5), "duplicate_lines"),
            ("\n".join([PROSE, PROSE, "a b", "c d", "e f", "g h"]), "duplicate_characters"),
            ("the and " + "Donaudampfschifffahrtsgesellschaft " * 8, "word_length"),
            ("the and of " + "12345 " * 8 + PROSE[:60] + " 99 1234 12 53", "alphabetic_words"),
            (FRENCH, "stop_words"),
        ],
    )
    def test_first_failing_rule_is_the_reason(self, text, expected):
        assert reason(text) == expected

    def test_too_long(self):
        tight = dataclasses.replace(PARAMS, en=dataclasses.replace(PARAMS.en, max_characters=150))
        assert clean.judge(PROSE, tight).reason == "too_long"

    def test_null_switches_a_rule_off(self):
        loose = dataclasses.replace(PARAMS, en=dataclasses.replace(PARAMS.en, min_stop_words=None))
        assert clean.judge(FRENCH, loose).reason is None

    def test_detail_gives_value_and_limit(self):
        assert clean.judge("侣？。", PARAMS).detail == "1 < 10"


class TestStage:
    def test_every_document_is_kept_or_dropped_with_a_reason(self, tmp_path):
        rows = [
            document("a/1", PROSE + "\r\n"),
            document("a/2", "too short"),
            document("a/3", QUATRAIN, lang="en"),
            document("b/1", "……", lang="zh"),
        ]
        write_corpus(tmp_path, rows)
        counts = run(clean, tmp_path)
        kept = {row["doc_id"]: row for row in _documents.read_documents(tmp_path / "data/clean")}
        drops = pq.read_table(tmp_path / "data/clean/drops.parquet").to_pylist()
        assert sorted(kept) == ["a/1", "a/3"]
        assert kept["a/1"]["text"] == PROSE
        assert kept["a/1"]["raw_sha256"] == rows[0]["raw_sha256"]
        assert kept["a/3"]["lang"] == "zh"
        assert [(row["doc_id"], row["lang"], row["reason"]) for row in drops] == [
            ("a/2", "en", "too_short"),
            ("b/1", "und", "language"),
        ]
        assert counts["drops"] == {"language": {"und": 1}, "too_short": {"en": 1}}
        assert counts["relabelled"] == {"en to zh": 1}
        assert counts["documents_in"] == counts["documents"] + counts["dropped"] == 4
        assert counts["languages"]["en"]["bytes"] == len(PROSE)

    def test_a_shard_may_lose_all_its_documents(self, tmp_path):
        write_corpus(tmp_path, [document("a/1", PROSE), document("b/1", "x")])
        run(clean, tmp_path)
        files = _documents.document_files(tmp_path / "data/clean")
        assert [pq.read_metadata(file).num_rows for file in files] == [1, 0]

    def test_nothing_left_is_an_error(self, tmp_path):
        write_corpus(tmp_path, [document("a/1", "x")])
        with pytest.raises(StageError, match="no document is left of 1"):
            run(clean, tmp_path)

"""Normalisation, repair of mojibake, identification of the language, masking of personal data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.clean import language
from stages.clean.normalise import gbk_as_latin, normalise, repair
from stages.clean.privacy import Masks, mask
from stages.clean.statistics import measure

MASKS = Masks(email="<email>", resident_id="<id>", ip="<ip>", phone="<phone>")
LIMITS = language.Limits(min_han_share=0.2, min_mixed_share=0.05, max_other_share=0.2, min_confidence=0.2)
CHINESE = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"


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
        assert normalise(raw) == expected

    def test_nfkc_is_a_choice_that_changes_chinese_punctuation(self):
        assert normalise("，ＡＢ", "NFC") == "，ＡＢ"
        assert normalise("，ＡＢ", "NFKC") == ",AB"

    def test_blank_lines_by_parameter(self):
        assert normalise("a\n\n\n\nb", max_blank_lines=0) == "a\nb"
        assert normalise("a\n\n\n\nb", max_blank_lines=2) == "a\n\n\nb"

    @given(st.text(alphabet=st.characters(exclude_categories=["Cs"]) | st.sampled_from("\r\n\u200d\u200b\u0301 \u3000👩é\t")))
    def test_is_a_fixed_point(self, text):
        once = normalise(text)
        assert normalise(once) == once

    def test_long_runs_of_blanks_take_linear_time(self):
        assert normalise("a" + " " * 2_000_000 + "b").endswith(" b")


class TestRepair:
    @pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
    @pytest.mark.parametrize("text", ["naïve café – it’s “so", "Ça coûte 20 € à Noël", "Größenwahn, überall"])
    def test_utf8_read_in_a_single_byte_encoding(self, text, encoding):
        broken = text.encode().decode(encoding)
        assert broken != text
        assert repair(f"plain\n{broken}\nplain") == (f"plain\n{text}\nplain", 1)

    def test_chinese_utf8_read_as_latin_1(self):
        assert repair(CHINESE.encode().decode("latin-1")) == (CHINESE, 1)

    @pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
    def test_chinese_gbk_read_as_latin(self, encoding):
        assert repair("Title: " + CHINESE.encode("gbk").decode(encoding)) == ("Title: " + CHINESE, 1)

    @pytest.mark.parametrize(
        "text",
        [
            CHINESE,
            "他说：“你好……”——然后《走了》。",
            "Le garçon a mangé des crêpes à l’œuf, où ça ?",
            "Tiếng Việt là ngôn ngữ của người Việt, đó là điều hiển nhiên.",
            "Москва — столица России",
            "ÀÉÎÕÜ àéîõü ßÿ",
            "Ã is a letter, and so is Â.",
            "x² + y² ≤ 1, µ ≈ 3 °C, § 5, © 2020",
            "",
        ],
    )
    def test_sound_text_is_left_alone(self, text):
        assert repair(text) == (text, 0)

    def test_only_broken_lines_change_and_quotes_stay_curly(self):
        text = "“It’s fine”，ＡＢＣ ﬁ\ncafÃ©"
        assert repair(text) == ("“It’s fine”，ＡＢＣ ﬁ\ncafé", 1)

    def test_a_few_accents_are_no_chinese(self):
        assert gbk_as_latin("déjà vu, près de là, à côté") is None
        assert gbk_as_latin("ÄÖÜ ÄÖ") is None


class TestLanguage:
    @pytest.mark.parametrize(
        ("text", "code"),
        [
            (
                "It was the best of times, it was the worst of times, it was the age of wisdom and of foolishness.",
                "en",
            ),
            ("Now is the Winter of our Discontent, Made glorious Summer by this Son of Yorke", "en"),
            (CHINESE, "zh"),
            ("學而時習之，不亦說乎？", "zh"),
            ("`SHOW SCHEMAS` 语句是 `SHOW DATABASES` 的别名，用于列出数据库。", "zh"),
            ("$ sudo apt-get install --only-upgrade bash libreadline-dev 然后重启终端", "zh"),
            ("The novel 三国演义 is set in the turbulent years towards the end of the Han dynasty.", "en"),
        ],
    )
    def test_english_and_chinese(self, text, code):
        assert identify(text).code == code

    @pytest.mark.parametrize(
        ("text", "detail"),
        [
            ("Il était une fois un prince qui aimait une bergère plus que tous ses royaumes, mais elle ne voulait rien.", "fr"),
            ("Es war einmal ein König, der hatte eine Tochter, die war so schön wie keine andere im ganzen Lande.", "de"),
            ("吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。", "ja"),
            ("Мой дядя самых честных правил, когда не в шутку занемог", "ru"),
            ("12:30 —— 45", "no letters"),
        ],
    )
    def test_others_are_named(self, text, detail):
        found = identify(text)
        assert found.code == "und"
        assert found.detail.startswith(detail)

    def test_what_cld2_refuses_goes_to_fasttext(self):
        text = "The quick brown fox jumps over the lazy dog and runs away from it. \ufffe\U0001ffff"
        assert language.cld2(text) == ("un", False)
        assert identify(text).code == "en"


def identify(text):
    counts = measure([text])
    columns = (int(counts[name][0]) for name in ("han", "latin", "other_letter", "stop_words"))
    return language.identify(text, *columns, limits=LIMITS)


def resident_id(first_17: str) -> str:
    weights = [2**power % 11 for power in range(17, 0, -1)]
    return first_17 + "10X98765432"[sum(weight * int(digit) for weight, digit in zip(weights, first_17, strict=True)) % 11]


class TestMask:
    @pytest.mark.parametrize(
        ("text", "masked"),
        [
            ("写信到zhang.san@example.com.cn吧", "写信到<email>吧"),
            ("mail bob+x@a-b.org.", "mail <email>."),
            ("加QQ邮箱12345678@qq.com", "加QQ邮箱<email>"),
            ("服务器203.0.114.5。", "服务器<ip>。"),
            ("from 8.8.4.40, port 53", "from <ip>, port 53"),
            ("at 2001:4860:4860::8888 now", "at <ip> now"),
            ("手机13812345678，电话010-62781234或（021）62781234", "手机<phone>，电话<phone>或<phone>"),
            ("+86 138 1234 5678; 0755 26001234", "<phone>; <phone>"),
            ("(555) 234-5678 or 555-234-5678", "<phone> or <phone>"),
            ("+44 20 7946 0958, +1 650 253 0000", "<phone>, <phone>"),
            (f"身份证{resident_id('11010519491231002')}。", "身份证<id>。"),
        ],
    )
    def test_personal_data(self, text, masked):
        assert mask(text, MASKS)[0] == masked
        assert mask(masked, MASKS)[0] == masked

    @pytest.mark.parametrize(
        "text",
        [
            "version 114.0.12.33, v2.34.56.78, 版本 10.20.30.40, section 1.2.3.4",
            "192.168.1.1, 127.0.0.1, 10.20.30.40, 300.1.2.3, Chrome/96.0.4664.110, 1.22.3.4.5",
            "ISBN 978-7-111-40701-0, 0-306-40615-2, 9787111407010",
            "2023-01-15 12:30:45, 2021/10/10, 20230115123045, 1999-2000-2001",
            "π = 3.14159265358979, 1,234,567,890, 100 000 000, 0.13812345678",
            "npm i react@18.2.0, logo@2x.png, git@github.com:a/b, @handle, a @ b",
            "std::vector<int>, face::dead, 12:30:45, 2001:db8::1, ::1",
            "http://a.org/13812345678?id=13912345678",
            "123456789012345678, 1234567890123456",
        ],
    )
    def test_other_numbers_stay(self, text):
        assert mask(text, MASKS) == (text, {})

    def test_a_resident_number_needs_its_check_character_region_and_date(self):
        right = resident_id("11010519491231002")
        for wrong in (right[:-1] + "0", resident_id("99010519491231002"), resident_id("11010519491331002")):
            assert mask(wrong, MASKS)[1] == {}

    def test_counts_by_kind_and_null_leaves_a_kind_alone(self):
        text = "a@b.org, c@d.net, 13812345678"
        assert mask(text, MASKS)[1] == {"email": 2, "phone": 1}
        assert mask(text, Masks(email=None, resident_id=None, ip=None, phone="<phone>")) == (
            "a@b.org, c@d.net, <phone>",
            {"phone": 1},
        )

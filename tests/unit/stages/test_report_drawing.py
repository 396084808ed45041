"""Words and pictures of the report: excerpts, marked passages, scales and charts."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from stages.report.charts import Line, Marker, Row, Value, Words, bar_chart, bins, line_chart, value_chart
from stages.report.corpus import around, differences, excerpt
from stages.report.svg import Scale, rounded, spread, tag, text, ticks


def test_excerpts_count_columns() -> None:
    assert excerpt("one\n\n\ntwo") == "one\ntwo"
    assert excerpt("a" * 200, 10) == "a" * 10 + " …"
    assert excerpt("明" * 200, 10) == "明" * 5 + " …"


def test_differences_are_marked_and_line_ends_are_none() -> None:
    left, right = differences("仿佛古容儀，\n含愁帶曙輝。", "髣髴古容儀，含愁帶曙輝。")
    assert left == "<mark>仿佛</mark>古容儀，含愁帶曙輝。" and right == "<mark>髣髴</mark>古容儀，含愁帶曙輝。"
    left, right = differences("one\ntwo <b>", "one two <i>")
    assert left == "one two &lt;<mark>b</mark>&gt;" and right == "one two &lt;<mark>i</mark>&gt;"
    assert differences("same", "same") == ("same", "same")


def test_a_shared_passage_is_found_in_spite_of_case_and_punctuation() -> None:
    found = around("He said: “Don't go, O Captain!” & left.", "dont go o captain")
    assert found == "He said: “<mark>Don&#39;t go, O Captain</mark>!” &amp; left."
    assert around("<x>", "not there") == "<mark>not there</mark>"


@pytest.mark.parametrize(
    ("low", "high", "count", "found"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (0.03, 0.31, 4, [0.1, 0.2, 0.3]),
        (-1, 1, 4, [-1, -0.5, 0, 0.5, 1]),
        (0, 1575, 3, [0, 1000]),
        (7, 7, 4, [7]),
        (1e-9, 9e-9, 4, [2e-9, 4e-9, 6e-9, 8e-9]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, count: int, found: list[float]) -> None:
    assert ticks(low, high, count) == pytest.approx(found, abs=1e-12)
    assert len(ticks(low, high, count)) <= count + 1


def test_scales() -> None:
    scale = Scale(0, 10, 100, 0)
    assert (scale(0), scale(10), scale(5)) == (100, 0, 50)
    assert Scale(3, 3, 0, 10)(3) == 5
    assert rounded(0.11, 0.93, 4) == pytest.approx((0, 1))
    assert rounded(5, 5, 4) == (4.5, 5.5)


def test_labels_are_moved_apart_as_little_as_needed() -> None:
    assert spread([0, 100], 14) == [0, 100]
    assert spread([10, 10], 14) == [3, 17]
    moved = spread([50, 0, 49, 51], 10)
    assert sorted(moved)[1:] == [40, 50, 60] and moved[1] == 0 and moved[2] < moved[0] < moved[3]
    assert spread([], 5) == []


def test_bins_keep_mean_and_extremes() -> None:
    assert bins([1, 2, 3, 4], [1.0, None, 3.0, 8.0], 2) == ([1.0, 3.5], [1.0, 5.5], [1.0, 3.0], [1.0, 8.0])
    assert bins([1, 2], [1.0, 2.0], 10)[1] == [1.0, 2.0]
    assert bins([1], [None], 10) == ([], [], [], [])
    values = [math.sin(x) for x in range(1000)]
    x, mean, low, high = bins(range(1000), values, 100)
    assert len(x) == 100 and all(a <= b <= c for a, b, c in zip(low, mean, high, strict=True))


def test_charts_escape_their_words() -> None:
    words = Words("name", "<b>", "a & b", "x<", "y>")
    charts = [
        line_chart(
            words,
            [Line("<i>", "c-1", [0, 1], [1.0, 2.0]), Line("&", "c-2", [0, 1], [1.0, 2.0])],
            (300, 200),
            [Marker(1, "<m>")],
        ),
        value_chart(words, [Row("<r>", [Value("<v>", "c-1", 1.0, 0.5, 1.5)]), Row("<h>", heading=True)], 300, Marker(0, "0")),
        bar_chart(words, [("<l>", "c-1", 0.0, "<behind>")], 300),
    ]
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root[0].text == "<b>" and root[1].text == "a & b"
    assert tag("a", href='"><x>') == '<a href="&quot;&gt;&lt;x&gt;"/>'
    assert text("<", 1, 2.50) == '<text x="1" y="2.5">&lt;</text>'

"""The words of the section "Gates"."""

from __future__ import annotations

from typing import Any

import pytest

from stages.report.gates import asked, observed


@pytest.mark.parametrize(
    ("expectation", "arguments", "words"),
    [
        ("between", {"min_value": 0, "max_value": 0}, "0"),
        ("between", {"min_value": 0.35, "max_value": 0.65}, "0.35 to 0.65"),
        ("between", {"min_value": 1_000_000, "max_value": None}, "at least 1,000,000"),
        ("between", {"min_value": None, "max_value": 0.001}, "at most 0.001"),
        ("be_in_set", {"value_set": ["en", "zh"]}, "one of en, zh"),
        ("be_in_set", {"value_set": [True]}, "one of yes"),
        ("be_in_set", {"value_set": [""]}, "one of nothing"),
        ("not_be_null", {}, "not be null"),
    ],
)
def test_what_is_asked_for(expectation: str, arguments: dict[str, Any], words: str) -> None:
    row = {"expectation": f"expect_column_values_to_{expectation}", "arguments": {"column": "x"} | arguments}
    assert asked(row) == words


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(None, None, ""), ("en", "zh", ""), (3, 3, "3"), (0.41777, 1234.0, "0.4178 to 1234"), (True, True, "yes")],
)
def test_what_was_observed(low: Any, high: Any, words: str) -> None:
    assert observed({"observed": {"low": low, "high": high}}) == words

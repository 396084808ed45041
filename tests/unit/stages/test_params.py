from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml

from stages._params import (
    Fraction,
    OneOf,
    ParamsError,
    Positive,
    Range,
    Seed,
    load_file,
    load_section,
    parse,
    read_yaml,
    to_plain,
)


@dataclass(frozen=True)
class Inner:
    rate: float
    mode: Annotated[str, OneOf("fast", "slow")] = "fast"


@dataclass(frozen=True)
class Outer:
    count: Positive
    share: Fraction
    inner: Inner
    names: tuple[str, ...] = ()
    limit: int | None = None
    by_language: dict[str, Inner] = field(default_factory=dict)
    flag: bool = False
    seed: Seed = 1
    level: Annotated[float, Range(-1.5, 1.5)] = 0.0

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < self.count:
            raise ValueError("limit is smaller than count")


GOOD: dict[str, Any] = {
    "count": 2,
    "share": 1,
    "inner": {"rate": 0.5},
    "names": ["a", "b"],
    "by_language": {"zh": {"rate": 1, "mode": "slow"}},
}


def test_plain_data_becomes_typed_and_back() -> None:
    value = parse(Outer, GOOD, "params.yaml: outer")
    assert value == Outer(2, 1.0, Inner(0.5, "fast"), ("a", "b"), None, {"zh": Inner(1.0, "slow")})
    assert isinstance(value.share, float)
    plain = to_plain(value)
    assert plain["by_language"] == {"zh": {"rate": 1.0, "mode": "slow"}}
    assert parse(Outer, plain, "again") == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "p: outer.count: 0 is not allowed; allowed: 1 to"),
        ({"count": 2.0}, "p: outer.count: 2.0 has the wrong type; expected int"),
        ({"count": True}, "p: outer.count: True has the wrong type; expected int"),
        ({"count": "2"}, "p: outer.count: '2' has the wrong type; expected int"),
        ({"share": 1.01}, "p: outer.share: 1.01 is not allowed; allowed: 0.0 to 1.0"),
        ({"share": "1e-3"}, "write 1.0e-3"),
        ({"share": None}, "p: outer.share: None has the wrong type; expected float"),
        ({"share": True}, "p: outer.share: True has the wrong type; expected float"),
        ({"share": float("nan")}, "p: outer.share: nan is not allowed; allowed: 0.0 to 1.0"),
        ({"inner": 3}, "p: outer.inner: expected a mapping, found 3"),
        ({"inner": {}}, "p: outer.inner.rate: missing; expected float"),
        ({"inner": {"rate": 1.0, "mode": "quick"}}, "p: outer.inner.mode: 'quick' is not allowed; allowed: 'fast', 'slow'"),
        ({"names": "ab"}, "p: outer.names: expected a list, found 'ab'"),
        ({"names": ["a", 1]}, r"p: outer.names\[1\]: 1 has the wrong type; expected str"),
        ({"by_language": []}, r"p: outer.by_language: expected a mapping, found \[\]"),
        ({"by_language": {"zh": {"speed": 1}}}, "p: outer.by_language.zh.speed: unknown key; allowed: rate, mode"),
        ({"limit": "none"}, "p: outer.limit: 'none' has the wrong type; expected int"),
        ({"limit": 1}, "p: outer: limit is smaller than count"),
        ({"flag": "no"}, "p: outer.flag: 'no' has the wrong type; expected bool"),
        ({"seed": -1}, "p: outer.seed: -1 is not allowed"),
        ({"level": -2}, "p: outer.level: -2 is not allowed; allowed: -1.5 to 1.5"),
        ({"colour": 1}, "p: outer.colour: unknown key; allowed: count, share"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place_and_what_is_allowed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        parse(Outer, GOOD | change, "p: outer")


def test_null_is_a_value_where_the_type_says_so() -> None:
    assert parse(Outer, GOOD | {"limit": None}, "p").limit is None
    assert parse(Outer, GOOD | {"limit": 5}, "p").limit == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such parameter file"),
        ("a: [", "not valid YAML"),
        ("- a\n", "expected one mapping per section"),
        ("a: 1\n", "expected one mapping per section"),
        ("", "expected one mapping per section"),
    ],
)
def test_an_unusable_file_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "params.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match=message) as caught:
        load_file(file)
    assert str(file) in str(caught.value)


def test_both_of_the_yaml_parsers_give_the_same() -> None:
    for name in ("params.yaml", "dvc.yaml"):
        text = (Path(__file__).parents[3] / name).read_text(encoding="utf-8")
        assert read_yaml(text) == yaml.safe_load(text)
    odd = "[1e-3, 1.0e-3, 0x10, 010, yes, ~, 2020-01-01, '\u4e2d', 1_000, .inf]"
    assert read_yaml(odd) == yaml.safe_load(odd)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ParamsError, match="not valid YAML"):
        load_file(tmp_path / "params.yaml")


def test_a_missing_section_names_those_present(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("one: {rate: 1}\ntwo: {rate: 0.5, mode: slow}\n", encoding="utf-8")
    assert load_section(Inner, file, "two") == Inner(0.5, "slow")
    with pytest.raises(ParamsError, match="section 'three' is missing; present: one, two"):
        load_section(Inner, file, "three")

"""Typed, checked parameters: one frozen dataclass per stage, one section of `params.yaml` each.

A field's type is its check: `int`, `float`, `bool`, `str`, `X | None`, `tuple[X, ...]`, nested frozen dataclasses, and
`Annotated[...]` with `Range` or `OneOf`. A wrong file is refused with section, key, value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")


class ParamsError(ValueError):
    """A parameter file that cannot be used; the message names section, key and allowed values."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Closed interval for a number."""

    low: float
    high: float

    def complaint(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        return None if self.low <= value <= self.high else f"allowed: {self.low} to {self.high}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A closed set of values."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)

    def complaint(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        return None if value in self.values else "allowed: " + ", ".join(map(repr, self.values))


Fraction = Annotated[float, Range(0.0, 1.0)]
Positive = Annotated[int, Range(1, 2**62)]
NonNegative = Annotated[int, Range(0, 2**62)]
Seed = Annotated[int, Range(0, 2**63 - 1)]
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(text: str) -> Any:
    """Plain data out of YAML, by libyaml where PyYAML was built with it: a tenth of the time that its own parser takes."""
    return yaml.load(text, Loader=_LOADER)


def load_file(path: Path) -> dict[str, Any]:
    """The whole parameter file as a mapping of sections.

    Raises:
        ParamsError: not YAML, or not a mapping of mappings.
    """
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ParamsError(f"{path}: no such parameter file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict) or not all(isinstance(value, dict) for value in data.values()):
        raise ParamsError(f"{path}: expected one mapping per section at the top level")
    return data


def load_section(cls: type[T], path: Path, section: str) -> T:
    """Section `section` of the file at `path` as an instance of the frozen dataclass `cls`.

    Raises:
        ParamsError: the section is absent, or a key in it is unknown, missing, of the wrong type or out of range.
    """
    data = load_file(path)
    if section not in data:
        raise ParamsError(f"{path}: section {section!r} is missing; present: {', '.join(sorted(data))}")
    return parse(cls, data[section], f"{path.name}: {section}")


def parse(cls: type[T], data: Any, where: str) -> T:
    """Build dataclass `cls` from plain YAML data; `where` names the place in messages."""
    return typing.cast(T, _dataclass(cls, data, where))


def to_plain(value: Any) -> Any:
    """The inverse of `parse`: dataclasses and tuples become mappings and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def _dataclass(cls: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise ParamsError(f"{where}: expected a mapping, found {data!r}")
    hints = get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise ParamsError(f"{where}.{key}: unknown key; allowed: {', '.join(fields)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _value(hints[name], data[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ParamsError(f"{where}.{name}: missing; expected {_describe(hints[name])}")
    try:
        return cls(**values)
    except ValueError as error:  # a check in __post_init__ that looks at several fields at once
        raise ParamsError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin is Annotated:
        base, *checks = get_args(hint)
        result = _value(base, value, where)
        for check in checks:
            complaint = check.complaint(result)
            if complaint:
                raise ParamsError(f"{where}: {value!r} is not allowed; {complaint}")
        return result
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        if value is None and len(options) < len(get_args(hint)):
            return None
        return _value(options[0], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ParamsError(f"{where}: expected a list, found {value!r}")
        item = get_args(hint)[0]
        return tuple(_value(item, entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ParamsError(f"{where}: expected a mapping, found {value!r}")
        key_type, item = get_args(hint)
        return {_value(key_type, key, where): _value(item, entry, f"{where}.{key}") for key, entry in value.items()}
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is hint:
        return value
    extra = " (YAML reads 1e-3 as text: write 1.0e-3)" if hint is float and isinstance(value, str) else ""
    raise ParamsError(f"{where}: {value!r} has the wrong type; expected {_describe(hint)}{extra}")


def _describe(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Annotated:
        base, *checks = get_args(hint)
        allowed = "; ".join(str(check.complaint(object())) for check in checks if isinstance(check, OneOf))
        return _describe(base) + (f" ({allowed})" if allowed else "")
    if origin in (Union, types.UnionType):
        return " or ".join("null" if option is type(None) else _describe(option) for option in get_args(hint))
    if origin is tuple:
        return f"a list of {_describe(get_args(hint)[0])}"
    return str(getattr(hint, "__name__", hint))

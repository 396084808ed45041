"""Section "Gates": every suite that stood between data and training, what each expectation asked for and what it observed."""

from __future__ import annotations

from typing import Any

from stages.report.facts import Facts, at

_FILE = "data/validate/report.json"
_KEYS = ("suite", "table", "expectation", "arguments", "rows", "observed", "unexpected", "success")


def section(facts: Facts) -> dict[str, Any]:
    """What the template needs: the number of expectations, and them by suite, in the order of the report."""
    suites: dict[str, list[dict[str, Any]]] = {}
    entries = at(facts.json(_FILE), _FILE, "expectations")
    for entry in entries:
        row = {key: at(entry, _FILE, key) for key in _KEYS}
        suites.setdefault(row["suite"], []).append({**row, "asked": asked(row), "observed": observed(row)})
    return {"total": len(entries), "suites": suites}


def asked(row: dict[str, Any]) -> str:
    """An expectation in a few words."""
    arguments = row["arguments"]
    low, high = arguments.get("min_value"), arguments.get("max_value")
    if "value_set" in arguments:
        return "one of " + ", ".join(_shown(value) or "nothing" for value in arguments["value_set"])
    if low is not None and low == high:
        return _shown(low)
    if low is not None and high is not None:
        return f"{_shown(low)} to {_shown(high)}"
    if low is not None or high is not None:
        return f"at least {_shown(low)}" if high is None else f"at most {_shown(high)}"
    return str(row["expectation"]).removeprefix("expect_column_values_to_").replace("_", " ")


def observed(row: dict[str, Any]) -> str:
    """The least and the greatest value met; numbers only, since the ends of an alphabet say nothing."""
    low, high = (at(row, _FILE, "observed", end) for end in ("low", "high"))
    if isinstance(low, str) or low is None:
        return ""
    return _shown(low) if low == high else f"{_shown(low)} to {_shown(high)}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)

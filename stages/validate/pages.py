"""Great Expectations' own Data Docs of the results: for reading, beside the output, because they load styles from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages._manifest import write_atomic
from stages.validate.expect import EXAMPLES


def write(folder: Path, results: list[dict[str, Any]]) -> None:
    """One page for each suite, and an index of them."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    folder.mkdir(parents=True, exist_ok=True)
    links = []
    for suite in dict.fromkeys(result["suite"] for result in results):
        mine = [result for result in results if result["suite"] == suite]
        document = ValidationResultsPageRenderer(run_info_at_end=True).render(_outcome(suite, mine))
        write_atomic(folder / f"{suite}.html", DefaultJinjaPageView().render(document))
        held = sum(result["success"] for result in mine)
        links.append(f'<li><a href="{suite}.html">{suite}</a>: {held} of {len(mine)} expectations hold</li>')
    page = f'<!doctype html><meta charset="utf-8"><title>Data Docs</title><h1>Data Docs</h1><ul>{"".join(links)}</ul>\n'
    write_atomic(folder / "index.html", page)


def _outcome(suite: str, results: list[dict[str, Any]]) -> Any:
    """The results of one suite in Great Expectations' own form."""
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    outcomes = []
    for result in results:
        arguments = {**result["arguments"], "column": f"{result['table']}.{result['arguments']['column']}"}
        values = [example["value"] for example in result["examples"]][:EXAMPLES]
        share = 100 * result["unexpected"] / max(1, result["rows"])
        outcomes.append(
            ExpectationValidationResult(
                success=result["success"],
                expectation_config=ExpectationConfiguration(type=result["expectation"], kwargs=arguments),
                result={
                    "element_count": result["rows"],
                    "unexpected_count": result["unexpected"],
                    "unexpected_percent": share,
                    "unexpected_percent_total": share,
                    "unexpected_percent_nonmissing": share,
                    "missing_count": 0,
                    "missing_percent": 0.0,
                    "partial_unexpected_list": values,
                    "unexpected_index_list": [{"row": example["row"]} for example in result["examples"]],
                },
                exception_info={"raised_exception": False, "exception_message": None, "exception_traceback": None},
            )
        )
    held = sum(result["success"] for result in results)
    statistics = {
        "evaluated_expectations": len(results),
        "successful_expectations": held,
        "unsuccessful_expectations": len(results) - held,
        "success_percent": 100 * held / max(1, len(results)),
    }
    meta = {"great_expectations_version": _version(), "run_id": {"run_name": suite, "run_time": None}}
    return ExpectationSuiteValidationResult(
        success=held == len(results), results=outcomes, suite_name=suite, statistics=statistics, meta=meta
    )


def _version() -> str:
    from great_expectations import __version__

    return str(__version__)

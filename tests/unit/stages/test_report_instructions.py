"""The report's table of the instruction mix shows what the register says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from stages._runner import StageError
from stages.report import instructions
from stages.report.build import gather, render
from stages.report.facts import Facts
from tests.support.report_page import PARAMS, stage_io


def facts(root: Path) -> Facts:
    return Facts(stage_io(root))


def test_every_data_set_stands_in_the_table(report_project: Path) -> None:
    registry = json.loads((report_project / "data/instruct/registry.json").read_text(encoding="utf-8"))
    found = instructions.section(facts(report_project))
    assert [(row["name"], row["samples"], row["from"]) for row in found["datasets"]] == [
        (entry["name"], entry["samples"], ", ".join(entry["sources"])) for entry in registry
    ]
    manifest = json.loads((report_project / "data/instruct/manifest.json").read_text(encoding="utf-8"))
    assert found["samples"] == manifest["counts"]["samples"] > 0
    assert found["allowed"] == []


def test_the_page_holds_it(report_project: Path) -> None:
    page = render(gather(PARAMS, stage_io(report_project)))
    found = instructions.section(facts(report_project))
    assert f"{found['samples']:,} from {len(found['datasets'])} data sets" in page
    for row in found["datasets"]:
        assert re.search(
            rf"<td>{row['name']}</td>.*?<td class=\"n\">{row['available']:,}</td><td class=\"n\">{row['samples']:,}</td>", page
        )


def test_an_entry_without_a_field_is_named(report_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = facts(report_project)
    monkeypatch.setattr(held, "json", lambda path: [{"name": "x"}])
    with pytest.raises(StageError, match=r"no field 'task' \(file data/instruct/registry.json\)"):
        instructions.section(held)

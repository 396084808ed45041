"""Section "Tokenizer" of the page: what the stage measured, by language and by source, and icetk beside it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stages._runner import StageError
from stages.report import tokens
from stages.report.build import gather, render
from stages.report.facts import Facts
from stages.report.pieces import load_tokenizer
from tests.support.report_page import PARAMS, stage_io


@pytest.fixture(scope="module")
def section(report_project: Path) -> dict[str, Any]:
    facts = Facts(stage_io(report_project))
    return tokens.section(facts, load_tokenizer(facts))


def test_sources_add_up_to_their_languages(section: dict[str, Any]) -> None:
    totals: dict[str, Counter[str]] = {}
    for row in section["sources"]:
        totals.setdefault(row["lang"], Counter()).update({name: row[name] for name in ("documents", "bytes", "tokens")})
    assert {lang: dict(total) for lang, total in totals.items()} == {
        lang: {name: row[name] for name in ("documents", "bytes", "tokens")} for lang, row in section["fertility"].items()
    }
    assert {row["source"] for row in section["sources"]} == {"tales", "poems"}


def test_the_vocabulary_stands_beside_that_of_icetk(section: dict[str, Any]) -> None:
    ours, icetk = section["comparison"]["ours"], section["comparison"]["icetk"]
    assert ours["pieces"] == section["piece_count"]
    assert icetk == {"pieces": 130_000, "common": 100, "english": 63_723, "chinese": 61_830, "other": 4_347}
    for row in (ours, icetk):
        assert row["pieces"] == sum(row[kind] for kind in ("common", "english", "chinese", "other"))


def test_the_page_shows_them(report_project: Path, section: dict[str, Any]) -> None:
    page = render(gather(PARAMS, stage_io(report_project)))
    shown = page[page.index('<section id="tokenizer"') :].partition("</section>")[0]
    assert "130,000 · 100.0%" in shown and "63,723 · 49.0%" in shown
    assert "GLM-130B paper, appendix B.1" in shown
    for row in section["fertility"].values():
        for name, told in (("bytes_per_token", "bytes per token"), ("tokens_per_character", "tokens per character")):
            digits = 2 if name == "bytes_per_token" else 3
            assert re.search(rf">{told}</th>.*<td class=\"n\">{row[name]:.{digits}f}</td>", shown), told
        for name, told in (("coverage", "characters with a piece"), ("byte_fallback_share", "share of byte pieces")):
            assert re.search(rf">{told}</th>.*{100 * row[name]:.2f}", shown), told
    for row in section["sources"]:
        assert re.search(rf"<th scope=\"row\">{row['source']}</th>.*{row['tokens']:,}</td>", shown)


def test_a_report_without_sources_is_refused(report_project: Path, tmp_path: Path) -> None:
    facts = Facts(stage_io(report_project))
    broken = json.loads((report_project / "data/tokenizer/report.json").read_text(encoding="utf-8"))
    del broken["sources"]
    whole = facts.json
    facts.json = lambda path: broken if path == "data/tokenizer/report.json" else whole(path)  # type: ignore[method-assign]
    with pytest.raises(StageError, match=r"no field 'sources' \(file data/tokenizer/report.json\)"):
        tokens.section(facts, load_tokenizer(facts))

"""Lines and paragraphs that an earlier document has too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stages import _documents, dedup
from stages.dedup import build
from tests.support.cleaning_project import document, run, write_documents

REFRAIN = "All rights reserved, and no part of this may be copied."
RULES = {"passage_units": 5, "may_match_nothing": True}


def cut(root: Path, *texts: str, kind: str = "lines", **changes: Any) -> tuple[dict[str, str], dict[str, Any], list[Any]]:
    """Texts left by doc_id (sources a, b, ... in order), counts, and the record of passages."""
    rows = [document(f"{chr(97 + number)}/x", text) for number, text in enumerate(texts)]
    write_documents(root / "data/clean", rows)
    counts = run(dedup, root, passages=kind, **(RULES | changes))
    left = {row["doc_id"]: row["text"] for row in _documents.read_documents(root / "data/dedup")}
    return left, counts, pq.read_table(root / "data/dedup/passages.parquet").to_pylist()


def test_the_first_document_keeps_a_line_and_later_ones_lose_it(tmp_path: Path):
    texts = (f"one\n{REFRAIN}\ntwo\n{REFRAIN}", f"{REFRAIN.upper()}\nthree", f"four\n\n{REFRAIN}\n五")
    left, counts, record = cut(tmp_path, *texts)
    assert left == {"a/x": texts[0], "b/x": "three", "c/x": "four\n\n五"}
    assert (counts["passages"], counts["passages_removed"], counts["documents_emptied"]) == (10, 2, 0)
    lost = len(REFRAIN) + 1
    assert record == [
        {"doc_id": "b/x", "removed": 1, "characters": lost, "emptied": False},
        {"doc_id": "c/x", "removed": 1, "characters": lost, "emptied": False},
    ]


def test_short_lines_stay_everywhere(tmp_path: Path):
    left, counts, record = cut(tmp_path, "Enter Hamlet.\nTo be", "Enter Hamlet.\nor not", passage_units=3)
    assert left == {"a/x": "Enter Hamlet.\nTo be", "b/x": "Enter Hamlet.\nor not"}
    assert counts["passages_removed"] == 0 and record == []


def test_paragraphs_are_what_stands_between_empty_lines(tmp_path: Path):
    verse = "对酒当歌，人生几何？\n譬如朝露，去日苦多。"
    left, counts, _ = cut(tmp_path, f"甲\n\n{verse}", f"{verse}\n\n乙\n慨当以慷，忧思难忘。", kind="paragraphs")
    assert left == {"a/x": f"甲\n\n{verse}", "b/x": "乙\n慨当以慷，忧思难忘。"}
    assert counts["passages_removed"] == 1


def test_a_document_of_which_nothing_is_left_is_counted(tmp_path: Path):
    left, counts, record = cut(tmp_path, f"a\n{REFRAIN}", f"{REFRAIN}\n \n{REFRAIN}", "")
    assert set(left) == {"a/x", "c/x"}
    assert counts["documents_emptied"] == 1
    assert counts["documents_in"] == counts["documents"] + counts["removed"] + counts["documents_emptied"] == 3
    assert [(row["doc_id"], row["emptied"]) for row in record] == [("b/x", True)]


def test_passages_removed_count_as_a_match(tmp_path: Path):
    left, _, _ = cut(tmp_path, f"one\n{REFRAIN}", f"two\n{REFRAIN}", may_match_nothing=False)
    assert left["b/x"] == "two"


def test_parts_give_the_same_as_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    texts = [f"{number} begins here and is new\n{'abc'[number % 3]} {REFRAIN}" for number in range(12)]
    whole, counts, record = cut(tmp_path / "whole", *texts)
    monkeypatch.setattr(build, "_SORTED_AT_ONCE", 2)
    assert cut(tmp_path / "parts", *texts) == (whole, counts, record)
    assert counts["passages_removed"] == 9

"""The explorer's data: columns as the page unpacks them, documents and fates, what cleaning changed, deterministic bytes."""

from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ledger.tombstones import FILE, Document, Holder, Tombstone, append
from stages.report.corpus import removals
from stages.report.explorer.columns import Columns
from stages.report.explorer.documents import Documents, read_documents, reason_of
from stages.report.explorer.history import Pieces
from stages.report.explorer.origins import compared, quoted
from stages.report.facts import Facts
from tests.support.report_page import report, reseal, stage_io
from tests.support.report_project import HOSTILE


def unpacked(columns: Columns, name: str) -> list[int]:
    """A column of numbers as `page/store.js` reads it."""
    length, planes, differences = columns.described[name]
    raw = np.frombuffer(zlib.decompress(base64.b64decode(columns.encoded[name])), np.uint8).reshape(planes, length)
    values = [sum(int(raw[plane, place]) << (8 * plane) for plane in range(planes)) for place in range(length)]
    if differences:
        steps = [-(value + 1) // 2 if value % 2 else value // 2 for value in values]
        values = np.cumsum(steps, dtype=np.int64).tolist()
    return values


def text(columns: Columns, name: str) -> str:
    return zlib.decompress(base64.b64decode(columns.encoded[name])).decode()


@pytest.mark.parametrize("differences", [False, True])
@pytest.mark.parametrize("values", [[], [0], [255, 256, 0], [7, 3, 3, 2**24, 1], [2**52, 0, 2**53 - 1]])
def test_numbers_come_back(values: list[int], differences: bool) -> None:
    columns = Columns()
    columns.integers("n", values, differences=differences)
    assert unpacked(columns, "n") == values


@pytest.mark.parametrize("value", [-1, 2**53])
def test_numbers_that_the_page_cannot_hold_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match=r"column n: .* outside 0 to"):
        Columns().integers("n", [1, value])


def test_a_line_end_inside_a_text_makes_no_second_line() -> None:
    columns = Columns()
    columns.lines("t", ["a\nb", None, "c\rd"])
    assert text(columns, "t") == "a b\n\nc d"
    with pytest.raises(ValueError, match="stands there already"):
        columns.text("t", "")


@pytest.fixture(scope="module")
def facts(report_project: Path) -> Facts:
    return Facts(stage_io(report_project))


@pytest.fixture(scope="module")
def documents(facts: Facts) -> Documents:
    return read_documents(facts, removals(facts), 10_000)


def test_every_document_stands_there_once_with_its_fate(facts: Facts, documents: Documents, report_project: Path) -> None:
    """Training documents by doc_index, labelled rows behind them, then all others by id, each with its reason."""
    names = documents.table["doc_id"].to_pylist()
    corpus = [
        name
        for file in sorted((report_project / "data/corpus/documents").glob("*.parquet"))
        for name in pq.read_table(file)["doc_id"].to_pylist()
    ]
    trained = facts.documents(["doc_id", "length"])
    assert sorted(names) == sorted({*corpus, *trained["doc_id"].to_pylist()})
    assert names[: trained.num_rows] == trained["doc_id"].to_pylist()
    assert documents.length.tolist() == trained["length"].to_pylist()
    rest = names[trained.num_rows :]
    assert rest == sorted(rest)
    heldout = pq.read_table(report_project / "data/encode/heldout.documents.parquet")["doc_id"].to_pylist()
    gone = {item.doc_id: item for item in removals(facts)}
    for place, name in enumerate(rest):
        reason, other = documents.reasons[documents.fate[place]], documents.other[place]
        if name in heldout:
            assert (reason, documents.detail[place], other) == ("held out", "", -1)
        else:
            assert (reason, documents.detail[place]) == (reason_of(gone[name]), gone[name].detail)
            assert (names[other] if other >= 0 else None) == gone[name].other
    assert {"held out", "near duplicate"} <= set(documents.reasons)


def test_a_document_that_no_table_names_is_not_passed_over_in_silence(facts: Facts) -> None:
    every = removals(facts)
    found = read_documents(facts, every[1:], 10_000)
    place = found.table["doc_id"].to_pylist().index(every[0].doc_id) - len(found.length)
    assert found.reasons[found.fate[place]] == "removed; no table of the stages names it"


def test_what_was_taken_down_is_found_and_said_to_be(report_project: Path, tmp_path: Path) -> None:
    """The survivor, its copies, a labelled row that no table names any more; held out and trained ones as they stand."""
    root = shutil.copytree(report_project, tmp_path / "p")
    facts = Facts(stage_io(root))
    duplicates = [item.doc_id for item in removals(facts) if "duplicate" in item.reason]
    trained = facts.documents(["doc_id"])["doc_id"][0].as_py()
    heldout = pq.read_table(root / "data/encode/heldout.documents.parquet")["doc_id"][0].as_py()
    holder = Holder("step-000012", "ab" * 32, 1, 9, 3)
    for number, names in enumerate([duplicates[:1], [duplicates[1], "packages/topic.csv#3", trained, heldout]]):
        documents = tuple(Document(name, "cd" * 32, "single", False) for name in names)
        append(root / FILE, [Tombstone("domain", "gone.org", f"2026-01-0{number + 1}", documents, (holder,) * number)])
    for most in (10_000, 10):
        found = read_documents(facts, removals(facts), most)
        names = found.table["doc_id"].to_pylist()
        said = {}
        for place, name in enumerate(names[len(found.length) :]):
            said[name] = (found.reasons[found.fate[place]], found.detail[place])
        assert said[duplicates[0]] == ("removed by takedown 1", "line 1 of takedowns.jsonl, asked for on 2026-01-01")
        second = "line 2 of takedowns.jsonl, asked for on 2026-01-02; an earlier build's checkpoints had been trained on it"
        for name in (duplicates[1], "packages/topic.csv#3"):
            assert said[name] == ("removed by takedown 2", second)
        assert trained not in said and said[heldout] == ("held out", "")
    assert ("packages", "und", "unknown") in found.origins
    report(root)
    assert "removed by takedown 2" in (stage_io(root).output / "explorer.html").read_text(encoding="utf-8")


def test_too_many_documents_are_thinned_evenly_and_their_pieces_go(facts: Facts, documents: Documents) -> None:
    few = read_documents(facts, removals(facts), 10)
    names = documents.table["doc_id"].to_pylist()
    assert few.table["doc_id"].to_pylist() == [names[place * len(names) // 10] for place in range(10)]
    assert few.all == len(names)
    assert few.trained.tolist() == documents.trained.tolist(), "what checkpoints were fed is told of all"
    kept = [place for place in range(len(few.place)) if few.place[place] >= 0]
    assert [names[place] for place in kept] == few.table["doc_id"].to_pylist()[: len(kept)]
    table = pa.table(
        {"sample": [0, 0, 1, 2], "doc_index": [kept[0], kept[0] + 1, kept[1], 1], "doc_offset": [0] * 4, "length": [5, 6, 7, 8]}
    )
    columns = Columns()
    Pieces.of(table).pack(columns, 4, few.place)
    assert unpacked(columns, "pieces") == [1, 0 + (few.place[kept[1]] >= 0), int(few.place[1] >= 0), 0]
    assert unpacked(columns, "piece_tokens")[:2] == [5, 7]


def test_what_changed_on_the_way_is_marked() -> None:
    raw = "Head\nMENU  | HOME\nIt was  a dark night.\nFoot\n"
    clean = "Head\nIt was a dark night.\nFoot\n"
    start = clean.index("It was")
    runs = compared(raw, clean, start, start + len("It was a dark night."))
    fetched = "".join(words for code, words in runs if code != 2)
    trained = "".join(words for code, words in runs if code != 1)
    assert "MENU  | HOME" in fetched and "It was  a dark night." in fetched
    assert "MENU" not in trained and "It was a dark night." in trained
    assert {code for code, _ in runs} >= {0, 1}


def test_text_around_the_part_is_told_apart_and_short() -> None:
    text = "".join(f"sentence {number} goes on and on. " for number in range(200))
    start, end = 3000, 3500
    runs = compared(text, text, start, end)
    assert [code for code, _ in runs] == [3, 0, 3]
    assert runs[1][1] == text[start:end]
    assert "".join(words for _, words in runs) in text
    assert len(runs[0][1]) <= 60 and len(runs[2][1]) <= 60


@pytest.mark.parametrize(
    ("prompt", "passage"),
    [
        ("Who wrote this?\n second line of it\nthird one\nAuthor:", "second line of it\n\nthird one"),
        ("Go on:\nfirst words\nsecond line of it\n", "first words\nsecond line of it"),
        ("nothing\nof\nthis text", None),
        ("one", None),
    ],
)
def test_the_passage_that_a_prompt_quotes(prompt: str, passage: str | None) -> None:
    text = "Title\nfirst words\nsecond line of it\n\nthird one\nthe end"
    found = quoted(text, prompt)
    assert (found and text[slice(*found)]) == passage


def test_a_very_long_part_is_cut() -> None:
    text = "x" * 100_000
    assert sum(len(words) for _, words in compared(text, text, 500, 90_000)) <= 1600


@pytest.fixture(scope="module")
def page(report_project: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("explorer") / "project"
    shutil.copytree(report_project, root)
    report(root)
    return (stage_io(root).output / "explorer.html").read_text(encoding="utf-8")


def test_same_project_same_bytes_in_another_folder(page: str, report_project: Path, tmp_path: Path) -> None:
    root = tmp_path / "elsewhere"
    shutil.copytree(report_project, root)
    report(root)
    assert (stage_io(root).output / "explorer.html").read_text(encoding="utf-8") == page
    assert str(tmp_path) not in page


def test_the_page_can_load_nothing_and_holds_no_markup_of_documents(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy and policy[1].startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy[1]
    assert not re.search(r"@import|url\(|<img|<iframe|<link rel=.stylesheet|\ssrc=", page)
    links = set(re.findall(r'href="([^"]*)"', page))
    assert {link for link in links if not link.startswith("#")} == {"data:,", "index.html"}
    assert HOSTILE not in page


def test_every_element_that_the_scripts_ask_for_is_there(page: str) -> None:
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    asked = set(re.findall(r'\$\("([\w-]+)"\)', page))
    assert len(asked) > 12 and asked <= set(ids)


def samples(page: str) -> list[dict[str, Any]]:
    packed = re.search(r'id="column-samples">([^<]*)<', page)
    assert packed
    found: list[dict[str, Any]] = json.loads(zlib.decompress(base64.b64decode(packed[1])))
    return found


def test_samples_show_what_training_consumed_first(page: str, report_project: Path) -> None:
    """At most two of each kind and language; the tokens of a text part are as many as it says, and read as its text."""
    found = samples(page)
    groups = [(sample["kind"], sample["lang"]) for sample in found]
    assert {kind for kind, _ in groups} == {"gmask", "mask", "instruction"}
    assert max(groups.count(group) for group in groups) <= 2
    for sample in found:
        assert len(sample["positions"]) == len(sample["learnt"]) <= sample["length"]
        for part in sample["parts"]:
            if "pieces" not in part:
                assert sample["kind"] == "instruction"
                continue
            assert len(part["pieces"]) == min(part["tokens"], part["of"] - part["offset"])
            shown = "".join(words for code, words in part["text"] if code in (0, 2))
            spelled = "".join("\n" if kind == "l" else words for words, kind in part["pieces"] if kind in "tl")
            if all(kind in "tl" for _, kind in part["pieces"]) and len(shown) < 1400:
                assert shown.strip() == spelled.strip()


def test_documents_taken_down_or_emptied_say_so_and_show_no_text(report_project: Path, tmp_path: Path) -> None:
    """Tables that the stages leave only where there is something to tell; two held-out documents stand for the others."""
    root = tmp_path / "project"
    shutil.copytree(report_project, root)
    heldout = root / "data/encode/heldout.documents.parquet"
    table = pq.read_table(heldout)
    down, emptied, *_ = names = table["doc_id"].to_pylist()
    pq.write_table(table.slice(2), heldout)
    pq.write_table(pa.table({"doc_id": [down], "raw_sha256": ["0" * 64]}), root / "data/decontaminate/takedowns.parquet")
    passages = {"doc_id": names[1:], "removed": [1] * len(names[1:]), "emptied": [name == emptied for name in names[1:]]}
    pq.write_table(pa.table(passages), root / "data/dedup/passages.parquet")
    for stage, count in (("dedup", "documents_emptied"), ("decontaminate", "taken_down")):
        manifest = root / f"data/{stage}/manifest.json"
        content = json.loads(manifest.read_text(encoding="utf-8"))
        content["counts"][count] = 1
        manifest.write_text(json.dumps(content), encoding="utf-8")
    reseal(root)
    told = {item.doc_id: (item.last, item.reason) for item in removals(Facts(stage_io(root)))}
    assert told[down] == ("dedup", "taken down")
    assert told[emptied] == ("clean", "repeated passages")
    page = report(root)
    assert "see takedowns.jsonl; its text is not shown" in page and "repeated passages" in page.lower()

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ledger import LedgerError
from ledger.query.match import Match, Request, find, same_address, same_domain, squeeze
from stages._documents import write_shard
from tests.support.cleaning_project import document
from tests.support.text import documents

PAGE = "https://www.example.org/a%20page?id=7"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    made = [document(f"made/{row['doc_id']}", row["text"], row["lang"]) for row in documents("en", 3, 30, 900)]
    made += [document(f"made/{row['doc_id']}-zh", row["text"], row["lang"]) for row in documents("zh", 3, 30, 400)]
    made[0]["url"], made[1]["url"], made[2]["url"] = PAGE, "http://sub.example.org/", "https://example.com.au/example.org"
    made[3]["url"] = "https://bücher.example/"
    return made


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> Path:
    folder = tmp_path_factory.mktemp("match")
    write_shard(folder / "data/corpus/documents/made-00000.parquet", rows)
    (folder / "data/instruct").mkdir()
    labelled = {"doc_id": ["words/a#1"], "source": ["words"], "raw_sha256": ["ab" * 32]}
    pq.write_table(pa.table(labelled), folder / "data/instruct/documents.parquet")
    samples = {"doc_id": ["words/a#1"], "prompt": ["Say what a marmalade dropper is: [MASK]"], "target": ["astonishing news"]}
    pq.write_table(pa.table(samples), folder / "data/instruct/samples.parquet")
    return folder


def ask(root: Path, kind: Any, value: str, least: float = 0.5) -> list[Match]:
    return find(root, [Request(kind, value)], least)[0]


def test_names_and_hashes(root: Path, rows: list[dict[str, Any]]) -> None:
    [by_id] = ask(root, "doc", rows[5]["doc_id"])
    assert (by_id.doc_id, by_id.how, by_id.share) == (rows[5]["doc_id"], "id", 1.0)
    assert [match.doc_id for match in ask(root, "sha256", rows[5]["raw_sha256"])] == [rows[5]["doc_id"]]
    assert [match.doc_id for match in ask(root, "sha256", "ab" * 32)] == ["words/a#1"], "labelled rows are documents too"
    assert ask(root, "doc", "made/none") == []


@pytest.mark.parametrize(
    "form",
    [PAGE, "http://example.org/a%20page?id=7#top", "HTTPS://WWW.Example.ORG:443/a%20page?id=7", " //example.org/a%20page?id=7"],
)
def test_every_form_of_an_address_finds_the_page(root: Path, rows: list[dict[str, Any]], form: str) -> None:
    assert [match.doc_id for match in ask(root, "url", form)] == [rows[0]["doc_id"]]


def test_other_addresses_do_not(root: Path) -> None:
    for other in (
        "https://example.org/a%20page?id=8",
        "https://example.org/a%20page",
        "https://example.org:8443/a%20page?id=7",
    ):
        assert ask(root, "url", other) == []


def test_a_domain_has_its_subdomains_and_no_namesakes(root: Path, rows: list[dict[str, Any]]) -> None:
    assert [match.doc_id for match in ask(root, "domain", "Example.org")] == [rows[0]["doc_id"], rows[1]["doc_id"]]
    assert [match.doc_id for match in ask(root, "domain", "sub.example.org")] == [rows[1]["doc_id"]]
    assert ask(root, "domain", "ample.org") == []
    for name in ("bücher.example", "xn--bcher-kva.example"):
        assert [match.doc_id for match in ask(root, "domain", name)] == [rows[3]["doc_id"]]


@pytest.mark.parametrize("number", [7, 45])
def test_a_text_is_found_whatever_its_blanks_case_and_signs(root: Path, rows: list[dict[str, Any]], number: int) -> None:
    text, name = rows[number]["text"], rows[number]["doc_id"]
    spaced = "\r\n\t ".join(text.upper().split(" ")) if number == 7 else "\u3000 ".join(text)
    for form, how in ((text, "raw hash"), (spaced, "same text"), (text.replace(".", "!") + "!", "same text")):
        [match] = ask(root, "text", form)
        assert (match.doc_id, match.how, match.share) == (name, how, 1.0)


def test_parts_and_near_copies(root: Path, rows: list[dict[str, Any]]) -> None:
    text, name = rows[7]["text"], rows[7]["doc_id"]
    assert [(m.doc_id, m.how) for m in ask(root, "text", text[100:400])] == [(name, "holds the text")]
    both = rows[7]["text"] + rows[45]["text"]
    assert {(m.doc_id, m.how) for m in ask(root, "text", both)} >= {
        (name, "part of the text"),
        (rows[45]["doc_id"], "part of the text"),
    }
    words = text.split(" ")
    words[::25] = ["changed"] * len(words[::25])
    [near] = ask(root, "text", " ".join(words))
    assert (near.doc_id, near.how) == (name, "near copy")
    assert 0.5 < near.share < 1
    assert ask(root, "text", " ".join(words), least=0.99) == []
    half = text[: len(text) // 2] + documents("en", 99, 1, 900)[0]["text"]
    assert ask(root, "text", half, least=0.3)[0].doc_id == name
    assert ask(root, "text", documents("en", 98, 1, 900)[0]["text"] + "zebra" * 99, least=0.9) == []


def test_the_words_of_a_labelled_row(root: Path) -> None:
    assert [m.doc_id for m in ask(root, "text", "a marmalade dropper is")] == ["words/a#1"]


def test_several_requests_are_answered_in_order(root: Path, rows: list[dict[str, Any]]) -> None:
    asked = [Request("domain", "nowhere.net"), Request("doc", rows[9]["doc_id"]), Request("text", rows[7]["text"])]
    assert [[m.doc_id for m in found] for found in find(root, asked)] == [[], [rows[9]["doc_id"]], [rows[7]["doc_id"]]]


@pytest.mark.parametrize(
    ("line", "kind", "value"),
    [
        ("https://a.org/x", "url", "https://a.org/x"),
        ("a.org", "domain", "a.org"),
        ("AB" * 32, "sha256", "ab" * 32),
        ("shakespeare/hamlet.txt#act-1", "doc", "shakespeare/hamlet.txt#act-1"),
        ("doc: a.org", "doc", "a.org"),
        ("domain:localhost", "domain", "localhost"),
    ],
)
def test_lines_say_what_is_meant(line: str, kind: str, value: str) -> None:
    assert Request.of_line(f" {line}\n") == Request(kind, value)  # type: ignore[arg-type]


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    for kind, value, complaint in (
        ("doc", " ", "an empty doc"),
        ("sha256", "ab", "no SHA-256"),
        ("text", ", too short!", "fewer than 12"),
        ("page", "x", "unknown kind"),
    ):
        with pytest.raises(LedgerError, match=complaint):
            Request(kind, value)  # type: ignore[arg-type]
    with pytest.raises(LedgerError, match=r"no documents. Remedy"):
        find(tmp_path, [Request("doc", "x")])


def test_a_text_is_named_by_its_hash(rows: list[dict[str, Any]]) -> None:
    assert Request("text", rows[7]["text"]).label == "sha256:" + hashlib.sha256(rows[7]["text"].encode()).hexdigest()
    assert squeeze("Ｆｕｌｌ－width, 中文。 ½\u00a0A") == "fullwidth中文12a"
    assert same_address("not an address") == same_address(" not an address ")
    assert same_domain("https://www.A.org:80/x") == "a.org"

from __future__ import annotations

from pathlib import Path

import pytest

from ledger import LedgerError
from ledger.tombstones import Document, Holder, Tombstone, append, read

COPY = Document("web/b#2", "bb" * 32, "copy", True)
PART = Document("book/a#1", "aa" * 32, "single", False)
STONE = Tombstone("url", "https://a.org/网页", "2026-01-31", (PART, COPY), (Holder("step-10", "cc" * 32, 2, 40, 7),))


def test_the_form_on_disk(tmp_path: Path) -> None:
    """It must not drift: a committed file is read by every later version."""
    append(tmp_path / "f", [STONE])
    assert (tmp_path / "f").read_text(encoding="utf-8") == (
        '{"asked":"https://a.org/网页","date":"2026-01-31","documents":'
        '[{"alone":false,"doc_id":"book/a#1","raw_sha256":"' + "aa" * 32 + '","role":"single"},'
        '{"alone":true,"doc_id":"web/b#2","raw_sha256":"' + "bb" * 32 + '","role":"copy"}],'
        '"held_by":[{"checkpoint":"step-10","exposures":2,"first_step":7,"tokens":40,"weights_sha256":"' + "cc" * 32 + '"}],'
        '"kind":"url"}\n'
    )
    assert read(tmp_path / "f").entries == (STONE,)


def test_names(tmp_path: Path) -> None:
    append(tmp_path / "f", [STONE])
    stones = read(tmp_path / "f")
    assert stones.documents == [PART, COPY]
    assert stones.names("book/a#1", "00" * 32) and stones.names("other", "bb" * 32)
    assert not stones.names("other", "aa" * 32), "the hash of a file that holds other records too names none of them"


def test_nothing_is_appended_twice(tmp_path: Path) -> None:
    assert append(tmp_path / "f", [STONE]) == [STONE]
    before = (tmp_path / "f").read_bytes()
    later = Tombstone(STONE.kind, STONE.asked, "2026-03-01", STONE.documents)
    assert append(tmp_path / "f", [later]) == []
    assert (tmp_path / "f").read_bytes() == before
    assert append(tmp_path / "f", [Tombstone("url", STONE.asked, "2026-03-01", (PART,))])


def test_an_empty_file_names_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    stones = read(tmp_path / "f")
    assert not stones and not stones.names("a", "aa" * 32) and stones.documents == []


def test_damage_is_named(tmp_path: Path) -> None:
    line = STONE.to_line()
    for wrong in (
        line[:-1],
        line.replace(",", ", ", 1),
        "{}",
        "[]",
        "",
        line.replace("2026-01", "2026"),
        line.replace("copy", "clone"),
    ):
        (tmp_path / "f").write_text(f"{line}\n{wrong}\n", encoding="utf-8")
        with pytest.raises(LedgerError, match=r"f, line 2: not a tombstone.*Remedy"):
            read(tmp_path / "f")
    with pytest.raises(LedgerError, match="no such file"):
        read(tmp_path / "absent")

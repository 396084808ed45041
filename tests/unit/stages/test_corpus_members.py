"""Gzip members decompressed whole: the same records, and the same complaints, as where the parser decompresses them itself."""

from __future__ import annotations

import gzip
import io
import random
import tracemalloc
from pathlib import Path
from typing import IO

import pytest

from stages.corpus import members as module
from stages.corpus.members import members
from stages.corpus.records import Reading, TruncatedError
from stages.corpus.streams import ExpansionError
from stages.corpus.warc import WarcItem, iter_warc, read_wet
from tests.support.crawl import page, warc, wet
from tests.support.text import text

HTML = {"Content-Type": "text/html; charset=utf-8"}
LARGEST = 1 << 20


def archive(number: int = 12) -> bytes:
    return warc([(f"http://e.org/{n}", page(text("en", str(n), 40 * n)).encode(), HTML) for n in range(number)])


def outcome(stream: IO[bytes], kind: str = "response", how: Reading | None = None) -> tuple[list[WarcItem], str]:
    """The records of a file, and how reading ended."""
    found: list[WarcItem] = []
    try:
        found.extend(iter_warc(stream, kind, how or Reading()))
    except (TruncatedError, ExpansionError, EOFError, OSError) as error:
        return found, f"{type(error).__name__}: {error}"
    return found, "end"


def both(folder: Path, data: bytes, kind: str = "response", how: Reading | None = None) -> tuple[list[WarcItem], str]:
    """The outcome of a file, which must be that of a stream in memory, of which the parser decompresses every member."""
    file = folder / "file.warc.gz"
    file.write_bytes(data)
    with file.open("rb") as stream:
        found = outcome(stream, kind, how)
    assert found == outcome(io.BytesIO(data), kind, how)
    return found


def test_members_come_whole_and_with_their_places(tmp_path: Path) -> None:
    parts = [b"first", b"", b"x" * (3 * LARGEST), b"last"]
    file = tmp_path / "file.gz"
    file.write_bytes(b"".join(map(gzip.compress, parts)))
    with file.open("rb") as stream:
        found = members(stream, 4 * LARGEST)
        assert found is not None
        read = b""
        while block := found.read(1 << 16):
            read += block
            assert found.tell() == len(read)
        assert read == b"".join(parts) and not found.failed and found.last == b"last"
        assert found.consumed == file.stat().st_size and found.read(1) == b""
        start = len(gzip.compress(parts[0])) + len(gzip.compress(b""))
        assert [found.offset(0), found.offset(5)] == [0, start]
        assert found.offset(5 + 3 * LARGEST) == start + len(gzip.compress(parts[2]))
        with pytest.raises(ValueError, match="no member begins"):
            found.offset(5 + 3 * LARGEST + 1)
        assert found.failed
        found.close()


def test_member_over_the_limit_ends_it_without_being_loaded(tmp_path: Path) -> None:
    file = tmp_path / "file.gz"
    file.write_bytes(gzip.compress(b"small") + gzip.compress(bytes(200 << 20)))
    with file.open("rb") as stream:
        found = members(stream, LARGEST)
        assert found is not None
        tracemalloc.start()
        assert found.read(100) == b"small" and found.read(100) == b"" and found.failed
        assert tracemalloc.get_traced_memory()[1] < 4 * LARGEST
        tracemalloc.stop()
        found.close()


def test_other_streams_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    for content in (b"", b"WARC/1.0", gzip.compress(b"x")):
        file.write_bytes(content)
        with file.open("rb") as stream:
            monkeypatch.setattr(module, "_libdeflate", lambda: None)
            assert members(stream, LARGEST) is None and stream.read() == content
    assert members(io.BytesIO(gzip.compress(b"x")), LARGEST) is None


def test_every_record_its_address_and_its_neighbours_are_the_same(tmp_path: Path) -> None:
    found, ended = both(tmp_path, archive())
    assert ended == "end" and len(found) == 12 and len({item.offset for item in found}) == 12
    texts = [(f"http://e.org/{n}", text("zh", str(n), 100 * n).encode(), "zho") for n in range(1, 8)]
    assert len(both(tmp_path, wet(texts), "conversion")[0]) == 7


def test_file_compressed_as_a_whole_or_in_blocks_that_part_records(tmp_path: Path) -> None:
    data = gzip.decompress(archive())
    assert len({item.fragment for item in both(tmp_path, gzip.compress(data))[0]}) == 12
    blocks = b"".join(gzip.compress(data[start : start + 700]) for start in range(0, len(data), 700))
    found, ended = both(tmp_path, blocks)
    assert ended == "end" and [item.block for item in found] == [item.block for item in both(tmp_path, archive())[0]]
    assert len(both(tmp_path, archive(3) + gzip.compress(data))[0]) == 15


def test_cut_anywhere_is_noticed_in_the_same_words(tmp_path: Path) -> None:
    data = archive(4)
    for cut in range(20, len(data), 11):
        both(tmp_path, data[:cut])


def test_damage_anywhere_is_noticed_in_the_same_words(tmp_path: Path) -> None:
    data, chance = archive(4), random.Random(1)
    ends = set()
    for _ in range(150):
        damaged = bytearray(data)
        damaged[chance.randrange(20, len(data))] ^= 1 << chance.randrange(8)
        ends.add(both(tmp_path, bytes(damaged))[1].split(":")[0])
    assert "OSError" in ends  # and perhaps "end": the time of a header may say anything


def test_what_stands_behind_the_last_member(tmp_path: Path) -> None:
    for tail in (bytes(512), b"more", archive(1)[:30]):
        both(tmp_path, archive(2) + tail)


def test_large_record_among_small_ones(tmp_path: Path) -> None:
    bodies = [("http://e.org/1", page("a").encode(), HTML), ("http://e.org/2", b"x" * 3_000_000, HTML)]
    data = warc([*bodies, ("http://e.org/3", page("b").encode(), HTML)])
    found, ended = both(tmp_path, data, how=Reading(max_record_bytes=100_000))
    assert ended == "end" and [item.block is None for item in found] == [False, True, False]


def test_bomb_is_stopped(tmp_path: Path) -> None:
    file = tmp_path / "file.warc.gz"
    file.write_bytes(warc([("http://e.org/1", bytes(40 << 20), HTML), ("http://e.org/2", b"", HTML)]))
    for limit in (1 << 20, 64 << 20):
        with file.open("rb") as stream, pytest.raises(ExpansionError, match="max_expansion is 200"):
            list(iter_warc(stream, how=Reading(max_record_bytes=limit)))


def test_wet_file_on_disk_gives_the_records_of_one_in_memory(tmp_path: Path) -> None:
    data = wet([(f"http://e.org/{n}", text("en", str(n), 80).encode(), "eng") for n in range(1, 30)])
    file = tmp_path / "file.wet.gz"
    file.write_bytes(data)
    with file.open("rb") as stream:
        assert list(read_wet(stream)) == list(read_wet(io.BytesIO(data)))

"""The measure itself: planted truth, recall and precision, verdicts; and that every peer's job finds what was planted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _crawl, _peers, _planted, _quality
from benchmarks._measure import Row, Speed, Work, faster, interleaved
from tests.support import text

SIZE = 120_000


@pytest.fixture(scope="module", params=_planted.LANGUAGES)
def planted(request: pytest.FixtureRequest) -> _planted.Planted:
    return plant(request.param)


def plant(lang: str) -> _planted.Planted:
    rows = text.documents(lang, "planted", 30, SIZE // 20)
    return _planted.plant(lang, (row["text"] for row in rows), SIZE)


def test_equal_arguments_plant_an_equal_corpus(planted: _planted.Planted) -> None:
    assert plant(planted.lang) == planted
    assert 0.9 * SIZE < planted.bytes < 1.2 * SIZE


def test_truth_is_what_the_texts_say(planted: _planted.Planted) -> None:
    kinds = {pair.kind for pair in planted.pairs}
    assert kinds == {"exact", *_planted.EDITS}
    for pair in planted.pairs:
        copy, parent = planted.texts[pair.copy], planted.texts[pair.parent]
        assert pair.jaccard == pytest.approx(_planted.jaccard(copy, parent))
        assert copy == parent or pair.kind != "exact"
    assert len({(pair.parent, pair.kind == "exact") for pair in planted.pairs}) == len(planted.pairs), "one copy of each sort"
    copies = sum(len(planted.texts[pair.copy].encode()) for pair in planted.pairs)
    assert 0.3 < copies / planted.bytes < 0.5


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="documents of language en: benchmarks need real text"):
        _planted.plant("en", ["one line"], SIZE)


def test_texts_are_read_from_every_form_and_by_language(tmp_path: Path) -> None:
    rows = [{"text": "one", "lang": "en"}, {"text": "二", "lang": "zh"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    text.write_documents(tmp_path, text.documents("zh", 1, 2, 100))
    assert list(_planted.read_texts(tmp_path, "en")) == ["one", "one"]
    assert len(list(_planted.read_texts(tmp_path, "zh"))) == 4
    with pytest.raises(FileNotFoundError, match="build the project"):
        list(_planted.read_texts(tmp_path / "none", "en"))


def test_recall_and_precision_of_known_pairs(planted: _planted.Planted) -> None:
    judge = _quality.Judge(planted, 0.8)
    exact = [pair for pair in planted.pairs if pair.kind == "exact"]
    found = judge.measure((pair.parent, pair.copy) for pair in exact)
    assert (found.exact, found.precision, found.pairs) == (1.0, 1.0, len(exact))
    assert found.similar == found.dissimilar == 0
    low = next(pair for pair in planted.pairs if pair.jaccard < 0.8)
    wrong = judge.measure([(low.copy, low.parent), (exact[0].copy, exact[0].parent)])
    assert wrong.precision == 0.5
    assert wrong.exact == pytest.approx(1 / len(exact))
    assert judge.measure([]).precision is None


@pytest.mark.parametrize("peer", ["datasketch", "rensa"])
def test_peers_find_the_planted_copies(planted: _planted.Planted, peer: str, tmp_path: Path) -> None:
    if not _peers.installed(peer):
        pytest.skip(f"{peer} is not installed")
    _planted.write(planted, tmp_path, 3)
    files = sorted((tmp_path / "documents").glob("*.parquet"))
    assert _peers.texts_of(files) == planted.texts
    job: Any = {"datasketch": _peers.datasketch_job, "rensa": _peers.rensa_job}[peer]
    found = _quality.Judge(planted, 0.8).measure(job(files, planted.lang, 0.8))
    assert found.exact == 1.0
    assert found.similar is not None and found.similar > 0.5


def test_archives_hold_what_was_written(tmp_path: Path) -> None:
    if not _peers.installed("warcio"):
        pytest.skip("warcio is not installed")
    texts = [("One & two\nthree", "en"), ("第一段\n第二段", "zh")]
    assert _crawl.write_wet(tmp_path / "x.wet.gz", texts) == 2
    assert [payload.decode() for _, payload in _crawl.by_warcio(tmp_path / "x.wet.gz", "conversion")] == [t for t, _ in texts]
    assert _crawl.write_warc(tmp_path / "x.warc.gz", texts) == 2
    pages = [payload.decode() for _, payload in _crawl.by_warcio(tmp_path / "x.warc.gz", "response")]
    assert "<p>One &amp; two</p>" in pages[0] and "<p>第二段</p>" in pages[1]


def test_verdicts() -> None:
    ours, theirs = Speed(1.0, 80_000_000, 10), Speed(2.0, 4_000_000, 2)
    assert (theirs.megabytes, theirs.rate) == (2.0, 1.0)
    assert faster("s", "w", ours, "p", theirs, 40.0).verdict == "met"
    assert faster("s", "w", ours, "p", theirs, 41.0).verdict == "MISSED"
    assert faster("s", "w", ours, "p", None, 41.0).note == "not installed"
    assert Row("s", "w", "u", None, target=1.0).verdict == "not measured"
    assert Row("s", "w", "u", 2.0, sense="<=", target=1.0).verdict == "MISSED"
    assert Row("s", "w", "u", 2.0).verdict == ""


def test_rounds_are_interleaved() -> None:
    calls: list[str] = []
    works = {name: Work(lambda name=name: calls.append(name), 1_000, 1) for name in "ab"}  # type: ignore[misc]
    speeds = interleaved(works, 3)
    assert calls == list("ababab")
    assert speeds["a"].bytes == 1_000

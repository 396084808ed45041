"""The measure of encode: what it compares is the same text, ids are counted against SentencePiece's, absent peers are named."""

from __future__ import annotations

import pytest

from benchmarks import _encoding
from benchmarks._bench import Bench
from benchmarks._measure import Row
from stages.tokenizer import Params, train
from tests.support.text import documents, text, write_documents


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("bench")
    write_documents(root / "text", documents("en", 1, 9, 3000) + documents("zh", 1, 9, 3000))
    model = root / "project/data/tokenizer/tokenizer.model"
    model.parent.mkdir(parents=True)
    lines = (text("en", 1, 60_000) + "\n" + text("zh", 1, 40_000)).split("\n")
    model.write_bytes(train(lines, Params(1500, 0.999, 1, 0.5, True, 4, 16, 15_000, 128, 2, 1)))
    return Bench(root / "text", root / "project", root / "work", 20_000, 0, 1, lambda _: None)


def test_every_document_is_encoded_and_compared(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_encoding, "_kitoken", lambda _: None)
    monkeypatch.setattr(_encoding, "_process_row", lambda _: Row("whole", "process", "CPU s", 1.0))
    rows = _encoding.rows(bench)
    asked = {row.what: row for row in rows if row.target is not None}
    assert asked["both languages"].ratio is not None and asked["both languages"].ratio > 0
    for lang in ("en", "zh"):
        row = asked[f"{lang}: documents with other ids than sentencepiece's"]
        assert (row.ours, row.verdict) == (0, "met")
        assert row.note.startswith(f"of {len(bench.documents(lang, bench.size)[0])}; 0 more")
    assert [row.note for row in rows if "kitoken" in (row.peer, row.what[-7:])] == ["not installed"] * 4


def test_other_ids_are_counted(bench: Bench) -> None:
    class Shifted:
        """An encoder that is wrong in one document."""

        def __init__(self, right: list[list[int]]) -> None:
            self._right = right

        def encode_all(self, texts: list[str]) -> list[list[int]]:
            return [self._right[0][1:], *self._right[1:]]

    import sentencepiece

    texts, _ = bench.documents("en", bench.size)
    alone = sentencepiece.SentencePieceProcessor(model_file=str(bench.project / "data/tokenizer/tokenizer.model"))
    root = _encoding._encode_project(bench, "shifted", texts)
    _encoding.encode(root)
    ours, theirs = _encoding._id_rows("en", texts, alone, Shifted(alone.encode(texts)), root)
    assert (ours.ours, theirs.ours) == (0, 1)

"""The index that dedup leaves, and the command that asks it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasketch import MinHash, MinHashLSH
from typer.testing import CliRunner

import cli
from stages import _documents, _ngrams, dedup
from stages._errors import StageError
from stages.dedup import candidates, minhash, tables
from stages.dedup.query import Index
from tests.support.cleaning_project import document, params, run, write_documents
from tests.support.texts import edited, han, words

PARAMS = params(dedup)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, generator = tmp_path_factory.mktemp("query"), random.Random(1)
    rows = []
    for number in range(60):
        base = (words if number % 2 else han)(number // 4)
        text = (" " if number % 2 else "").join(edited(base, generator, 2 * (number % 4 > 1)))
        rows.append(document(f"{'ab'[number % 3 // 2]}/{number:02}", text, "en" if number % 2 else "zh"))
    write_documents(root / "data/clean", rows)
    run(dedup, root)
    return root / "data/dedup"


def ask(project: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["dedup", "query", "--data", str(project), *arguments])
    return result.exit_code, result.output


def survivors(project: Path) -> list[dict[str, str]]:
    return list(_documents.read_documents(project))


def test_every_survivor_finds_itself(project: Path):
    index = Index(project)
    rows = survivors(project)
    assert 20 < len(rows) < 60
    for row in rows:
        found = {match.doc_id: match for match in index.matches(row["text"], row["lang"])}
        assert found[row["doc_id"]].exact == found[row["doc_id"]].estimated == 1.0
        assert found[row["doc_id"]].duplicate


def test_a_variant_is_found_with_its_exact_similarity(project: Path):
    row = next(row for row in survivors(project) if row["lang"] == "en")
    variant = f"{row['text']} And a few words more"
    status, output = ask(project, "--text", variant, "--json", "--lang", "en")
    match = json.loads(output.splitlines()[0])
    one, two = _ngrams.shingles(row["text"], 5), _ngrams.shingles(variant, 5)
    assert status == 0
    assert match["doc_id"] == row["doc_id"] and match["duplicate"]
    assert match["exact"] == len(one & two) / len(one | two)
    assert abs(match["estimated"] - match["exact"]) < 0.15


def test_the_answer_is_that_of_datasketchs_own_index(project: Path):
    """A MinHashLSH of the same bands, filled with the stored signatures, gives the same candidates."""
    index, rows = Index(project), survivors(project)
    lsh = MinHashLSH(num_perm=PARAMS.permutations, params=(PARAMS.bands, PARAMS.rows))
    for row in rows:
        made = MinHash(PARAMS.permutations, PARAMS.seed, scheme="affine32", hashfunc=minhash.hash32)
        made.update_batch([shingle.encode() for shingle in _ngrams.shingles(row["text"], 5)])
        lsh.insert(row["doc_id"], made)
    for row in rows:
        text = (" " if row["lang"] == "en" else "").join(edited(_ngrams.units(row["text"]), random.Random(3), 10))
        numbers = index._candidates(index.signature(text, row["lang"]), row["lang"])
        assert {rows[number]["doc_id"] for number in numbers} == set(lsh.query(index.signature(text, row["lang"])))


def test_band_tables_are_sorted_and_hold_every_survivor(project: Path):
    expected = tables.header(PARAMS)
    for band in range(PARAMS.bands):
        batch = tables.open_table(str(project / f"index/bands/{band:03}.arrow"), (), expected).get_batch(0)
        keys = tables.column(batch, "key")
        assert np.all(keys[1:] >= keys[:-1])
        assert sorted(batch["document"].to_pylist()) == list(range(len(survivors(project))))


def test_unlike_texts_and_other_languages_are_no_duplicates(project: Path, tmp_path: Path):
    (tmp_path / "new.txt").write_text(" ".join(words(999)), encoding="utf-8")
    assert ask(project, "--file", str(tmp_path / "new.txt")) == (0, "not a duplicate of any document in the index\n")
    english = next(row for row in survivors(project) if row["lang"] == "en")
    assert ask(project, "--text", english["text"], "--lang", "zh")[1].startswith("not a duplicate")
    status, output = ask(project, "--text", english["text"])
    assert status == 0 and output.startswith("duplicate  1.0000 (estimated 1.0000)  en  ")


def test_what_cannot_be_asked_is_refused(project: Path, tmp_path: Path):
    for arguments, complaint in (
        ([], "one of --file and --text is needed"),
        (["--text", "a", "--file", "b"], "one of --file and --text is needed"),
        (["--text", "a", "--lang", "fr"], "the index has no language 'fr'. Remedy: one of en, zh"),
        (["--file", str(tmp_path / "none.txt")], "No such file"),
    ):
        status, output = ask(project, *arguments)
        assert status == 1 and complaint in output
    status, output = ask(tmp_path, "--text", "a")
    assert status == 1 and "no index here" in output and "index: true" in output


def test_an_index_of_another_program_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "_KNOWN", ("another text",))
    with pytest.raises(StageError, match="cannot be compared"):
        list(Index(project).matches("some text of some words", "en"))


def test_without_an_index_nothing_of_it_is_written(tmp_path: Path):
    write_documents(tmp_path / "data/clean", [document("a/1", "same"), document("a/2", "same")])
    run(dedup, tmp_path, index=False)
    assert not (tmp_path / "data/dedup/index").exists()
    assert pq.read_metadata(tmp_path / "data/dedup/clusters.parquet").num_rows == 2


def test_large_indexes_come_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(candidates, "_BYTES", 2**30)
    rows = [document(f"a/{number:02}", " ".join(words(number // 2))) for number in range(12)]
    write_documents(tmp_path / "data/clean", rows)
    run(dedup, tmp_path)
    assert tables.open_table(str(tmp_path / "data/dedup/index/bands/000.arrow")).num_record_batches == 8
    matches = list(Index(tmp_path / "data/dedup").matches(rows[5]["text"], "en"))
    assert [match.doc_id for match in matches] == ["a/04"]

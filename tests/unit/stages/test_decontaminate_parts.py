"""What decontamination is made of: the split, evaluation items, their evidence, hashes and hits."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import _documents, _ngrams, decontaminate
from stages._manifest import sha256_file
from stages._runner import StageError, StageIO
from stages.decontaminate import EvaluationSet, evaluations, hits, scan
from stages.decontaminate import hashes as hashing
from stages.decontaminate.evaluations import Item
from tests.support.cleaning_project import document, params
from tests.support.contamination import chosen, clean_up, hit_rows, many, words, write_dedup, write_items
from tests.support.text import text


class TestSplit:
    def test_share_of_each_source(self):
        names = chosen([*many("a"), *many("b", 200)], 0.05, 1)
        assert sum(name.startswith("a/") for name in names) == 20
        assert sum(name.startswith("b/") for name in names) == 10

    def test_does_not_depend_on_order_but_on_the_seed(self):
        assert chosen(many(), 0.05, 1) == chosen(many()[::-1], 0.05, 1)
        assert chosen(many(), 0.05, 1) != chosen(many(), 0.05, 2)

    def test_other_documents_do_not_move_across(self):
        assert len(chosen(many(), 0.05, 1) ^ chosen(many()[:-1], 0.05, 1)) <= 2

    def test_groups_stay_together(self):
        rows = [(f"s/{n}", "s", 100, f"s/{n // 4}") for n in range(400)]
        names = chosen(rows, 0.05, 1)
        assert names
        assert all(len({f"s/{n + k}" in names for k in range(4)}) == 1 for n in range(0, 400, 4))

    def test_a_group_of_two_sources_belongs_to_the_first_by_name(self):
        rows = [*many("b", 100), ("a/1", "a", 100, "b/0")]
        assert not {"a/1", "b/0"} & chosen(rows, 0.5, 1), "the only group of source a is more than half of it"
        assert {"a/1", "b/0"} <= chosen(rows, 0.7, 1)

    def test_small_source_gives_its_smallest_and_a_single_document_stays(self):
        rows = [("a/1", "a", 900, "a/1"), ("a/2", "a", 500, "a/2"), ("b/1", "b", 100, "b/1")]
        assert chosen(rows, 0.03, 1) == {"a/2"}

    def test_a_giant_does_not_swallow_the_share(self):
        rows = [*many(count=100), ("s/giant", "s", 10_000, "s/giant")]
        assert all("s/giant" not in chosen(rows, 0.05, seed) for seed in range(30))

    def test_zero_share_holds_nothing_out(self):
        assert chosen(many(), 0.0, 1) == set()


class TestItems:
    @pytest.mark.parametrize(
        ("record", "expected"),
        [
            ({"inputs_pretokenized": "q", "choices_pretokenized": ["a", "b"], "label": 0}, ("q", ["a", "b"])),
            ({"inputs_pretokenized": "q", "targets_pretokenized": ["t"]}, ("q", ["t"])),
            ({"inputs_pretokenized": ["p", "q"]}, ("p\nq", [])),
            ({"text": "running"}, ("running", [])),
        ],
    )
    def test_forms(self, record, expected):
        assert evaluations.item_texts(record) == expected

    def test_stated_columns_go_before_the_form(self):
        record = {"text": "no", "question": "q", "options": ["a", "b"], "answer": "b"}
        assert evaluations.item_texts(record, ("question", "options", "answer")) == ("q", ["a", "b", "b"])

    @pytest.mark.parametrize("name", ["set.jsonl", "set.jsonl.gz"])
    def test_reads_plain_and_compressed_files(self, tmp_path, name):
        write_items(tmp_path / name, [{"id": "x/7", "text": "a"}, {"text": "b"}])
        assert list(evaluations.read_items(tmp_path / name)) == [("x/7", "a", []), ("1", "b", [])]

    @pytest.mark.parametrize("suffix", [".bz2", ".zst"])
    def test_plain_text_is_one_item_a_line(self, tmp_path, suffix):
        data = "first line\n\n第三行\n".encode()
        file = tmp_path / f"set.txt{suffix}"
        file.write_bytes(bz2.compress(data) if suffix == ".bz2" else pa.compress(data, "zstd", asbytes=True))
        assert list(evaluations.read_items(file)) == [("0", "first line", []), ("2", "第三行", [])]

    def test_parquet_by_its_columns(self, tmp_path):
        table = pa.table({"q": ["one", "two"], "choices": [["a"], ["b", "c"]], "id": [7, 8]})
        pq.write_table(table, tmp_path / "set.parquet")
        found = list(evaluations.read_items(tmp_path / "set.parquet", ("q", "choices")))
        assert found == [("7", "one", ["a"]), ("8", "two", ["b", "c"])]

    @pytest.mark.parametrize(("columns", "message"), [((), "not stated"), (("question",), "no column 'question'")])
    def test_parquet_says_which_columns_there_are(self, tmp_path, columns, message):
        pq.write_table(pa.table({"q": ["one"], "a": ["x"]}), tmp_path / "set.parquet")
        with pytest.raises(StageError, match=rf"{message}.*the file has q, a"):
            list(evaluations.read_items(tmp_path / "set.parquet", columns))

    @pytest.mark.parametrize("line", ["{", "[1]", '{"question": "?"}', '{"inputs_pretokenized": 3}'])
    def test_bad_line_names_file_and_row(self, tmp_path, line):
        file = tmp_path / "set.jsonl"
        file.write_text('{"text": "fine"}\n' + line + "\n", encoding="utf-8")
        with pytest.raises(StageError, match=r"set\.jsonl, row 1"):
            list(evaluations.read_items(file))

    def test_unknown_kind_of_file(self, tmp_path):
        (tmp_path / "set.pdf").write_bytes(b"%PDF")
        with pytest.raises(StageError, match=r"'\.pdf' are not known.*\.jsonl.*\.parquet"):
            list(evaluations.read_items(tmp_path / "set.pdf"))

    @pytest.mark.parametrize("name", ["absent.jsonl", "broken.jsonl.gz", "broken.parquet"])
    def test_unreadable_file(self, tmp_path, name):
        if name.startswith("broken"):
            (tmp_path / name).write_bytes(gzip.compress(b'{"text": "a"}\n' * 100)[:-20])
        with pytest.raises(StageError, match="cannot read evaluation set"):
            list(evaluations.read_items(tmp_path / name, ("q",) if "parquet" in name else ()))

    def test_a_glob_reads_several_files_and_names_items_by_file(self, tmp_path):
        for name in ("b", "a"):
            write_items(tmp_path / f"part-{name}.jsonl", [{"text": words(1)}])
        evaluation = EvaluationSet("quiz", (str(tmp_path / "part-*.jsonl"),))
        files = evaluations.find_files(evaluation, StageIO("decontaminate", tmp_path, [], "data/decontaminate"))
        assert [file.name for file in files] == ["part-a.jsonl", "part-b.jsonl"]
        found = evaluations.read_evidence(evaluation, files, params(decontaminate))
        assert [entry.item for entry in found] == [Item("quiz", "part-a.jsonl#0"), Item("quiz", "part-b.jsonl#0")]

    def test_stated_digest(self, tmp_path):
        io = StageIO("decontaminate", tmp_path, [], "data/decontaminate")
        evaluation = write_items(tmp_path / "quiz.jsonl", [{"text": "x"}])
        right = {"quiz.jsonl": sha256_file(tmp_path / "quiz.jsonl")}
        assert evaluations.find_files(dataclasses.replace(evaluation, sha256=right), io)
        with pytest.raises(StageError, match=r"SHA-256 is .*, stated is 00.*quiz\.jsonl"):
            evaluations.find_files(dataclasses.replace(evaluation, sha256={"quiz.jsonl": "00"}), io)
        with pytest.raises(StageError, match=r"'other\.jsonl', which it does not read"):
            evaluations.find_files(dataclasses.replace(evaluation, sha256=right | {"other.jsonl": "00"}), io)


class TestEvidence:
    def evidence(self, text: str, *ends: str, passages: str = "item", **lengths: int):
        ngram = {"en": 3, "zh": 3} | lengths
        changed = params(decontaminate, ngram=ngram, substring={"en": 2, "zh": 2})
        return evaluations.evidence(Item("set", "1"), text, ends, changed, passages)

    def test_choice_is_read_as_the_end_of_the_input(self):
        found = self.evidence("one two", "three", "four")
        assert found.texts == ["one two three", "one two four"]
        assert found.passages == [("one two", "en")]

    def test_language_of_an_item_decides_the_length(self):
        assert self.evidence("对酒当歌", en=2, zh=4).texts == ["对 酒 当 歌"]
        assert self.evidence("one two", en=2, zh=4).texts == ["one two"]

    def test_a_passage_is_shorter_than_an_ngram_and_long_enough(self):
        assert self.evidence("one two three").passages == []
        assert self.evidence("one").passages == []
        assert self.evidence("One, two!").passages == [("one two", "en")]

    def test_lines_are_passages_where_that_is_asked_for(self):
        assert self.evidence("one two\nthree four\nfive", passages="lines").passages == [
            ("one two", "en"),
            ("three four", "en"),
        ]


class TestScan:
    TEXTS = ("", "one", "One two  three's FOUR", "对酒当歌，人生几何", "straße 12 İstanbul ﬁn", "a\u0000b c")

    @pytest.mark.parametrize("n", [1, 2, 3, 13])
    def test_hashes_follow_the_ngrams_in_order_and_nothing_else(self, n):
        texts = [*self.TEXTS, *self.TEXTS[::-1], *(words(seed, 300) for seed in range(40)), text("zh", "hashes", 400)]
        hashes, splits = hashing.ngram_hashes(pa.array(texts, pa.large_string()), n)
        expected = [list(_ngrams.ngrams(_ngrams.units(text), n)) for text in texts]
        assert np.diff(splits).tolist() == [len(grams) for grams in expected]
        seen = dict(zip(hashes.tolist(), (gram for grams in expected for gram in grams), strict=True))
        assert [seen[value] for value in hashes.tolist()] == [gram for grams in expected for gram in grams]
        assert len(seen) == len({gram for grams in expected for gram in grams}), "one n-gram has two hashes"

    @pytest.mark.parametrize("n", [1, 2, 5])
    def test_places_are_those_of_the_wanted_ngrams(self, n):
        texts = [*self.TEXTS, *(words(seed % 7, 200) + " " + words(seed, 50) for seed in range(30))]
        column = pa.array(texts, pa.large_string())
        wanted = hashing.distinct(hashing.ngram_hashes(column.slice(8, 2), n)[0])
        grams = {gram for text in texts[8:10] for gram in _ngrams.ngrams(_ngrams.units(text), n)}
        places = [
            (number, start, gram)
            for number, text in enumerate(texts)
            for start, gram in enumerate(_ngrams.ngrams(_ngrams.units(text), n))
            if gram in grams
        ]
        found = hashing.find(column, n, hashing.HashSet(wanted))
        rows = found.to_pylist()
        assert [(row["text"], row["start"], row["ngram"]) for row in rows] == places
        assert {row["hash"] for row in rows} == set(wanted.tolist())
        first = {(number, gram): start for number, start, gram in places[::-1]}
        kept = hashing.once(found).to_pylist()
        assert {(row["text"], row["ngram"]): row["start"] for row in kept} == first
        assert len(kept) == len(first)

    def test_text_of_any_length_beside_the_room_for_what_is_found(self):
        column = pa.array(["a " * 5000 + "b", "字" * 3000], pa.large_string())
        wanted = hashing.distinct(hashing.ngram_hashes(column, 2)[0])
        found = hashing.find(column, 2, hashing.HashSet(wanted))
        assert found["ngram"].to_pylist() == ["a a"] * 4999 + ["a b"] + ["字 字"] * 2999
        assert hashing.find(column.slice(0, 0), 2, hashing.HashSet(wanted)).num_rows == 0

    def test_hash_set_against_python(self):
        generator = np.random.Generator(np.random.Philox(key=5))
        known = np.unique(generator.integers(0, 2**64, 3000, np.uint64))
        asked = np.concatenate([known[::3], generator.integers(0, 2**64, 3000, np.uint64), known[:5] + np.uint64(1)])
        members = set(known.tolist())
        assert hashing.HashSet(known).contains(asked).tolist() == [value in members for value in asked.tolist()]
        assert not hashing.HashSet(known[:0]).contains(asked).any()
        assert hashing.HashSet(known).contains(asked[:0]).tolist() == []

    def test_a_collision_makes_no_hit(self, tmp_path, monkeypatch):
        """Every n-gram has the same hash: only real overlaps may come out."""
        monkeypatch.setattr(hashing, "MIX", 0)
        leak = words(3)
        write_dedup(tmp_path, [document("s/1", leak), *(document(f"s/{n}", words(n)) for n in range(10, 15))])
        evaluation = write_items(tmp_path / "quiz.jsonl", [{"text": leak}, {"text": words(99)}])
        clean_up(tmp_path, evaluations=(evaluation,))
        assert [(hit["doc_id"], hit["item"]) for hit in hit_rows(tmp_path)] == [("s/1", "0")]


class TestHits:
    def owners(self, folder: Path, text: str) -> hits.Owners:
        grams = list(_ngrams.ngrams(_ngrams.units(text), 2))
        owners = hits.Owners(grams)
        rows = ({"item": number, "n": 2, "lang": None, "text": text} for number in "21")
        _documents.write_table(folder / "set.parquet", evaluations.EVALUATED, rows)
        wanted = hashing.distinct(hashing.ngram_hashes(pa.array(grams), 2)[0])
        owners.add_set("set", str(folder / "set.parquet"), hashing.HashSet(wanted), set())
        return owners

    def candidates(self, path: Path, *rows: tuple[int, int, str]) -> str:
        table = ({"row": row, "start": start, "method": "ngram", "hash": 1, "ngram": gram} for row, start, gram in rows)
        _documents.write_table(path, scan.CANDIDATES, table)
        return str(path)

    def test_all_items_of_a_shared_ngram_are_named_once_by_the_first_overlap(self, tmp_path):
        file = self.candidates(tmp_path / "c.parquet", (4, 9, "never seen"), (4, 2, "omnes never"))
        found = list(hits.find_hits([file], self.owners(tmp_path, "exeunt omnes never seen"), set()))
        assert [(hit.row, hit.item, hit.ngram, hit.start) for hit in found] == [
            (4, "1", "omnes never", 2),
            (4, "2", "omnes never", 2),
        ]

    def test_formula_makes_no_hit_but_another_overlap_does(self, tmp_path):
        file = self.candidates(tmp_path / "c.parquet", (0, 0, "exeunt omnes"), (1, 0, "exeunt omnes"), (1, 2, "never seen"))
        found = list(hits.find_hits([file], self.owners(tmp_path, "exeunt omnes never seen"), {"exeunt omnes"}))
        assert {(hit.row, hit.ngram) for hit in found} == {(1, "never seen")}

    @pytest.mark.parametrize(("copies", "expected"), [(10, 10), (11, 0)])
    def test_an_overlap_with_more_than_ten_documents_is_a_formula(self, tmp_path, copies, expected):
        phrase = words(1, 13)
        write_dedup(tmp_path, [document(f"s/{n}", f"{words(100 + n)} {phrase} {words(200 + n)}") for n in range(copies)])
        evaluation = write_items(tmp_path / "quiz.jsonl", [{"text": phrase}])
        counts = clean_up(tmp_path, evaluations=(evaluation,), action="mark")
        assert len(hit_rows(tmp_path)) == expected
        assert counts["formulas"] == (copies > 10)

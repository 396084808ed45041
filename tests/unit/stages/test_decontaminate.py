from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stages import _documents, decontaminate, dedup
from stages._params import ParamsError, parse, to_plain
from stages._runner import StageError
from stages.decontaminate import Entry, EvaluationSet, Index, Item
from tests.support.cleaning_project import document, params, run, write_documents


def words(seed: int, count: int = 60) -> str:
    generator = random.Random(seed)
    return " ".join("".join(generator.choices("abcdefghij", k=6)) for _ in range(count))


def write_dedup(root: Path, rows, members=()) -> None:
    write_documents(root / "data/dedup", rows)
    _documents.write_table(root / "data/dedup/clusters.parquet", dedup.CLUSTERS, members)


def write_items(path: Path, items: list[dict]) -> EvaluationSet:
    lines = "".join(json.dumps(item) + "\n" for item in items)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return EvaluationSet(path.name.partition(".")[0], str(path))


def side(root: Path, name: str) -> list[str]:
    return [row["doc_id"] for row in _documents.read_documents(root / "data/decontaminate" / name)]


def hits(root: Path) -> list[dict]:
    return pq.read_table(root / "data/decontaminate/hits.parquet").to_pylist()


class TestSplit:
    def entries(self, source: str = "s", count: int = 400, size: int = 100) -> list[Entry]:
        return [Entry(f"{source}/{n}", source, size, f"{source}/{n}") for n in range(count)]

    def test_share_of_each_source(self):
        chosen = decontaminate.split([*self.entries("a"), *self.entries("b", 200)], 0.05, 1)
        assert sum(name.startswith("a/") for name in chosen) == 20
        assert sum(name.startswith("b/") for name in chosen) == 10

    def test_does_not_depend_on_order_but_on_the_seed(self):
        entries = self.entries()
        assert decontaminate.split(entries, 0.05, 1) == decontaminate.split(entries[::-1], 0.05, 1)
        assert decontaminate.split(entries, 0.05, 1) != decontaminate.split(entries, 0.05, 2)

    def test_other_documents_do_not_move_across(self):
        entries = self.entries()
        before = decontaminate.split(entries, 0.05, 1)
        after = decontaminate.split(entries[:-1], 0.05, 1)
        assert len(before ^ after) <= 2

    def test_groups_stay_together(self):
        entries = [Entry(f"s/{n}", "s", 100, f"s/{n // 4}") for n in range(400)]
        chosen = decontaminate.split(entries, 0.05, 1)
        assert chosen
        assert all(len({entry.doc_id in chosen for entry in entries if entry.group == f"s/{n}"}) == 1 for n in range(100))

    def test_small_source_gives_its_smallest_and_a_single_document_stays(self):
        entries = [Entry("a/1", "a", 900, "a/1"), Entry("a/2", "a", 500, "a/2"), Entry("b/1", "b", 100, "b/1")]
        assert decontaminate.split(entries, 0.03, 1) == {"a/2"}

    def test_a_giant_does_not_swallow_the_share(self):
        entries = [*self.entries(count=100), Entry("s/giant", "s", 10_000, "s/giant")]
        assert all("s/giant" not in decontaminate.split(entries, 0.05, seed) for seed in range(30))

    def test_zero_share_holds_nothing_out(self):
        assert decontaminate.split(self.entries(), 0.0, 1) == set()


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
        assert decontaminate.item_texts(record) == expected

    @pytest.mark.parametrize("name", ["set.jsonl", "set.jsonl.gz"])
    def test_reads_plain_and_compressed_files(self, tmp_path, name):
        evaluation = write_items(tmp_path / name, [{"id": "x/7", "text": "a"}, {"text": "b"}])
        assert list(decontaminate.read_items(Path(evaluation.file))) == [("x/7", "a", []), ("1", "b", [])]

    @pytest.mark.parametrize("line", ["{", "[1]", '{"question": "?"}', '{"inputs_pretokenized": 3}'])
    def test_bad_line_names_file_and_row(self, tmp_path, line):
        file = tmp_path / "set.jsonl"
        file.write_text('{"text": "fine"}\n' + line + "\n", encoding="utf-8")
        with pytest.raises(StageError, match=r"set\.jsonl, row 1"):
            list(decontaminate.read_items(file))

    @pytest.mark.parametrize("name", ["absent.jsonl", "broken.jsonl.gz"])
    def test_unreadable_file(self, tmp_path, name):
        if name.startswith("broken"):
            (tmp_path / name).write_bytes(gzip.compress(b'{"text": "a"}\n' * 100)[:-20])
        with pytest.raises(StageError, match="cannot read evaluation set"):
            list(decontaminate.read_items(tmp_path / name))


class TestIndex:
    def test_choice_is_read_as_the_end_of_the_input(self):
        index = Index({"en": 3, "zh": 3})
        index.add(Item("set", "1"), "one two", ["three", "four"])
        assert index.overlaps("zero one two four five", "en") == ["one two four"]
        assert index.overlaps("two three four", "en") == []

    def test_all_items_of_a_shared_ngram_are_named(self):
        index = Index({"en": 3, "zh": 3})
        for number in "12":
            index.add(Item("set", number), "one two three one two three")
        assert index.items("one two three") == [Item("set", "1"), Item("set", "2")]

    def test_language_of_an_item_decides_the_length(self):
        index = Index({"en": 2, "zh": 4})
        index.add(Item("set", "1"), "对酒当歌")
        assert index.overlaps("慨当以慷对酒当歌", "zh") == ["对 酒 当 歌"]
        assert index.overlaps("对酒", "zh") == []

    def test_short_items_are_counted(self):
        index = Index({"en": 13, "zh": 13})
        index.add(Item("set", "1"), "too short")
        index.add(Item("set", "2"), words(1, 13))
        assert index.short == {"set": 1}


class TestHits:
    def test_formula_makes_no_hit_but_another_overlap_does(self):
        index = Index({"en": 2, "zh": 2})
        index.add(Item("set", "1"), "exeunt omnes never seen")
        overlaps = {f"s/{n}": ["exeunt omnes"] for n in range(11)}
        overlaps["s/11"] = ["exeunt omnes", "never seen"]
        found, formulas = decontaminate.find_hits(overlaps, index, 10)
        assert formulas == {"exeunt omnes"}
        assert [(hit.doc_id, hit.item, hit.ngram) for hit in found] == [("s/11", "1", "never seen")]

    def test_ten_documents_are_not_yet_a_formula(self):
        index = Index({"en": 2, "zh": 2})
        index.add(Item("set", "1"), "exeunt omnes")
        found, formulas = decontaminate.find_hits({f"s/{n}": ["exeunt omnes"] for n in range(10)}, index, 10)
        assert len(found) == 10
        assert not formulas


class TestStage:
    def test_overlap_with_an_evaluation_set_is_removed_and_named(self, tmp_path):
        leak = words(3, 40)
        question = " ".join(leak.split()[10:24])
        rows = [document(f"s/{n}", words(n)) for n in range(10, 20)] + [document("s/leak", leak)]
        write_dedup(tmp_path, rows)
        evaluation = write_items(tmp_path / "quiz.jsonl", [{"text": words(99)}, {"id": "q7", "inputs_pretokenized": question}])
        counts = run(decontaminate, tmp_path, heldout_share=0.0, evaluations=(evaluation,))
        assert side(tmp_path, "train") == [f"s/{n}" for n in range(10, 20)]
        assert [(hit["doc_id"], hit["evaluation"], hit["item"], hit["action"]) for hit in hits(tmp_path)] == [
            ("s/leak", "quiz", "q7", "remove")
        ]
        assert hits(tmp_path)[0]["ngram"] in leak
        assert counts["removed"] == counts["hits"]["quiz"] == 1
        assert counts["evaluations"]["quiz"]["items"] == 2

    def test_twelve_shared_words_are_not_enough(self, tmp_path):
        leak = words(3, 40)
        write_dedup(tmp_path, [document("s/1", leak), document("s/2", words(4))])
        evaluation = write_items(tmp_path / "quiz.jsonl", [{"text": " ".join(leak.split()[:12]) + " " + words(5, 12)}])
        run(decontaminate, tmp_path, heldout_share=0.0, evaluations=(evaluation,))
        assert hits(tmp_path) == []

    def test_mark_keeps_the_document(self, tmp_path):
        leak = words(3)
        write_dedup(tmp_path, [document("s/1", leak), document("s/2", words(4))])
        evaluation = write_items(tmp_path / "quiz.jsonl.gz", [{"text": leak}])
        counts = run(decontaminate, tmp_path, heldout_share=0.0, evaluations=(evaluation,), action="mark")
        assert side(tmp_path, "train") == ["s/1", "s/2"]
        assert [(hit["doc_id"], hit["action"]) for hit in hits(tmp_path)] == [("s/1", "mark")]
        assert counts["removed"] == 0
        assert counts["contaminated"]["s"]["documents"] == 1

    def test_train_documents_that_quote_a_heldout_one_go(self, tmp_path):
        rows = [document(f"s/{n}", words(n)) for n in range(40)]
        chosen = decontaminate.split(
            [Entry(row["doc_id"], "s", len(row["text"]), row["doc_id"]) for row in rows], 0.05, params(decontaminate).seed
        )
        quoted = next(row["text"] for row in rows if row["doc_id"] in chosen)
        rows.append(document("t/quote", words(80, 20) + " " + quoted[:200] + " " + words(81, 20)))
        rows.append(document("t/free", words(82)))
        rows.append(document("t/small", words(83, 30)))
        write_dedup(tmp_path, rows)
        run(decontaminate, tmp_path, heldout_share=0.05)
        train, heldout = side(tmp_path, "train"), side(tmp_path, "heldout")
        assert not set(train) & set(heldout)
        assert chosen | {"t/small"} == set(heldout)
        assert "t/quote" not in train
        assert "t/free" in train
        assert [(hit["doc_id"], hit["evaluation"]) for hit in hits(tmp_path)] == [("t/quote", "heldout")]

    def test_groups_of_dedup_stay_on_one_side(self, tmp_path):
        rows = [document(f"s/{n}", words(n)) for n in range(60)]
        member = {"survivor": True, "kind": "near", "jaccard": 1.0}
        members = [{"doc_id": f"s/{n}", "cluster": f"s/{n}", "group": f"s/{n // 2 * 2}", **member} for n in range(60)]
        write_dedup(tmp_path, rows, members)
        run(decontaminate, tmp_path, heldout_share=0.2)
        heldout = set(side(tmp_path, "heldout"))
        assert 8 <= len(heldout) <= 16
        assert all((f"s/{n}" in heldout) == (f"s/{n + 1}" in heldout) for n in range(0, 60, 2))

    def test_set_without_a_long_enough_item_is_an_error(self, tmp_path):
        write_dedup(tmp_path, [document("s/1", words(1))])
        evaluation = write_items(tmp_path / "quiz.jsonl", [{"text": "yes"}])
        with pytest.raises(StageError, match="'quiz' has no item of n-gram length"):
            run(decontaminate, tmp_path, evaluations=(evaluation,))

    def test_relative_file_must_be_declared(self, tmp_path):
        write_dedup(tmp_path, [document("s/1", words(1))])
        with pytest.raises(StageError, match="input is not declared"):
            run(decontaminate, tmp_path, evaluations=(EvaluationSet("quiz", "eval/quiz.jsonl"),))

    def test_unknown_language_names_the_document(self, tmp_path):
        write_dedup(tmp_path, [document("s/1", "bonjour", lang="fr")])
        with pytest.raises(StageError, match=r"'fr'.*s/1.*decontaminate.ngram"):
            run(decontaminate, tmp_path)

    def test_both_languages_need_a_length(self):
        plain = to_plain(params(decontaminate)) | {"ngram": {"en": 13}}
        with pytest.raises(ParamsError, match="for en and for zh"):
            parse(decontaminate.Params, plain, "decontaminate")

    def test_names_must_differ(self):
        plain = to_plain(params(decontaminate)) | {"evaluations": [{"name": "heldout", "file": "x"}]}
        with pytest.raises(ParamsError, match="must differ"):
            parse(decontaminate.Params, plain, "decontaminate")

"""The decontaminate stage over planted overlaps."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages import _ngrams, decontaminate
from stages._engine import EngineSettings
from stages._params import ParamsError, parse, to_plain
from stages._runner import StageError, StageIO
from stages.decontaminate import EvaluationSet
from tests.support.cleaning_project import document, params, run
from tests.support.contamination import chosen, clean_up, hit_rows, side, words, write_dedup, write_items
from tests.support.text import text as text_of


class TestStage:
    def test_overlap_with_an_evaluation_set_is_removed_and_named(self, tmp_path):
        leak = words(3, 40)
        question = " ".join(leak.split()[10:24])
        rows = [document(f"s/{n}", words(n)) for n in range(10, 20)] + [document("s/leak", leak)]
        write_dedup(tmp_path, rows)
        evaluation = write_items(tmp_path / "quiz.jsonl", [{"text": words(99)}, {"id": "q7", "inputs_pretokenized": question}])
        counts = clean_up(tmp_path, evaluations=(evaluation,))
        assert side(tmp_path, "train") == [f"s/{n}" for n in range(10, 20)]
        assert [(hit["doc_id"], hit["evaluation"], hit["item"], hit["action"]) for hit in hit_rows(tmp_path)] == [
            ("s/leak", "quiz", "q7", "remove")
        ]
        assert hit_rows(tmp_path)[0]["ngram"] in leak
        assert counts["removed"] == counts["hits"]["quiz"] == 1
        assert counts["evaluations"]["quiz"]["items"] == 2

    def test_twelve_shared_words_are_not_enough(self, tmp_path):
        leak = words(3, 40)
        write_dedup(tmp_path, [document("s/1", leak), document("s/2", words(4))])
        evaluation = write_items(tmp_path / "quiz.jsonl", [{"text": " ".join(leak.split()[:12]) + " " + words(5, 12)}])
        clean_up(tmp_path, evaluations=(evaluation,), may_match_nothing=("quiz",))
        assert hit_rows(tmp_path) == []

    def test_a_short_passage_that_occurs_whole_is_a_hit(self, tmp_path):
        question = words(7, 9)
        before = words(4, 30)
        leak = f"{before} “{question.upper()}?” {words(5)}"
        half = f"{before} {question[:-3]} {words(6)}"
        write_dedup(tmp_path, [document("s/leak", leak), document("s/half", half), document("s/free", words(8))])
        evaluation = write_items(tmp_path / "quiz.jsonl", [{"text": f"{question}?"}])
        counts = clean_up(tmp_path, evaluations=(evaluation,))
        assert hit_rows(tmp_path) == [
            {
                "doc_id": "s/leak", "evaluation": "quiz", "item": "0", "ngram": question, "action": "remove",
                "method": "substring", "start": 30,
            }
        ]  # fmt: skip
        assert counts["hits_by_method"] == {"substring": 1}
        assert counts["evaluations"]["quiz"]["matched"] == 1

    def test_short_passages_are_left_alone_without_the_rule(self, tmp_path):
        question = words(7, 9)
        write_dedup(tmp_path, [document("s/1", words(4) + " " + question)])
        evaluation = write_items(tmp_path / "quiz.jsonl", [{"text": question}, {"text": words(50)}])
        clean_up(tmp_path, evaluations=(evaluation,), substring=None, may_match_nothing=("quiz",))
        assert hit_rows(tmp_path) == []

    def test_the_words_of_a_template_are_no_passage(self, tmp_path):
        template, sentence = "do these two sentences mean the same thing", words(3, 9)
        items = [{"text": f"{words(100 + n, 9)}\n{template}"} for n in range(11)] + [{"text": f"{sentence}\n{template}"}]
        write_dedup(tmp_path, [document("s/prompt", f"{words(1)} {template}"), document("s/leak", f"{words(2)} {sentence}")])
        evaluation = write_items(tmp_path / "pairs.jsonl", items, passages="lines")
        counts = clean_up(tmp_path, evaluations=(evaluation,), action="mark")
        assert [(hit["doc_id"], hit["item"]) for hit in hit_rows(tmp_path)] == [("s/leak", "11")]
        assert counts["evaluations"]["pairs"]["templates"] == 1

    def test_chinese_passage_without_blanks_and_signs(self, tmp_path):
        write_dedup(
            tmp_path,
            [document("s/1", "却说曹操引百万之众，屯于赤壁。" * 3, "zh"), document("s/2", "天下大势，分久必合" * 9, "zh")],
        )
        evaluation = write_items(tmp_path / "quiz.jsonl", [{"text": "曹操引百万之众 屯于赤壁"}])
        clean_up(tmp_path, evaluations=(evaluation,))
        assert [(hit["doc_id"], hit["method"], hit["start"]) for hit in hit_rows(tmp_path)] == [("s/1", "substring", 2)]

    def test_an_evaluation_that_overlaps_with_nothing_stops_the_stage(self, tmp_path):
        write_dedup(tmp_path, [document(f"s/{n}", words(n)) for n in range(40)])
        evaluation = write_items(tmp_path / "quiz.jsonl", [{"text": words(99)}])
        with pytest.raises(StageError, match=r"overlaps with anything of 'quiz'.*may_match_nothing"):
            clean_up(tmp_path, evaluations=(evaluation,))
        (tmp_path / "data/.decontaminate.partial").rename(tmp_path / "first")
        with pytest.raises(StageError, match="overlaps with anything of 'heldout'"):
            run(decontaminate, tmp_path)

    def test_memory_and_workers_change_no_byte(self, tmp_path):
        leaks = {name: words(seed, 40) for name, seed in (("a", 3), ("b", 4), ("c", 5))}
        rows = [document(f"{source}/{n}", words(100 * ord(source) + n)) for source in leaks for n in range(30)]
        rows += [document(f"{source}/leak", leak) for source, leak in leaks.items()]
        write_dedup(tmp_path, rows)
        evaluation = write_items(tmp_path / "quiz.jsonl", [{"text": leak} for leak in leaks.values()])
        changed = params(decontaminate, evaluations=(evaluation,), may_match_nothing=("heldout",))
        (tmp_path / "takedowns.jsonl").touch()
        outputs = []
        for memory in (2**30, 500):
            settings = EngineSettings(max_memory=memory)
            deps = ["data/dedup", "takedowns.jsonl"]
            io = StageIO("decontaminate", tmp_path, deps, f"data/out-{memory}", settings, key=str(memory))
            io.output.mkdir(parents=True)
            decontaminate.run(changed, io)
            io.collect()
            parts = list((tmp_path / f"runs/decontaminate/work/{memory}/work/index").iterdir())
            assert (len(parts) > 5) == (memory == 500)
            outputs.append({path.relative_to(io.output): path.read_bytes() for path in io.output.rglob("*.parquet")})
        assert outputs[0] == outputs[1]
        assert len(outputs[0]) == 7

    def test_mark_keeps_the_document(self, tmp_path):
        leak = words(3)
        write_dedup(tmp_path, [document("s/1", leak), document("s/2", words(4))])
        evaluation = write_items(tmp_path / "quiz.jsonl.gz", [{"text": leak}])
        counts = clean_up(tmp_path, evaluations=(evaluation,), action="mark")
        assert side(tmp_path, "train") == ["s/1", "s/2"]
        assert [(hit["doc_id"], hit["action"]) for hit in hit_rows(tmp_path)] == [("s/1", "mark")]
        assert counts["removed"] == 0
        assert counts["contaminated"]["s"]["documents"] == 1

    def test_train_documents_that_quote_a_heldout_one_go(self, tmp_path):
        rows = [document(f"s/{n}", words(n)) for n in range(40)]
        names = chosen(
            [(row["doc_id"], "s", len(row["text"]), row["doc_id"]) for row in rows], 0.05, params(decontaminate).seed
        )
        quoted = next(row["text"] for row in rows if row["doc_id"] in names)
        rows.append(document("t/quote", words(80, 20) + " " + quoted[:200] + " " + words(81, 20)))
        rows.append(document("t/free", words(82)))
        rows.append(document("t/small", words(83, 30)))
        write_dedup(tmp_path, rows)
        run(decontaminate, tmp_path, heldout_share=0.05)
        train, heldout = side(tmp_path, "train"), side(tmp_path, "heldout")
        assert not set(train) & set(heldout)
        assert names | {"t/small"} == set(heldout)
        assert "t/quote" not in train
        assert "t/free" in train
        assert [(hit["doc_id"], hit["evaluation"]) for hit in hit_rows(tmp_path)] == [("t/quote", "heldout")]

    def test_groups_of_dedup_stay_on_one_side(self, tmp_path):
        rows = [document(f"s/{n}", words(n)) for n in range(60)]
        member = {"survivor": True, "kind": "near", "jaccard": 1.0}
        members = [{"doc_id": f"s/{n}", "cluster": f"s/{n}", "group": f"s/{n // 2 * 2}", **member} for n in range(60)]
        write_dedup(tmp_path, rows, members)
        run(decontaminate, tmp_path, heldout_share=0.2, may_match_nothing=("heldout",))
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
            run(decontaminate, tmp_path, evaluations=(EvaluationSet("quiz", ("eval/quiz.jsonl",)),))

    def test_unknown_language_names_the_document(self, tmp_path):
        write_dedup(tmp_path, [document("s/1", "bonjour", lang="fr")])
        with pytest.raises(StageError, match=r"'fr'.*s/1.*decontaminate.ngram"):
            run(decontaminate, tmp_path)

    def test_both_languages_need_a_length(self):
        plain = to_plain(params(decontaminate)) | {"ngram": {"en": 13}}
        with pytest.raises(ParamsError, match="for en and for zh"):
            parse(decontaminate.Params, plain, "decontaminate")

    def test_names_must_differ(self):
        plain = to_plain(params(decontaminate)) | {"evaluations": [{"name": "heldout", "files": ["x"]}]}
        with pytest.raises(ParamsError, match="must differ"):
            parse(decontaminate.Params, plain, "decontaminate")

    def test_only_known_evaluations_may_match_nothing(self):
        plain = to_plain(params(decontaminate)) | {"may_match_nothing": ["lambda"]}
        with pytest.raises(ParamsError, match="'lambda', which is none of"):
            parse(decontaminate.Params, plain, "decontaminate")


ENGLISH = {
    "soliloquy": "To be, or not to be: that is the question.",  # 10 words
    "mercy": "The quality of mercy is not strain'd, it droppeth as the gentle rain from heaven",  # 15
    "winter": "Now is the winter of our discontent",  # 7: too short to be evidence
}
CHINESE = {
    "moon": "床前明月光，疑是地上霜。",  # 10 characters
    "ferry": "关关雎鸠，在河之洲。窈窕淑女，君子好逑。",  # 16
    "wine": "对酒当歌，人生几何！",  # 8: too short to be evidence
}


class TestWellKnownPassages:
    """Items of the length of multiple-choice questions and sentence pairs, as they really come to stand in a corpus."""

    @pytest.fixture
    def evaluation(self, tmp_path) -> EvaluationSet:
        items = [
            {"id": name, "inputs_pretokenized": text, "choices_pretokenized": ["yes", "no"], "label": 0}
            for name, text in (ENGLISH | CHINESE).items()
        ]
        return write_items(tmp_path / "quotes.jsonl.gz", items)

    def found(self, root: Path, evaluation: EvaluationSet, text: str, lang: str) -> list[tuple[str, str]]:
        filler = text_of(lang, "filler", 400)
        write_dedup(root, [document("s/0", f"{filler}\n{text}\n{filler}", lang), document("s/1", filler, lang)])
        clean_up(root, evaluations=(evaluation,), may_match_nothing=("quotes",))
        assert all(hit["doc_id"] == "s/0" for hit in hit_rows(root))
        return sorted((hit["item"], hit["method"]) for hit in hit_rows(root))

    @pytest.mark.parametrize(
        ("text", "lang", "hits"),
        [
            ("HAMLET.\nTo be, or not to be, that is the Question:\nWhether 'tis Nobler", "en", [("soliloquy", "substring")]),
            ("quoth he—“TO BE OR NOT TO BE: THAT IS THE\nQUESTION”—and left", "en", [("soliloquy", "substring")]),
            ("He began: to be, or not to be: that is the problem", "en", []),
            ("to be, or not to be; that surely is the question", "en", []),
            ("that is the question: to be, or not to be", "en", []),
            ("The quality of mercy is not strain’d,\nIt droppeth as the gentle rain,", "en", [("mercy", "ngram")]),
            ("The quality of mercy is not strain'd, it droppeth as the rain", "en", []),
            ("Now is the winter of our discontent\nMade glorious summer by this sun of York", "en", []),
            ("李白《静夜思》：床前明月光,疑是地上霜,举头望明月", "zh", [("moon", "substring")]),
            ("床 前 明 月 光\n疑 是 地 上 霜", "zh", [("moon", "substring")]),
            ("床前看月光，疑是地上霜。", "zh", []),  # as the oldest edition has it
            ("床前明月光，举头望明月。", "zh", []),
            ("诗云：关关雎鸠在河之洲窈窕淑女君子好逑。", "zh", [("ferry", "ngram")]),
            ("关关雎鸠，在河之洲。窈窕淑女，", "zh", []),  # twelve of its characters
            ("对酒当歌，人生几何！譬如朝露", "zh", []),
        ],
    )
    def test_hits_and_non_hits(self, tmp_path, evaluation, text, lang, hits):
        assert self.found(tmp_path, evaluation, text, lang) == hits

    @pytest.mark.parametrize(("name", "units"), [("soliloquy", 10), ("winter", 7), ("moon", 10), ("wine", 8)])
    def test_lengths_are_those_that_the_comments_say(self, name, units):
        assert len(_ngrams.units((ENGLISH | CHINESE)[name])) == units

    def test_items_too_short_for_either_rule_are_counted(self, tmp_path, evaluation):
        write_dedup(tmp_path, [document("s/1", words(1))])
        counts = clean_up(tmp_path, evaluations=(evaluation,), may_match_nothing=("quotes",))
        assert counts["evaluations"]["quotes"]["too_short"] == 2

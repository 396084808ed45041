"""The stage: boilerplate lines, drops and samples, idle rules, and the same bytes however the work is spread."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import _documents, clean
from stages._engine import EngineSettings
from stages._params import ParamsError, parse, to_plain
from stages._runner import StageError, StageIO
from stages.clean import boilerplate
from stages.clean.params import BoilerplateLimits
from stages.clean.samples import Samples
from tests.support.cleaning_project import document, params, write_corpus
from tests.support.text import text as sample_text

PROSE = (
    "It was the best of times, it was the worst of times, and the people of the town went on with their work as they have "
    "always done, for there is little to be gained by those who wait."
)
QUATRAIN = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。"
NOTICE = "Reprinted with the kind permission of the owners of this site"
ANY = {"rules_may_be_idle": ("all",)}


def run(root: Path, settings: EngineSettings | None = None, out: str = "clean", **changes: Any) -> dict[str, Any]:
    """Run the stage in project `root` and leave its output in data/`out`."""
    io = StageIO("clean", root, ["data/corpus"], "data/clean", settings)
    io.output.mkdir(parents=True)
    io.runs.mkdir(parents=True, exist_ok=True)
    counts = clean.run(params(clean, **(ANY | changes)), io)
    io.engine.close()
    io.collect()
    io.forget()
    io.output.rename(root / "data" / out)
    return counts


def kept(root: Path) -> dict[str, dict[str, Any]]:
    return {row["doc_id"]: row for row in _documents.read_documents(root / "data/clean")}


def table(root: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(root / "data/clean" / f"{name}.parquet").to_pylist()


class TestStage:
    def test_every_document_is_kept_or_dropped_with_a_reason(self, tmp_path):
        rows = [
            document("a/1", PROSE + "\r\n"),
            document("a/2", "too short"),
            document("a/3", QUATRAIN, lang="en"),
            document("b/1", "……", lang="zh"),
        ]
        write_corpus(tmp_path, rows)
        counts = run(tmp_path)
        documents = kept(tmp_path)
        assert sorted(documents) == ["a/1", "a/3"]
        assert documents["a/1"]["text"] == PROSE
        assert documents["a/1"]["raw_sha256"] == rows[0]["raw_sha256"]
        assert documents["a/3"]["lang"] == "zh"
        assert [(row["doc_id"], row["lang"], row["reason"], row["detail"]) for row in table(tmp_path, "drops")] == [
            ("a/2", "en", "too_short", "8 < 100"),
            ("b/1", "und", "language", "no letters"),
        ]
        assert counts["drops"] == {"language": {"und": 1}, "too_short": {"en": 1}}
        assert counts["relabelled"] == {"en to zh": 1}
        assert counts["documents_in"] == counts["documents"] + counts["dropped"] == 4
        assert counts["languages"]["en"]["bytes"] == len(PROSE)
        assert counts["languages"]["zh"]["characters"]["han"] == 20

    def test_a_shard_may_lose_all_its_documents(self, tmp_path):
        write_corpus(tmp_path, [document("a/1", PROSE), document("b/1", "x")])
        run(tmp_path)
        files = _documents.document_files(tmp_path / "data/clean")
        assert [pq.read_metadata(file).num_rows for file in files] == [1, 0]
        assert pq.read_schema(files[1]).equals(_documents.SCHEMA)

    def test_nothing_left_is_an_error(self, tmp_path):
        write_corpus(tmp_path, [document("a/1", "x")])
        with pytest.raises(StageError, match="no document is left of 1"):
            run(tmp_path)

    def test_the_first_rule_that_fails_is_the_reason_and_the_others_are_counted_too(self, tmp_path):
        write_corpus(tmp_path, [document("a/1", PROSE), document("a/2", "the town of\n" * 4)])
        counts = run(tmp_path)
        assert counts["drops"] == {"too_short": {"en": 1}}
        assert {name for name, langs in counts["matched"].items() if langs == {"en": 1}} >= {"too_short", "duplicate_lines"}

    def test_a_document_of_any_length_is_measured_no_further_than_the_limit(self, tmp_path):
        write_corpus(tmp_path, [document("a/1", PROSE), document("a/2", f"{PROSE}\n" * 200)])
        tight = dataclasses.replace(params(clean).en, max_characters=500)
        run(tmp_path, en=tight, zh=dataclasses.replace(params(clean).zh, max_characters=500))
        assert [(row["reason"], row["detail"]) for row in table(tmp_path, "drops")] == [("too_long", "501 > 500")]

    def test_mojibake_is_repaired_and_personal_data_masked(self, tmp_path):
        broken = QUATRAIN.encode().decode("latin-1")
        write_corpus(tmp_path, [document("a/1", broken), document("a/2", f"{PROSE} Write to me@home.org or call 13812345678.")])
        counts = run(tmp_path)
        assert kept(tmp_path)["a/1"]["text"] == QUATRAIN
        assert kept(tmp_path)["a/2"]["text"] == f"{PROSE} Write to |||EMAIL_ADDRESS||| or call |||PHONE_NUMBER|||."
        assert counts["matched"]["repair"] == {"zh": 2}
        assert counts["matched"]["mask_email"] == counts["matched"]["mask_phone"] == {"en": 1}
        changed = {row["rule"]: row for row in table(tmp_path, "samples") if row["outcome"] == "changed"}
        assert changed["repair"]["excerpt"] == QUATRAIN.split("\n", maxsplit=1)[0]
        assert "me@home.org" not in str(table(tmp_path, "samples"))

    def test_repair_and_masks_can_be_switched_off(self, tmp_path):
        text = f"{PROSE} cafÃ© me@home.org"
        write_corpus(tmp_path, [document("a/1", text)])
        run(tmp_path, repair_mojibake=False, mask=dataclasses.replace(params(clean).mask, email=None))
        assert kept(tmp_path)["a/1"]["text"] == text


class TestIdleRules:
    def test_a_rule_that_matched_nothing_fails_the_build(self, tmp_path):
        write_corpus(tmp_path, [document("a/1", PROSE)])
        with pytest.raises(StageError, match=r"matched nothing in the whole corpus: .*stop_words.*rules_may_be_idle"):
            run(tmp_path, rules_may_be_idle=())

    def test_unless_it_is_named_or_switched_off(self, tmp_path):
        write_corpus(tmp_path, [document("a/1", PROSE), document("a/2", "too short")])
        names = [name for name in params(clean).active() if name not in ("repair", "too_short", "stop_words")]
        english = dataclasses.replace(params(clean).en, min_stop_words=None)
        counts = run(tmp_path, rules_may_be_idle=tuple(names), repair_mojibake=False, en=english)
        assert counts["dropped"] == 1

    def test_unknown_names_are_refused(self):
        section = to_plain(params(clean)) | {"rules_may_be_idle": ["stop_wrods"]}
        with pytest.raises(ParamsError, match="unknown stop_wrods; known: all, alphabetic_words"):
            parse(clean.Params, section, "clean")


class TestBoilerplate:
    LIMITS = BoilerplateLimits(min_documents=3, min_bytes=30)

    def write(self, root: Path) -> None:
        rows = [document(f"web/{n}", f"{NOTICE}\n{sample_text('en', n, 400)}\n  {NOTICE}") for n in range(3)]
        rows += [document(f"other/{n}", f"{sample_text('en', n + 9, 400)}\n{NOTICE}") for n in range(2)]
        rows += [document("play/1", "\n".join(f"HAMLET.\n{line}" for line in sample_text("en", 20, 400).split(". ")))]
        write_corpus(root, rows)

    def test_lines_of_many_documents_of_one_source_go(self, tmp_path):
        self.write(tmp_path)
        counts = run(tmp_path, boilerplate=self.LIMITS)
        texts = {doc_id: row["text"] for doc_id, row in kept(tmp_path).items()}
        assert all(NOTICE not in texts[f"web/{n}"] for n in range(3))
        assert all(NOTICE in texts[f"other/{n}"] for n in range(2))
        assert "HAMLET." in texts["play/1"]
        assert counts["matched"]["boilerplate"] == {"en": 6}
        (line,) = [row for row in table(tmp_path, "samples") if row["rule"] == "boilerplate"]
        assert (line["excerpt"], line["value"], line["limit"]) == (NOTICE, 3.0, 3.0)

    def test_null_keeps_them(self, tmp_path):
        self.write(tmp_path)
        counts = run(tmp_path, boilerplate=None)
        assert "boilerplate" not in counts["matched"]
        assert NOTICE in kept(tmp_path)["web/0"]["text"]

    def test_a_line_counts_once_for_a_document(self):
        texts = pa.array(["a long line\na long line\nshort", "a long line"], pa.large_string())
        hashes, documents = boilerplate.tally([boilerplate.lines(texts, ["s", "s"], 8), boilerplate.lines(texts[1:], ["s"], 8)])
        assert documents.tolist() == [3]
        assert len(hashes) == 1

    def test_blanks_at_the_ends_of_a_line_do_not_count_and_the_source_does(self):
        texts = pa.array(["\u3000 indented line", "indented line", "indented line"], pa.large_string())
        first, second, other = boilerplate.lines(texts, ["a", "a", "b"], 8).hashes.tolist()
        assert first == second != other

    def test_ranges_of_any_number_add_up_to_the_same(self, tmp_path):
        draw = np.random.default_rng(1)
        hashes = np.unique(draw.integers(0, 1 << 63, 5000, np.uint64) * np.uint64(2) + np.uint64(1))
        files = []
        for number in range(3):
            own = np.sort(draw.choice(hashes, 4000, replace=False))
            files.append(str(tmp_path / f"{number}.parquet"))
            boilerplate.write_counts(files[-1], own, np.ones(len(own), np.uint32))
        whole = boilerplate.recurring(files, 0, (1 << 64) - 1, 3)
        parts = [boilerplate.recurring(files, first, last, 3) for first, last in boilerplate.ranges(12_000, 100_000)]
        assert len(parts) > 5
        assert 0 < len(whole[0]) < 5000
        assert np.array_equal(np.concatenate([part[0] for part in parts]), whole[0])
        assert set(np.concatenate([part[1] for part in parts]).tolist()) == {3}


class TestSamples:
    def test_dropped_and_only_just_kept(self, tmp_path):
        near = [document(f"a/{size}", PROSE[:size]) for size in (135, 150, 170)]
        write_corpus(tmp_path, [*near, document("a/short", PROSE[:60]), document("a/far", PROSE * 3)])
        run(tmp_path, samples=2)
        rows = [row for row in table(tmp_path, "samples") if row["rule"] == "too_short"]
        assert [(row["outcome"], row["doc_id"]) for row in rows] == [
            ("dropped", "a/short"),
            ("kept", "a/135"),
            ("kept", "a/150"),
        ]
        assert rows[1]["value"] >= rows[1]["limit"] == 100

    def test_the_same_rows_in_whatever_order_they_come(self):
        documents = [(f"d/{n}", float(n % 4)) for n in range(40)]
        tables = []
        for seed in range(3):
            random.Random(seed).shuffle(documents)
            parts = [Samples(3), Samples(3)]
            for index, (doc_id, distance) in enumerate(documents):
                parts[index % 2].add("rule", "en", "kept", doc_id, "text", distance=distance)
            both = Samples(3)
            for part in parts:
                both.extend(part.table())
            tables.append(both.table())
        assert tables[0] == tables[1] == tables[2]
        assert [row["distance"] for row in tables[0]] == [0.0, 0.0, 0.0]


@pytest.mark.slow
def test_the_same_bytes_with_one_two_and_four_workers(tmp_path):
    rows = [document(f"s{n % 5}/{n}", f"{NOTICE}\n{sample_text(lang, n, 600)}") for n, lang in enumerate(["en", "zh"] * 60)]
    write_corpus(tmp_path, [*rows, document("s1/short", "x"), document("s2/mail", f"{PROSE} Write to me@home.org.")])
    outputs = []
    for workers, memory in ((1, 1 << 30), (2, 1 << 30), (4, 10_000)):
        kind = "local" if workers > 1 else "inline"
        settings = EngineSettings(kind=kind, workers=workers, max_memory=memory)
        counts = run(tmp_path, settings, f"clean-{workers}")
        folder = tmp_path / "data" / f"clean-{workers}"
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}
        outputs.append((counts, files))
    assert outputs[0] == outputs[1] == outputs[2]
    assert sum(outputs[0][0]["matched"]["boilerplate"].values()) == 120

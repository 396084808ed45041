"""The stage as a whole: which documents are joined, which survives, and that the bytes depend on nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stages import _documents, _ngrams, dedup
from stages._engine import EngineSettings
from stages._errors import StageError
from stages._params import ParamsError, parse, to_plain
from stages._runner import StageIO
from stages.dedup import build, candidates, components
from tests.support.cleaning_project import document, params, run, write_documents
from tests.support.texts import edited, han, words

PARAMS = params(dedup)


def jaccard(a: str, b: str) -> float:
    one, two = _ngrams.shingles(a, 5), _ngrams.shingles(b, 5)
    return len(one & two) / len(one | two)


def rows(*texts: str, lang: str = "en") -> list[dict[str, Any]]:
    return [document(f"s/{number}", text, lang) for number, text in enumerate(texts)]


def cluster(root: Path, documents: list[dict[str, Any]], **changes: Any) -> dict[str, dict[str, Any]]:
    """Clusters by doc_id, of documents that stand in one shard for each source."""
    write_documents(root / "in", documents)
    io = StageIO("dedup", root, [], "data/dedup")
    shards = sorted(map(str, (root / "in/documents").iterdir()))
    found = build.find_clusters(shards, dataclasses.replace(PARAMS, **changes), io)
    io.forget()
    return {row["doc_id"]: row for row in found.members.to_pylist()}


def test_exact_copies_leave_the_longest_then_the_smallest_id(tmp_path: Path):
    found = cluster(tmp_path, rows("a b c d e f", "A b, c d. E f!", "a b c d e f"))
    assert {name: row["cluster"] for name, row in found.items()} == dict.fromkeys(("s/0", "s/1", "s/2"), "s/1")
    assert [name for name, row in found.items() if row["survivor"]] == ["s/1"]
    assert {row["kind"] for row in found.values()} == {"exact"}
    tie = cluster(tmp_path, rows("same text here", "same text here"))
    assert tie["s/0"]["survivor"] and not tie["s/1"]["survivor"]


@pytest.mark.parametrize("verify", ["exact", "signature"])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_near_duplicate_is_found_and_an_unlike_text_is_not(tmp_path: Path, lang: str, verify: str):
    make, joint = (words, " ") if lang == "en" else (han, "")
    base = make(1)
    near = [*base[:100], "zz" if lang == "en" else "〇", *base[101:], *base[:2]]
    texts = [joint.join(units) for units in (base, near, make(2))]
    found = cluster(tmp_path, rows(*texts, lang=lang), verify=verify)
    assert set(found) == {"s/0", "s/1"}
    assert found["s/1"]["survivor"]
    assert found["s/0"]["kind"] == found["s/1"]["kind"] == "near"
    exact = jaccard(*texts[:2])
    assert found["s/0"]["jaccard"] == exact if verify == "exact" else abs(found["s/0"]["jaccard"] - exact) < 0.1
    assert found["s/0"]["jaccard"] >= PARAMS.threshold


def test_languages_are_never_joined(tmp_path: Path):
    text = " ".join(words(3))
    assert cluster(tmp_path, [document("s/0", text), document("s/1", text, "zh")]) == {}


def test_short_and_empty_documents_join_only_their_equals(tmp_path: Path):
    assert cluster(tmp_path, rows("one", "two", "", "…", "三字", "五言")) == {}
    assert set(cluster(tmp_path, rows("one", "One.", "two"))) == {"s/0", "s/1"}


def test_a_chain_keeps_the_member_that_is_unlike_the_survivor(tmp_path: Path):
    base = words(4, 400)
    step, steps = 20, []
    for number in range(3):  # each differs from the one before in a run of words: 0-1 and 1-2 are similar, 0-2 are not
        steps.append(" ".join(base[: 400 - 2 * number]))
        base = [*base[: number * step], *words(10 + number, step), *base[(number + 1) * step :]]
    first, second, ends = (jaccard(steps[a], steps[b]) for a, b in ((0, 1), (1, 2), (0, 2)))
    threshold = (min(first, second) + ends) / 2
    assert ends < threshold < min(first, second)
    found = cluster(tmp_path, rows(*steps), threshold=threshold)
    assert found["s/0"]["survivor"] and found["s/2"]["survivor"] and not found["s/1"]["survivor"]
    assert found["s/1"]["cluster"] == "s/0" and found["s/2"]["cluster"] == "s/2"
    assert {row["group"] for row in found.values()} == {"s/0"}
    assert {row["kind"] for row in found.values()} == {"near"}


def test_exact_copies_follow_their_head_into_a_near_cluster(tmp_path: Path):
    base = " ".join(words(5))
    found = cluster(tmp_path, rows(base, base.upper(), f"{base} coda"))
    assert {row["cluster"] for row in found.values()} == {"s/2"}
    assert [found[name]["kind"] for name in ("s/0", "s/1")] == ["near", "near"]
    assert found["s/0"]["jaccard"] == found["s/1"]["jaccard"] == jaccard(base, f"{base} coda")


def test_the_oldest_copy_does_not_lose_its_seniority_to_its_number(tmp_path: Path):
    base = " ".join(words(5))
    found = cluster(tmp_path, rows(base, f"{base} coda", f"“{base}”, coda!!!"))
    assert [name for name, row in found.items() if row["survivor"]] == ["s/2"]
    assert (found["s/1"]["kind"], found["s/0"]["kind"]) == ("exact", "near")


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_recall_and_precision_against_all_pairs(tmp_path: Path, lang: str):
    generator = random.Random(11)
    make, joint = (words, " ") if lang == "en" else (han, "")
    texts = []
    for number in range(100):
        base = make(100 + number, 120)
        texts += [joint.join(base), *(joint.join(edited(base, generator, generator.randrange(1, 8))) for _ in range(2))]
    truth = {
        (f"s/{a}", f"s/{b}")
        for third in range(0, len(texts), 3)
        for a, b in combinations(range(third, third + 3), 2)
        if jaccard(texts[a], texts[b]) >= PARAMS.threshold
    }
    found = cluster(tmp_path, rows(*texts, lang=lang))
    together = {(a, b) for a, b in truth if a in found and b in found and found[a]["group"] == found[b]["group"]}
    assert len(truth) > 50
    assert len(together) / len(truth) >= 0.985
    for name, row in found.items():
        exact = jaccard(texts[int(name[2:])], texts[int(row["cluster"][2:])])
        assert row["jaccard"] == exact and (row["survivor"] or exact >= PARAMS.threshold)


def test_a_bucket_of_many_is_joined_by_chains(tmp_path: Path):
    base, generator = words(20, 300), random.Random(20)
    texts = [" ".join(edited(base, generator, 3)) for _ in range(150)]
    assert len(set(texts)) == 150
    found = cluster(tmp_path, rows(*texts))
    assert len(found) >= 0.99 * 150
    assert len({row["group"] for row in found.values()}) == 1


def test_bands_must_fit_the_signature():
    plain = to_plain(PARAMS)
    with pytest.raises(ParamsError, match="bands x rows = 160 exceeds permutations = 128"):
        parse(dedup.Params, plain | {"bands": 40}, "dedup")
    with pytest.raises(ParamsError, match=r"dedup.scheme: 'legacy' is not allowed"):
        parse(dedup.Params, plain | {"scheme": "legacy"}, "dedup")


def bilingual(seed: int, documents: int) -> list[dict[str, Any]]:
    """Documents of three sources, always four of them variants of one text."""
    generator, made = random.Random(seed), []
    for number in range(documents):
        english = number // 4 % 2
        base = (words if english else han)(number // 4, 100)
        text = (" " if english else "").join(edited(base, generator, generator.randrange(4)))
        made.append(document(f"{'abc'[number % 3]}/{number}", text, "en" if english else "zh"))
    return made


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class TestStage:
    def test_output_and_record_agree(self, tmp_path: Path):
        base = words(6)
        documents = [
            document("a/1", " ".join(base)),
            document("a/2", " ".join(words(7))),
            document("b/1", " ".join([*base, "coda"])),
            document("b/2", " ".join(words(7)).title()),
        ]
        write_documents(tmp_path / "data/clean", documents)
        counts = run(dedup, tmp_path)
        left = [row["doc_id"] for row in _documents.read_documents(tmp_path / "data/dedup")]
        table = pq.read_table(tmp_path / "data/dedup/clusters.parquet")
        assert table.schema.equals(dedup.CLUSTERS)
        assert left == ["a/2", "b/1"]
        assert [(row["doc_id"], row["cluster"], row["survivor"], row["kind"]) for row in table.to_pylist()] == [
            ("a/2", "a/2", True, "exact"),
            ("b/2", "a/2", False, "exact"),
            ("b/1", "b/1", True, "near"),
            ("a/1", "b/1", False, "near"),
        ]
        assert counts["documents_in"] == counts["documents"] + counts["removed"] == 4
        assert counts["removed_by_kind"] == {"near": 1, "exact": 1}
        assert counts["removed_by_source"] == {"a: near": 1, "b: exact": 1}
        assert (counts["clusters"], counts["largest_cluster"], counts["capped"]) == (2, 2, 0)

    def test_a_shard_keeps_its_rows_in_order_and_their_other_columns(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("stages.dedup.output._ROWS", 7)
        documents = [document(f"a/{number:02}", " ".join(words(number % 50)), title=f"t{number}") for number in range(60)]
        write_documents(tmp_path / "data/clean", documents)
        run(dedup, tmp_path)
        left = list(_documents.read_documents(tmp_path / "data/dedup"))
        assert left == [{"url": None, **row} for row in documents[:50]]
        assert pq.read_metadata(tmp_path / "data/dedup/documents/a-00000.parquet").row_group(0).num_rows == 7

    def test_order_of_the_shards_does_not_change_the_survivors(self, tmp_path: Path):
        texts = [" ".join(words(seed // 2)) + (" tail" if seed % 2 else "") for seed in range(20)]
        outcomes = []
        for names in ("abcdefghijklmnopqrst", "tsrqponmlkjihgfedcba"):
            root = tmp_path / names[0]
            documents = [
                document(f"{name}/x", text) | {"doc_id": f"id/{number}"}
                for number, (name, text) in enumerate(zip(names, texts, strict=True))
            ]
            write_documents(root / "data/clean", documents)
            run(dedup, root)
            outcomes.append(pq.read_table(root / "data/dedup/clusters.parquet").to_pylist())
        assert outcomes[0] == outcomes[1]
        assert len(outcomes[0]) == 20

    def test_bytes_depend_neither_on_memory_nor_on_how_the_work_is_cut(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        documents, made = bilingual(1, 120), []
        for name, memory in (("whole", 2**30), ("cut", 2000)):
            root = tmp_path / name
            write_documents(root / "data/clean", documents)
            if name == "cut":
                monkeypatch.setattr(candidates, "RANGE", 32)
                monkeypatch.setattr(candidates, "_PAIRS_AT_ONCE", 5)
                monkeypatch.setattr(candidates, "_MANY", 1)
                monkeypatch.setattr(components, "PART", 4000)
                monkeypatch.setattr(build, "_SORTED_AT_ONCE", 16)
            io = StageIO("dedup", root, ["data/clean"], "data/dedup", EngineSettings(max_memory=memory))
            io.output.mkdir(parents=True)
            counts = dedup.run(PARAMS, io)
            io.collect()
            made.append((digests(io.output / "documents"), digests(io.output)["clusters.parquet"], counts))
            assert counts["removed"] > 20
        assert made[0] == made[1]

    @pytest.mark.parametrize("workers", [2])
    def test_bytes_do_not_depend_on_the_number_of_workers(self, tmp_path: Path, workers: int):
        documents, made = bilingual(2, 60), []
        for settings in (EngineSettings(), EngineSettings("local", workers)):
            root = tmp_path / settings.kind
            write_documents(root / "data/clean", documents)
            io = StageIO("dedup", root, ["data/clean"], "data/dedup", settings)
            io.output.mkdir(parents=True)
            counts = dedup.run(PARAMS, io)
            io.engine.close()
            io.collect()
            made.append((digests(io.output), counts))
        assert made[0] == made[1]

    def test_a_corpus_without_duplicates_is_an_error_unless_it_is_allowed(self, tmp_path: Path):
        write_documents(tmp_path / "data/clean", [document("a/1", " ".join(words(8))), document("a/2", "short")])
        with pytest.raises(StageError, match=r"none of 2 documents resembles another.*may_match_nothing"):
            run(dedup, tmp_path)
        (tmp_path / "data/.dedup.partial").rmdir()
        counts = run(dedup, tmp_path, may_match_nothing=True)
        assert counts["clusters"] == counts["removed"] == counts["largest_cluster"] == 0
        assert pq.read_metadata(tmp_path / "data/dedup/clusters.parquet").num_rows == 0
        assert counts["documents"] == 2

    def test_no_documents_at_all_are_an_error(self, tmp_path: Path):
        (tmp_path / "data/clean").mkdir(parents=True)
        with pytest.raises(StageError, match="no documents"):
            run(dedup, tmp_path)

    def test_unknown_language_names_the_document(self, tmp_path: Path):
        write_documents(tmp_path / "data/clean", [document("a/0", "hello"), document("a/1", "bonjour", lang="fr")])
        with pytest.raises(StageError, match=r"'fr'.*a/1.*dedup.ngram"):
            run(dedup, tmp_path)

    def test_long_documents_are_capped_and_counted(self, tmp_path: Path):
        base = " ".join(words(9, 400))
        write_documents(tmp_path / "data/clean", rows(f"{base} {' '.join(words(10))}", f"{base} {' '.join(words(11))}"))
        counts = run(dedup, tmp_path, max_characters=len(base))
        assert (counts["capped"], counts["removed"]) == (2, 1)

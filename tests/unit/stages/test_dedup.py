from __future__ import annotations

import random
from collections import Counter

import pyarrow.parquet as pq
import pytest

from stages import _documents, _ngrams, dedup
from stages._params import ParamsError, parse, to_plain
from stages._runner import StageError
from tests.support.cleaning_project import document, params, run, write_documents

PARAMS = params(dedup)


def words(seed: int, count: int = 200) -> list[str]:
    generator = random.Random(seed)
    return ["".join(generator.choices("abcdefghij", k=6)) for _ in range(count)]


def han(seed: int, count: int = 200) -> str:
    return "".join(chr(0x4E00 + random.Random(f"{seed}-{n}").randrange(3000)) for n in range(count))


def make(*texts: str, lang: str = "en") -> list[dedup.Document]:
    return [dedup.Document(f"s/{number}", lang, text) for number, text in enumerate(texts)]


def cluster(documents: list[dedup.Document]) -> dict[str, dedup.Member]:
    return {member.doc_id: member for member in dedup.find_clusters(documents, PARAMS, Counter())}


def test_fingerprint_ignores_case_punctuation_and_blanks():
    assert dedup.fingerprint("To be, or not.") == dedup.fingerprint("to  be\nor NOT")
    assert dedup.fingerprint("对酒当歌，人生几何。") == dedup.fingerprint("对酒当歌 人生几何")
    assert dedup.fingerprint("……") != dedup.fingerprint("——")


def test_exact_duplicates_leave_the_longest_then_the_smallest_id():
    found = cluster(make("a b c d e f", "A b, c d. E f!", "a b c d e f"))
    assert {name: member.cluster for name, member in found.items()} == dict.fromkeys(("s/0", "s/1", "s/2"), "s/1")
    assert [name for name, member in found.items() if member.survivor] == ["s/1"]
    assert {member.kind for member in found.values()} == {"exact"}
    tie = cluster(make("same text here", "same text here"))
    assert tie["s/0"].survivor and not tie["s/1"].survivor


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_near_duplicate_is_found_and_an_unlike_text_is_not(lang):
    base = words(1) if lang == "en" else list(han(1))
    edited = [*base[:100], "zz" if lang == "en" else "〇", *base[101:], *base[:2]]
    other = words(2) if lang == "en" else list(han(2))
    joint = " " if lang == "en" else ""
    found = cluster(make(*(joint.join(text) for text in (base, edited, other)), lang=lang))
    assert set(found) == {"s/0", "s/1"}
    assert found["s/1"].survivor
    assert found["s/0"].kind == found["s/1"].kind == "near"
    exact = dedup.jaccard(_ngrams.shingles(joint.join(base), 5), _ngrams.shingles(joint.join(edited), 5))
    assert found["s/0"].jaccard == exact >= PARAMS.threshold


def test_languages_are_never_compared():
    text = " ".join(words(3))
    documents = [dedup.Document("s/0", "en", text), dedup.Document("s/1", "zh", text)]
    assert cluster(documents) == {}


def test_short_and_empty_documents_join_only_their_equals():
    assert cluster(make("one", "two", "", "…", "三字", "五言")) == {}
    assert set(cluster(make("one", "One.", "two"))) == {"s/0", "s/1"}


def test_a_chain_keeps_the_member_that_is_unlike_the_survivor():
    base = words(4, 400)
    step, steps = 20, []
    for number in range(3):  # each differs from the one before in a run of words: 0-1 and 1-2 are similar, 0-2 are not
        steps.append(base[: 400 - 2 * number])
        base = [*base[: number * step], *words(10 + number, step), *base[(number + 1) * step :]]
    shingles = [_ngrams.shingles(" ".join(text), 5) for text in steps]
    first, second, ends = (dedup.jaccard(shingles[a], shingles[b]) for a, b in ((0, 1), (1, 2), (0, 2)))
    threshold = (min(first, second) + ends) / 2
    assert ends < threshold < min(first, second)
    tuned = params(dedup, threshold=threshold)
    members = dedup.find_clusters(make(*map(" ".join, steps)), tuned, Counter())
    found = {member.doc_id: member for member in members}
    assert found["s/0"].survivor and found["s/2"].survivor and not found["s/1"].survivor
    assert found["s/1"].cluster == "s/0" and found["s/2"].cluster == "s/2"
    assert {member.group for member in members} == {"s/0"}


def test_exact_copies_follow_their_head_into_a_near_cluster():
    base = words(5)
    longer = [*base, "coda"]
    found = cluster(make(" ".join(base), " ".join(base).upper(), " ".join(longer)))
    assert {member.cluster for member in found.values()} == {"s/2"}
    assert [found[name].kind for name in ("s/0", "s/1")] == ["near", "near"]


def test_components_are_those_of_a_graph_search():
    generator = random.Random(7)
    pairs = [tuple(sorted(generator.sample(range(60), 2))) for _ in range(45)]
    neighbours: dict[int, set[int]] = {}
    for a, b in pairs:
        neighbours.setdefault(a, set()).add(b)
        neighbours.setdefault(b, set()).add(a)
    expected, seen = [], set()
    for node in sorted(neighbours):
        if node not in seen:
            reach, todo = set(), [node]
            while todo:
                current = todo.pop()
                if current not in reach:
                    reach.add(current)
                    todo += neighbours[current]
            seen |= reach
            expected.append(sorted(reach))
    assert dedup.components(pairs) == expected


def test_recall_and_precision_against_all_pairs():
    generator = random.Random(11)
    texts = []
    for number in range(60):
        base = words(100 + number, 120)
        texts.append(base)
        for _ in range(2):
            copy = list(base)
            for place in generator.sample(range(120), generator.randrange(1, 8)):
                copy[place] = "edit"
            texts.append(copy)
    documents = make(*map(" ".join, texts))
    sets = [_ngrams.shingles(document.text, 5) for document in documents]
    truth = {
        (a, b) for a in range(len(sets)) for b in range(a + 1, len(sets)) if dedup.jaccard(sets[a], sets[b]) >= PARAMS.threshold
    }
    candidates = set(dedup.candidate_pairs(documents, PARAMS))
    assert len(truth) > 50
    assert len(truth & candidates) / len(truth) >= 0.99


def test_bands_must_fit_the_signature():
    plain = to_plain(PARAMS)
    with pytest.raises(ParamsError, match="bands x rows = 160 exceeds permutations = 128"):
        parse(dedup.Params, plain | {"bands": 40}, "dedup")


class TestStage:
    def test_output_and_record_agree(self, tmp_path):
        base = words(6)
        rows = [
            document("a/1", " ".join(base)),
            document("a/2", " ".join(words(7))),
            document("b/1", " ".join([*base, "coda"])),
            document("b/2", " ".join(words(7)).title()),
        ]
        write_documents(tmp_path / "data/clean", rows)
        counts = run(dedup, tmp_path)
        left = [row["doc_id"] for row in _documents.read_documents(tmp_path / "data/dedup")]
        table = pq.read_table(tmp_path / "data/dedup/clusters.parquet").to_pylist()
        assert left == ["a/2", "b/1"]
        assert [(row["doc_id"], row["cluster"], row["survivor"], row["kind"]) for row in table] == [
            ("a/2", "a/2", True, "exact"),
            ("b/2", "a/2", False, "exact"),
            ("b/1", "b/1", True, "near"),
            ("a/1", "b/1", False, "near"),
        ]
        assert counts["documents_in"] == counts["documents"] + counts["removed"] == 4
        assert counts["removed_by_kind"] == {"near": 1, "exact": 1}

    def test_order_of_the_shards_does_not_change_the_survivors(self, tmp_path):
        texts = [" ".join(words(seed // 2)) + (" tail" if seed % 2 else "") for seed in range(20)]
        outcomes = []
        for names in ("abcdefghijklmnopqrst", "tsrqponmlkjihgfedcba"):
            root = tmp_path / names[0]
            rows = [
                document(f"{name}/x", text) | {"doc_id": f"id/{number}"}
                for number, (name, text) in enumerate(zip(names, texts, strict=True))
            ]
            write_documents(root / "data/clean", rows)
            run(dedup, root)
            outcomes.append(pq.read_table(root / "data/dedup/clusters.parquet").to_pylist())
        assert outcomes[0] == outcomes[1]
        assert len(outcomes[0]) == 20

    def test_no_duplicates_leave_an_empty_record(self, tmp_path):
        write_documents(tmp_path / "data/clean", [document("a/1", " ".join(words(8)))])
        counts = run(dedup, tmp_path)
        assert counts["clusters"] == counts["removed"] == counts["largest_cluster"] == 0
        assert pq.read_metadata(tmp_path / "data/dedup/clusters.parquet").num_rows == 0

    def test_unknown_language_names_the_document(self, tmp_path):
        write_documents(tmp_path / "data/clean", [document("a/1", "bonjour", lang="fr")])
        with pytest.raises(StageError, match=r"'fr'.*a/1.*dedup.ngram"):
            run(dedup, tmp_path)

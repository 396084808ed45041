"""The steps between signatures and clusters: buckets, components, memory."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from stages import dedup
from stages.dedup import candidates, components, tables
from stages.dedup.signatures import SignTask, sign_shard
from tests.support.cleaning_project import document, params, write_documents
from tests.support.texts import edited, words

PARAMS = params(dedup)


def bucket_pairs(keys: list[int], small: int) -> tuple[list[tuple[int, int]], int]:
    pairs, largest = candidates._bucket_pairs(np.array(keys, np.uint64), np.arange(len(keys)), small)
    first, second = candidates.split(pairs)
    return sorted(zip(first.tolist(), second.tolist(), strict=True)), largest


def test_a_small_bucket_pairs_all_and_a_large_one_a_chain():
    assert bucket_pairs([1, 2, 2, 2, 3], 3) == ([(1, 2), (1, 3), (2, 3)], 3)
    assert bucket_pairs([7] * 5, 4) == ([(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4)], 5)
    assert bucket_pairs([], 4) == ([], 0)
    assert len(bucket_pairs([9] * 10_000, 16)[0]) == 2 * 10_000 - 3


def test_ties_are_brought_into_order():
    keys, documents = np.array([1, 1, 1, 5, 8, 8], np.uint64), np.array([4, 0, 2, 1, 5, 3])
    candidates._sort_ties(keys, documents)
    assert documents.tolist() == [0, 2, 4, 1, 3, 5]


def test_components_are_those_of_a_graph_search():
    generator = random.Random(7)
    pairs = [tuple(sorted(generator.sample(range(60), 2))) for _ in range(45)]
    parent = np.arange(60)
    components.join(parent, *np.array(pairs).T)
    neighbours: dict[int, set[int]] = {node: {node} for node in range(60)}
    for a, b in pairs:
        neighbours[a].add(b)
        neighbours[b].add(a)
    for node, root in enumerate(components.roots(parent)):
        reach, todo = set(), [node]
        while todo:
            current = todo.pop()
            if current not in reach:
                reach.add(current)
                todo += neighbours[current]
        assert root == min(reach)


def layout_of(root: Path, texts: list[str], shards: int) -> tables.Layout:
    write_documents(root, [document(f"s{number % shards}/{number}", text) for number, text in enumerate(texts)])
    made, starts = [], [0]
    for shard in sorted((root / "documents").iterdir()):
        made.append(str(root / f"{shard.stem}.arrow"))
        starts.append(starts[-1] + sign_shard(SignTask(str(shard), made[-1], PARAMS))["documents"])
    return tables.Layout(tuple(made), tuple(starts))


def test_a_band_that_does_not_fit_into_memory_comes_in_parts(tmp_path: Path):
    layout = layout_of(tmp_path, [" ".join(words(seed // 3)) for seed in range(60)], 3)
    left_out = np.array([5, 30])
    whole = list(candidates.sorted_bands(layout, (0, 31), left_out, 2**30, PARAMS))
    parts = list(candidates.sorted_bands(layout, (0, 31), left_out, 700, PARAMS))
    assert len(whole) == 2 and len(parts) == 2 * 8
    for number, (band, keys, documents) in enumerate(whole):
        mine = parts[8 * number : 8 * number + 8]
        assert {part[0] for part in mine} == {band}
        assert np.array_equal(np.concatenate([part[1] for part in mine]), keys)
        assert np.array_equal(np.concatenate([part[2] for part in mine]), documents)
        assert sorted(documents.tolist()) == sorted(set(range(60)) - {5, 30})
        assert np.all(keys[1:] >= keys[:-1])
        assert all(documents[row] < documents[row + 1] for row in range(57) if keys[row] == keys[row + 1])


@pytest.mark.parametrize("small", [2, 16])
def test_pairs_are_those_that_share_a_band(tmp_path: Path, small: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(candidates, "SMALL_BUCKET", small)
    monkeypatch.setattr(candidates, "RANGE", 16)
    generator = random.Random(3)
    texts = [" ".join(edited(words(seed // 4), generator, 8)) for seed in range(40)]
    layout = layout_of(tmp_path, texts, 2)
    tables.write(str(tmp_path / "copies.arrow"), candidates.COPIES, [np.empty(0, np.int64)] * 2)
    target = str(tmp_path / "pairs.arrow")
    bands = tuple(range(32))
    candidates.find_pairs(candidates.BandTask(layout, bands, str(tmp_path / "copies.arrow"), 2**30, target, PARAMS))
    table = tables.open_table(target)
    assert table.num_record_batches == 3
    found = set()
    for part in range(3):
        first, second = candidates.split(tables.column(table.get_batch(part), "pair"))
        assert set((first // 16).tolist()) <= {part}
        found |= set(zip(first.tolist(), second.tolist(), strict=True))
    buckets: dict[tuple[int, int], list[int]] = {}
    for start, address in zip(layout.starts, layout.tables, strict=False):
        batch = tables.open_table(address).get_batch(0)
        for band in bands:
            for row, key in enumerate(tables.column(batch, candidates.band_name(band)).tolist()):
                buckets.setdefault((band, key), []).append(start + row)
    shared = {pair for bucket in buckets.values() for pair in combinations(sorted(bucket), 2)}
    assert found == shared if small == 16 else found <= shared


def test_no_component_lies_in_two_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(components, "PART", 3000)
    layout = layout_of(tmp_path, [" ".join(words(seed)) for seed in range(30)], 2)
    pairs = [np.array([(a << 32) | b for a, b in ((0, 1), (1, 20), (4, 9), (10, 11), (25, 29))], np.uint64)]
    copies = np.array([2, 21]), np.array([0, 8])
    found = components.share_out(layout, copies, pairs)
    assert found.document.tolist() == [0, 1, 2, 4, 8, 9, 10, 11, 20, 21, 25, 29]
    assert found.head.tolist() == [0, 1, 0, 4, 8, 9, 10, 11, 20, 8, 25, 29]
    assert found.near.tolist() == [number not in (2, 8, 21) for number in found.document.tolist()]
    part = dict(zip(found.document.tolist(), found.part.tolist(), strict=True))
    assert part[0] == part[1] == part[2] == part[20] and part[4] == part[9] and part[8] == part[21]
    assert components.count(found) > 1
    edges = list(components.edges(found, pairs))
    assert len(edges) == components.count(found)
    assert sum(map(len, edges)) == 5
    for number, batch in enumerate(edges):
        assert {part[int(pair) >> 32] for pair in batch["pair"].to_pylist()} <= {number}

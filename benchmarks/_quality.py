"""Recall and precision of found pairs against the planted truth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks._planted import Planted, jaccard


@dataclass(frozen=True)
class Quality:
    """What a set of found pairs is worth; shares are None where there is nothing to find or nothing found.

    Attributes:
        exact: share of planted exact copies that stand in one cluster with their parent.
        similar: the same of planted pairs, exact copies left out, whose exact Jaccard similarity is at least the threshold.
        dissimilar: the same of planted edited copies below the threshold, which no tool at this threshold should find.
        precision: share of the found pairs whose exact Jaccard similarity is at least the threshold.
        pairs: number of pairs found.
        largest: documents in the largest cluster.
    """

    exact: float | None
    similar: float | None
    dissimilar: float | None
    precision: float | None
    pairs: int
    largest: int


class Judge:
    """Measures pairs of row numbers in one planted corpus; remembers similarities, which are dear."""

    def __init__(self, planted: Planted, threshold: float) -> None:
        self.planted, self.threshold = planted, threshold
        self._known = {tuple(sorted(pair[:2])): pair.jaccard for pair in planted.pairs}

    def similarity(self, a: int, b: int) -> float:
        """Exact Jaccard similarity of documents `a` and `b`."""
        key = (min(a, b), max(a, b))
        if key not in self._known:
            left, right = self.planted.texts[a], self.planted.texts[b]
            self._known[key] = 1.0 if left == right else jaccard(left, right)
        return self._known[key]

    def measure(self, found: Iterable[tuple[int, int]]) -> Quality:
        """The quality of found pairs; clusters are their connected components."""
        pairs = sorted({(min(pair), max(pair)) for pair in found})
        root = _components(pairs, len(self.planted.texts))
        kinds: dict[str, list[bool]] = {"exact": [], "similar": [], "dissimilar": []}
        for pair in self.planted.pairs:
            kind = "exact" if pair.kind == "exact" else "similar" if pair.jaccard >= self.threshold else "dissimilar"
            kinds[kind].append(root[pair.copy] == root[pair.parent])
        good = [self.similarity(*pair) >= self.threshold for pair in pairs]
        sizes: dict[int, int] = {}
        for node in root:
            sizes[node] = sizes.get(node, 0) + 1
        shares = {kind: _share(values) for kind, values in kinds.items()}
        return Quality(**shares, precision=_share(good), pairs=len(pairs), largest=max(sizes.values()))


def _share(values: list[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _components(pairs: Iterable[tuple[int, int]], size: int) -> list[int]:
    parent = list(range(size))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for a, b in pairs:
        parent[root(a)] = root(b)
    return [root(node) for node in range(size)]

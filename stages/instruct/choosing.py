"""Which examples of a data set are taken: those with the lowest draws, so that a choice hangs on no other example."""

from __future__ import annotations

import hashlib
import heapq

from stages.instruct.params import Dataset


def draw(seed: int, dataset: str, doc_id: str, number: int) -> tuple[int, int]:
    """Two numbers of an example's own, of 64 bits each: one chooses examples under a cap, one the wording."""
    digest = hashlib.sha256(f"{seed}\n{dataset}\n{doc_id}\n{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")


class Choice:
    """A data set's examples under its cap, found in one pass that keeps one number for each that is taken."""

    def __init__(self, seed: int, dataset: Dataset) -> None:
        self.dataset, self.available = dataset, 0
        self._seed = seed
        self._smallest: list[int] = []  # a heap of negated draws: the largest that is kept on top

    def offer(self, doc_id: str, number: int) -> None:
        """Count an example."""
        self.available += 1
        if self.dataset.cap is None:
            return
        key = -draw(self._seed, self.dataset.name, doc_id, number)[0]
        if len(self._smallest) < self.dataset.cap:
            heapq.heappush(self._smallest, key)
        else:
            heapq.heappushpop(self._smallest, key)

    def close(self) -> None:
        """All examples have been offered."""
        cap = self.dataset.cap
        self._limit = float("inf") if cap is None or self.available <= cap else -self._smallest[0]
        self._smallest = []

    def take(self, doc_id: str, number: int) -> int | None:
        """The draw that chooses its wording, for an example that is taken; else None."""
        rank, wording = draw(self._seed, self.dataset.name, doc_id, number)
        return wording if rank <= self._limit else None

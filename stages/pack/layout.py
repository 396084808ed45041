"""Which sample is what: epochs one behind the other, in each its self-supervised rows, then its instruction sequences.

The rows of an epoch lie end to end on the ring of tokens, from a start of the epoch's own. A row's length depends on its
objective, so that neither kind pads; turning the ring each epoch puts the cuts between rows elsewhere and leaves other tokens
over at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.masking import Draws
from stages.pack import kernel
from stages.pack.kernel import Rules

_RING_START = 2**63 - 1  # the "sample" whose draw turns an epoch's ring; real samples never get that far


@dataclass(frozen=True)
class Stretch:
    """Samples `first` to `first + count` of one epoch, all of them self-supervised or all instruction sequences.

    `place` is where the first one's row begins on the ring; instruction sequences have none.
    """

    epoch: int
    first: int
    count: int
    place: int | None


@dataclass(frozen=True)
class Layout:
    """Samples by number.

    Attributes:
        seed, epochs: as in the parameters.
        tokens: on the ring.
        text, instructions: self-supervised and instruction sequences in each epoch: equal epochs, for the order of training
            permutes [0, N) in each.
    """

    seed: int
    epochs: int
    tokens: int
    text: int
    instructions: int

    @classmethod
    def of(cls, seed: int, epochs: int, tokens: int, share: float, available: int, rules: Rules) -> Layout:
        """As many rows as the poorest epoch holds, and instruction sequences (if there are samples) to make up `share`."""
        text = min(int(kernel.rows_within(seed, epoch, tokens, rules)) for epoch in range(epochs))
        return cls(seed, epochs, tokens, text, round(text * share / (1 - share)) if available else 0)

    @property
    def samples(self) -> int:
        """N, samples in an epoch."""
        return self.text + self.instructions

    def turn(self, epoch: int) -> int:
        """Where the first row of an epoch begins on the ring."""
        return Draws(self.seed, epoch, _RING_START).below(self.tokens)

    def left_over(self, epoch: int, rules: Rules) -> int:
        """Tokens of an epoch's ring that stand in no row."""
        return self.tokens - int(kernel.tokens_before(self.seed, epoch, np.array([self.text]), rules)[0])

    def stretches(self, size: int, batch: int, rules: Rules) -> list[list[Stretch]]:
        """All samples, cut into shards of `size` and these into record batches of `batch`."""
        total = self.samples * self.epochs
        cuts = {at for shard in range(0, total, size) for at in range(shard, min(shard + size, total), batch)}
        for epoch in range(self.epochs):
            cuts |= {epoch * self.samples, epoch * self.samples + self.text}
        starts = np.array(sorted(cuts), np.int64)
        counts = np.diff(starts, append=total)
        shards: list[list[Stretch]] = [[] for _ in range(-(-total // size))]
        for epoch in range(self.epochs):
            mine = (starts // self.samples == epoch) & (counts > 0)
            first = starts[mine] - epoch * self.samples
            texts = first < self.text
            places = (kernel.tokens_before(self.seed, epoch, first[texts], rules) + self.turn(epoch)) % self.tokens
            found = [*places.tolist(), *[None] * int((~texts).sum())]
            columns = (starts[mine] // size, first, counts[mine])
            for shard, one, count, place in zip(*(column.tolist() for column in columns), found, strict=True):
                shards[shard].append(Stretch(epoch, one, count, place))
        return shards

    def place(self, epoch: int, sample: int, rules: Rules) -> int:
        """Where the row of one self-supervised sample begins on the ring."""
        before = kernel.tokens_before(self.seed, epoch, np.array([sample]), rules)
        return (int(before[0]) + self.turn(epoch)) % self.tokens

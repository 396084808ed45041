"""Any one sample again, alone, by the definition in `model.masking`: from tokens, parameters and its key."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model import masking
from model.masking import GMASK_KIND, Draws, Sample
from model.tokenizer import SPECIAL
from stages._errors import damaged
from stages.pack.kernel import Rules
from stages.pack.layout import Layout
from stages.pack.params import Params
from stages.pack.sources import INSTRUCTIONS, TABLE, Ring, lay_ring

Piece = tuple[int, int, int]  # doc_index, first token inside the document, tokens


@dataclass(frozen=True)
class Source:
    """What the pack stage read: its parameters, data/encode and data/instruct."""

    params: Params
    encode: Path
    instruct: Path

    @cached_property
    def layout(self) -> Layout:
        """Which sample is what."""
        params, rules = self.params, Rules.of(self.params.masking())
        return Layout.of(
            params.seed, params.epochs, self._ring.tokens, params.instruction_share, self._instructions.num_rows, rules
        )

    def sample(self, epoch: int, number: int) -> tuple[Sample, list[Piece]]:
        """Sample `number` of masking epoch `epoch`, and the documents in it."""
        return self._text(epoch, number) if number < self.layout.text else self._instruction(epoch, number)

    def _text(self, epoch: int, number: int) -> tuple[Sample, list[Piece]]:
        config, draws = self.params.masking(), Draws(self.params.seed, epoch, number)
        gmask = masking.sample_kind(draws, config) == GMASK_KIND
        place = self.layout.place(epoch, number, Rules.of(config))
        tokens = self._ring.take(place, config.gmask_row if gmask else config.mask_row)
        sample = (masking.gmask_sample if gmask else masking.mask_sample)(tokens, draws, config, SPECIAL)
        return sample, [piece for at, length in sample.spent for piece in self._pieces(place + at, length)]

    def _instruction(self, epoch: int, number: int) -> tuple[Sample, list[Piece]]:
        config, draws = self.params.masking(), Draws(self.params.seed, epoch, number)
        chosen = [draws.below(self._instructions.num_rows) for _ in range(config.blocks)]
        rows = [self._instructions.slice(index, 1).to_pylist()[0] for index in chosen]
        pairs = [(np.array(row["prompt_ids"], np.int32), np.array(row["target_ids"], np.int32)) for row in rows]
        sample = masking.instruction_sample(pairs, config, SPECIAL)
        return sample, [(row["doc_index"], 0, len(row["prompt_ids"]) + len(row["target_ids"])) for row in rows]

    def _pieces(self, place: int, length: int) -> list[Piece]:
        """The documents under the ring's places [place, place + length)."""
        offset, size = (self._documents[name].to_numpy() for name in ("offset", "length"))
        found = []
        while length > 0:
            place %= self._ring.tokens
            document = int(np.searchsorted(offset, place, side="right")) - 1
            inside = place - int(offset[document])
            taken = min(int(size[document]) - inside, length)
            found.append((document, inside, taken))
            place, length = place + taken, length - taken
        return found

    @cached_property
    def _ring(self) -> Ring:
        return lay_ring([str(file) for file in sorted(self.encode.glob("train-*.arrow"))])

    @cached_property
    def _documents(self) -> pa.Table:
        return read_table(self.encode / Path(TABLE).name, TABLE, columns=["offset", "length"])

    @cached_property
    def _instructions(self) -> pa.Table:
        columns = ["prompt_ids", "target_ids", "doc_index"]
        return read_table(self.instruct / Path(INSTRUCTIONS).name, INSTRUCTIONS, columns=columns)


def read_table(file: Path, name: str, **how: Any) -> pa.Table:
    """A Parquet table, read as `how` says; `name` is what messages call it.

    Raises:
        StageError: it is damaged or cut short.
    """
    try:
        return pq.read_table(file, **how)
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(error, name) from error

"""Section "Objective": one real sample of each kind, the first that training consumed, as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from ledger.schedule import BatchRamp
from model.tokenizer import SPECIAL
from stages._runner import StageError
from stages.report.facts import Facts, at
from stages.report.lineage import Exposures
from stages.report.packed import PackedSamples
from stages.report.pieces import Piece, pieces

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer

KINDS = ("gmask", "mask", "instruction")
_PACK = "data/pack/pack.json"


@dataclass(frozen=True)
class Token:
    """A piece with its position; `blank` is the number of the blank that a mask token stands for, from 1."""

    piece: Piece
    position: int
    blank: int = 0


@dataclass(frozen=True)
class Span:
    """What fills one blank: its number and the tokens to predict, each with the position it is predicted at."""

    blank: int
    tokens: list[Token]

    @property
    def positions(self) -> str:
        """The positions in words: all equal in a [MASK] span, a range else."""
        first, last = self.tokens[0].position, self.tokens[-1].position
        return f"position {first}" if first == last else f"positions {first}–{last}"


@dataclass(frozen=True)
class Block:
    """One block of a sample: the context, which sees itself whole, and the spans, read from left to right."""

    context: list[Token]
    spans: list[Span]


def section(facts: Facts, tokenizer: Tokenizer, seen: Exposures, ramp: BatchRamp) -> dict[str, Any]:
    """What the template needs; `ramp` tells the step of a consumption index."""
    packed = facts.json(_PACK)
    counts = {name: facts.count("pack", f"{name}_samples") for name in KINDS}
    shown = []
    for kind, (place, row, record) in sorted(_first_of_each(facts, seen).items()):
        blocks = list(read_blocks(record, tokenizer))
        number = int(seen.consumption[place])
        shown.append(
            {
                "kind": KINDS[kind],
                "row": row,
                "consumption": number,
                "step": int(ramp.step_of(number)),
                "blocks": blocks,
                "targets": int(sum(1 for target in record["target_ids"] if target >= 0)),
                "used": int(sum(1 for token in record["input_ids"] if token != SPECIAL.pad)),
                "documents": _documents(facts, row),
            }
        )
    return {
        "shown": shown,
        "missing": [name for name in KINDS if name not in {sample["kind"] for sample in shown}],
        "length": at(packed, _PACK, "sequence_length"),
        "blocks": at(packed, _PACK, "blocks"),
        "epochs": at(packed, _PACK, "epochs"),
        "samples": at(packed, _PACK, "samples_per_epoch"),
        "counts": counts,
        "loss": {name: _loss(facts, name) for name in KINDS if counts[name]},
        "params": facts.of("pack", "params"),
    }


def _loss(facts: Facts, kind: str) -> dict[str, float]:
    """Targets of a sequence on average: learnt, cut off, and those that the published blocks of equal size would cut off."""
    names = {"learnt": "targets", "lost": "targets_lost", "beyond": "targets_beyond_block"}
    return {said: facts.count("pack", f"{kind}_{name}_per_sample") for said, name in names.items()}


def read_blocks(record: dict[str, Any], tokenizer: Tokenizer) -> Iterator[Block]:
    """The blocks of a packed sample with its targets and positions (docs/data.md), unused ones left out."""
    masks = {SPECIAL.mask, SPECIAL.gmask}
    bounds = record["block_start"]
    for start, end, length in zip(bounds[:-1], bounds[1:], record["block_context"], strict=True):
        if start == end:
            continue
        used = sum(token != SPECIAL.pad for token in record["input_ids"][start:end])  # a published block is padded behind
        part = slice(start, start + used)
        ids, targets, positions = (record[name][part] for name in ("input_ids", "target_ids", "position_ids"))
        context: list[Token] = []
        blanks: dict[int, int] = {}
        for piece, position in zip(pieces(tokenizer, ids[:length]), positions[:length], strict=True):
            if piece.id in masks:
                blanks[position] = len(blanks) + 1
            context.append(Token(piece, position, blanks[position] if piece.id in masks else 0))
        if not blanks:
            raise StageError("a block without a blank", file="data/pack", remedy="run `dvc repro --force pack`")
        yield Block(context, list(_spans(pieces(tokenizer, targets[length:]), ids[length:], positions[length:], blanks)))


def _spans(targets: list[Piece], ids: list[int], positions: list[int], blanks: dict[int, int]) -> Iterator[Span]:
    """Every `sop` begins a span. It stands at its blank's position, or, in a block with one blank, behind the context."""
    starts = [place for place, token in enumerate(ids) if token == SPECIAL.sop]
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        tokens = [Token(piece, position) for piece, position in zip(targets[start:end], positions[start:end], strict=True)]
        yield Span(blanks.get(positions[start], 1), tokens)


def _first_of_each(facts: Facts, seen: Exposures) -> dict[int, tuple[int, int, dict[str, Any]]]:
    """By kind: place in the order of training, row and content of the first sample consumed."""
    samples = PackedSamples(facts, int(seen.rows.max(initial=-1)))
    kind = samples.kinds()[seen.rows]
    found = {}
    for value in range(len(KINDS)):
        places = np.flatnonzero(kind == value)
        if len(places):
            row = int(seen.rows[places[0]])
            found[value] = (int(places[0]), row, samples.record(row))
    return found


def _documents(facts: Facts, row: int) -> list[dict[str, Any]]:
    """The documents behind a sample, with the part of each that stands in it."""
    pieces_table = facts.pieces(["sample", "doc_index", "doc_offset", "length"])
    names = facts.documents(["doc_id", "lang", "licence"])
    parts = pieces_table.filter(pc.equal(pieces_table["sample"], row)).to_pylist()
    return [part | names.slice(part["doc_index"], 1).to_pylist()[0] for part in parts]

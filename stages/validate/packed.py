"""Suite "packed": what training is fed, against the rules of each kind of sample and against the documents' own tokens.

Every sample is taken apart: the text that stands in its context and its targets is put back in order and compared, token by
token, with the pieces of documents that pieces-*.parquet name for it. Targets and positions are those that training derives.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.packed import GMASK_KIND, INSTRUCTION_KIND, MASK_KIND, NO_TARGET, Stored, targets_and_positions
from model.tokenizer import SPECIAL, Tokenizer
from stages._packed import columns
from stages._runner import StageIO
from stages.validate.expect import Suite, Table, between, in_set, zero
from stages.validate.params import Params
from stages.validate.tokens import TokenShards, ranges

KINDS = {GMASK_KIND: "gmask", MASK_KIND: "mask", INSTRUCTION_KIND: "instruction"}
_POSITIONS = 2**18  # taken apart at a time
Grid = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Layout:
    """Which positions of samples belong to what; all [rows, L] but `length`, made from block bounds clipped to the sample.

    Attributes:
        inside: before the end of the last block, and not the padding behind a published one.
        context: in the bidirectional part of a block; `rest` is the causal part behind it.
        start: first position of the position's block.
        next_is_rest: the following position is in the rest of the same block.
        after_rest: the position before is.
        bad: [rows] what is wrong with the bounds.
    """

    inside: Flags
    context: Flags
    rest: Flags
    start: Grid
    next_is_rest: Flags
    after_rest: Flags
    bad: NDArray[np.int64]

    @classmethod
    def of(cls, block_start: Grid, block_context: Grid, padding: Flags) -> Layout:
        """From [rows, K + 1] starts, [rows, K] contexts, and [rows, L] what in a block is no part of it."""
        length = padding.shape[1]
        bounds = np.clip(block_start, 0, length)
        size = np.diff(block_start, axis=1)
        empty, fits = (size == 0) & (block_context == 0), (block_context >= 0) & (block_context < size)
        bad = (block_start != bounds).sum(axis=1) + (block_start[:, 0] != 0) + (~(empty | fits)).sum(axis=1)
        position = np.arange(length)
        block = (position[None, :, None] >= bounds[:, None, 1:]).sum(axis=2)
        inside = (position < bounds[:, -1:]) & ~padding
        block = np.minimum(block, block_context.shape[1] - 1)
        start = np.take_along_axis(bounds, block, axis=1)
        context = inside & (position - start < np.take_along_axis(block_context, block, axis=1))
        rest = inside & ~context
        follows = rest[:, 1:] & rest[:, :-1] & (block[:, 1:] == block[:, :-1])
        edge = np.zeros((len(rest), 1), np.bool_)
        return cls(inside, context, rest, start, np.hstack([follows, edge]), np.hstack([edge, follows]), bad)


def padding(ids: Grid, kind: Grid, room: int | None) -> Flags:
    """Which positions are the padding behind a block that was cut and padded to `room`; none, for None and for [gMASK]."""
    if room is None:
        return np.zeros(ids.shape, np.bool_)
    pads = (ids == SPECIAL.pad).reshape(len(ids), -1, room)
    tail = np.logical_and.accumulate(pads[:, :, ::-1], axis=2)[:, :, ::-1].reshape(ids.shape)
    return np.asarray(tail & (kind != GMASK_KIND)[:, None])


def faults(ids: Grid, targets: Grid, positions: Grid, kind: Grid, layout: Layout, vocabulary: int, cut: bool) -> dict[str, Any]:
    """For each sample how many positions break each rule (docs/data.md; facts of the objectives: paper 2.2).

    Args:
        ids, targets, positions: [rows, L].
        kind: [rows].
        layout: of the same rows.
        vocabulary: pieces of the tokenizer.
        cut: whether the last span of a [MASK] block may end before its `eop`.
    """
    at = np.arange(ids.shape[1])
    gmask, mask, instruction = (kind[:, None] == value for value in (GMASK_KIND, MASK_KIND, INSTRUCTION_KIND))
    next_id = np.hstack([ids[:, 1:], np.full((len(ids), 1), SPECIAL.pad)])
    last = layout.rest & ~(layout.next_is_rest & (next_id != SPECIAL.sop))  # of a span
    shifted = layout.rest & ~last & (targets != next_id)
    may_end = gmask | (mask & ~layout.next_is_rest) if cut else gmask  # [gMASK] targets end where the sequence does
    open_end = last & ~may_end & (targets != SPECIAL.eop)
    first = layout.rest & ~layout.after_rest
    in_span = mask & layout.rest
    place = np.clip(layout.start + positions, 0, ids.shape[1] - 1)
    hides = np.take_along_axis(layout.context & (ids == SPECIAL.mask), place, axis=1)
    previous = np.hstack([positions[:, :1], positions[:, :-1]])
    jumps = layout.after_rest & (ids != SPECIAL.sop) & (positions != previous)
    counted = layout.inside & ~in_span & (positions != at - layout.start)
    marks = {name: (layout.inside & (ids == value)).sum(axis=1) for name, value in _marks().items()}
    last_context = layout.context & ~np.hstack([layout.context[:, 1:], np.zeros((len(ids), 1), np.bool_)])
    blocks = first.sum(axis=1)
    unfilled = marks["sop"] - marks["mask"]  # a cut may take a whole span and leave its [MASK]
    masks_wrong = np.select(
        [kind == GMASK_KIND, kind == MASK_KIND],
        [
            abs(marks["gmask"] - 1)
            + abs(marks["sop"] - 1)
            + marks["mask"]
            + (last_context & (ids != SPECIAL.gmask)).sum(axis=1),
            (np.maximum(unfilled, 0) if cut else abs(unfilled)) + marks["gmask"],
        ],
        abs(marks["mask"] - blocks) + abs(marks["sop"] - blocks) + marks["gmask"],
    )
    wrong_end = instruction & layout.rest & first & (np.hstack([ids[:, :1], ids[:, :-1]]) != SPECIAL.mask)
    return {
        "ids_outside": ((ids < 0) | (ids >= vocabulary)).sum(axis=1),
        "targets_outside": ((targets < NO_TARGET) | (targets >= vocabulary)).sum(axis=1),
        "targets_misplaced": ((targets != NO_TARGET) != layout.rest).sum(axis=1),
        "targets_not_next": (shifted | open_end).sum(axis=1),
        "positions_wrong": (counted | (in_span & (~hides | jumps))).sum(axis=1),
        "padding_wrong": (((ids == SPECIAL.pad) == layout.inside) | (~layout.inside & (positions != 0))).sum(axis=1),
        "marks_wrong": masks_wrong + marks["never"] + (first & (ids != SPECIAL.sop)).sum(axis=1) + wrong_end.sum(axis=1),
        "blocks_wrong": layout.bad,
    }


def _marks() -> dict[str, Any]:
    return {"gmask": SPECIAL.gmask, "mask": SPECIAL.mask, "sop": SPECIAL.sop, "never": SPECIAL.eop}


def fed_text(ids: Grid, targets: Grid, positions: Grid, kind: Grid, layout: Layout) -> tuple[Grid, Grid]:
    """(sample, token) of the text behind some samples, each in its own order: targets stand again where they were hidden.

    Of an instruction sample these are prompt, `[MASK]` and target, in the order of the sample.
    """
    rows, length = ids.shape
    hidden = (ids == SPECIAL.mask) & (kind != INSTRUCTION_KIND)[:, None] | (ids == SPECIAL.gmask)
    kept = layout.context & ~hidden
    shown = layout.rest & (targets != SPECIAL.eop) & (targets != NO_TARGET)
    base = np.arange(rows)[:, None] * length
    own, moved = base + np.arange(length), base + np.clip(layout.start + positions, 0, length - 1)
    place = np.where(kept, own, np.where((kind == MASK_KIND)[:, None], moved, own))
    chosen = kept | shown
    order = np.argsort(place[chosen], kind="stable")
    key = place[chosen][order]
    return key // length, np.where(kept, ids, targets)[chosen][order]


def spare_blanks(stored: Stored, layout: Layout) -> Grid:
    """For each sample how many positions of blanks stand there for no span."""
    spans = (layout.rest & (stored.input_ids == SPECIAL.sop) & (stored.kind == MASK_KIND)[:, None]).sum(axis=1)
    spare = np.arange(stored.blank_position.shape[1]) >= spans[:, None]
    return np.asarray((spare & (stored.blank_position != 0)).sum(axis=1))


class Pieces:
    """Rows of the tables of pieces in the order of the samples, up to a sample at a time."""

    def __init__(self, files: list[Path]) -> None:
        columns = ["sample", "doc_index", "doc_offset", "length"]
        self._batches = (batch for file in files for batch in pq.ParquetFile(file).iter_batches(2**16, columns=columns))
        self._waiting: Grid = np.zeros((4, 0), np.int64)

    def until(self, sample: int | None) -> Grid:
        """[4, n]: rows up to the first that belongs to `sample` or a later one; all that are left for None."""
        parts = [self._waiting]
        while sample is None or not (parts[-1][0] >= sample).any():
            batch = next(self._batches, None)
            if batch is None:
                break
            parts.append(np.stack([column.to_numpy().astype(np.int64) for column in batch.columns]))
        rows = np.hstack(parts)
        later = rows[0] >= sample if sample is not None else np.zeros(rows.shape[1], np.bool_)
        cut = int(np.argmax(later)) if later.any() else rows.shape[1]
        self._waiting = rows[:, cut:]
        return rows[:, :cut]


@dataclass
class Walk:
    """How far an epoch's samples have gone round the ring of all training tokens, which they must do once at most."""

    samples: int = 0
    used: int = 0
    repeated: int = 0
    turn: int | None = None
    reached: int = 0

    def go(self, start: Grid, length: Grid, tokens: int) -> None:
        """Take the pieces [start, start + length), in the order of the samples."""
        if not len(start) or not tokens:
            return
        self.turn = int(start[0]) if self.turn is None else self.turn
        begin = (start - self.turn) % tokens
        end = begin + length
        reached = np.maximum.accumulate(np.concatenate([[self.reached], end]))
        self.used += int(length.sum())
        self.repeated += int(np.clip(reached[:-1] - begin, 0, length).sum()) + int(np.clip(end - tokens, 0, length).sum())
        self.reached = int(reached[-1])


class Packed:
    """The samples as pack left them, beside the token shards."""

    def __init__(self, pack: Path, encode: Path, instruct: Path, vocabulary: int) -> None:
        self._pack, self._vocabulary = pack, vocabulary
        self._instructions, labelled = (
            pq.read_metadata(instruct / f"{name}.parquet").num_rows for name in ("samples", "documents")
        )
        self._facts: dict[str, Any] = json.loads((pack / "pack.json").read_text(encoding="utf-8"))
        self._params = json.loads((pack / "manifest.json").read_text(encoding="utf-8"))["params"]
        self._cut = self._params["truncation"] == "published"
        self._room = self._facts["sequence_length"] // self._facts["blocks"] if self._cut else None
        self._tokens = TokenShards(encode, "train")
        table = pq.read_table(encode / "train.documents.parquet", columns=["offset", "length"])
        none = np.full(labelled, -1)  # no room for text: labelled rows stand behind instruction samples alone
        self._offset, self._length = (np.append(table[name].to_numpy().astype(np.int64), none) for name in ("offset", "length"))
        self._walks: dict[int, Walk] = {epoch: Walk() for epoch in range(self._facts["epochs"])}
        self._kinds: Counter[int] = Counter()
        self._seen = self._stray = 0

    def samples(self) -> Iterator[pa.Table]:
        """One row for each sample, with how often it breaks each rule."""
        pieces = Pieces(sorted(self._pack.glob("pieces-*.parquet")))
        rows = max(1, _POSITIONS // self._facts["sequence_length"])
        for file in sorted(self._pack.glob("samples-*.arrow")):
            with pa.memory_map(str(file)) as source:
                for whole in _batches(pa.ipc.open_file(source)):
                    for start in range(0, len(whole), rows):
                        batch = whole.slice(start, rows)
                        yield self._measure(batch, pieces.until(self._seen + len(batch)))
        self._stray += pieces.until(None).shape[1]

    def totals(self) -> Iterator[pa.Table]:
        """One row: samples that are missing or too many, and pieces that belong to no sample or stand out of order."""
        expected = self._facts["samples_per_epoch"] * self._facts["epochs"]
        yield pa.Table.from_pylist([{"part": "samples", "difference": self._seen - expected, "stray_pieces": self._stray}])

    def kinds(self) -> Iterator[pa.Table]:
        """One row for each kind: samples, how many its parameter asks for, and how far that is off, in standard errors."""
        text = self._kinds[GMASK_KIND] + self._kinds[MASK_KIND]
        share = self._params["instruction_share"] if self._instructions else 0.0
        gmask = self._params["gmask_probability"]
        asked = {
            "gmask": (self._kinds[GMASK_KIND], text, gmask),
            "mask": (self._kinds[MASK_KIND], text, 1 - gmask),
            "instruction": (self._kinds[INSTRUCTION_KIND], self._seen, share),
        }
        yield pa.Table.from_pylist(
            [
                {"kind": kind, "samples": number, "expected": of * p, "deviation": (number - of * p) / _error(of, p)}
                for kind, (number, of, p) in asked.items()
            ]
        )

    def epochs(self) -> Iterator[pa.Table]:
        """One row for each epoch: its samples, tokens used, used again, and left over."""
        total = self._tokens.total
        rows = []
        for epoch, walk in self._walks.items():
            left = total - walk.used + walk.repeated
            missing = walk.samples - self._facts["samples_per_epoch"]
            row = {"epoch": epoch, "samples_difference": missing, "used": walk.used, "repeated": walk.repeated}
            rows.append(row | {"left_over": left, "left_over_share": left / max(1, total)})
        yield pa.Table.from_pylist(rows)

    def _measure(self, batch: pa.RecordBatch, rows: Grid) -> pa.Table:
        stored = Stored(*(column.astype(np.int64) for column in columns(batch)))
        ids, starts, contexts, kind = stored.input_ids, stored.block_start, stored.block_context, stored.kind
        targets, positions = (derived.astype(np.int64) for derived in targets_and_positions(stored))
        epoch = batch["epoch"].to_numpy().astype(np.int64)
        layout = Layout.of(starts, contexts, padding(ids, kind, self._room))
        number = np.arange(self._seen, self._seen + len(batch))
        measures = {
            "sample": number,
            "kind": kind,
            "epoch_wrong": (epoch != number // max(1, self._facts["samples_per_epoch"])).astype(np.int64),
            **faults(ids, targets, positions, kind, layout, self._vocabulary, self._cut),
            "blanks_wrong": spare_blanks(stored, layout),
            **self._provenance(kind, epoch, fed_text(ids, targets, positions, kind, layout), rows),
        }
        self._kinds.update(kind.tolist())
        for value in np.unique(epoch).tolist():
            self._walks.setdefault(value, Walk()).samples += int((epoch == value).sum())
        self._seen += len(batch)
        return pa.table({name: pa.array(column) for name, column in measures.items()})

    def _provenance(self, kind: Grid, epoch: Grid, fed: tuple[Grid, Grid], rows: Grid) -> dict[str, Grid]:
        """Pieces against what is fed: wrong places, tokens too many or too few, tokens that are others than the document's."""
        sample = rows[0] - self._seen
        self._stray += int((sample < 0).sum()) + int((np.diff(sample) < 0).sum())
        sample, document, offset, length = np.vstack([sample, rows[1:]])[:, sample >= 0]
        number = len(kind)
        known = (document >= 0) & (document < len(self._offset))
        of = np.where(known, document, 0) if len(self._offset) else document
        text = kind[sample] != INSTRUCTION_KIND
        within = known & (offset >= 0) & (length > 0)
        within[known] &= (offset + length <= self._length[of])[known] | ~text[known]
        fed_sample, fed_token = fed
        fed_number = np.bincount(fed_sample, minlength=number)
        traced_number = np.bincount(sample, weights=np.maximum(length, 0), minlength=number).astype(np.int64)
        usable = within & text
        start = self._offset[of[usable]] + offset[usable]
        for value in np.unique(epoch[sample[usable]]).tolist():
            mine = epoch[sample[usable]] == value
            self._walks.setdefault(value, Walk()).go(start[mine], length[usable][mine], self._tokens.total)
        comparable = (fed_number == traced_number) & (kind != INSTRUCTION_KIND)
        comparable[sample[~within]] = False
        chosen = comparable[sample[usable]]
        of_piece, places = ranges(start[chosen], length[usable][chosen])
        traced_sample = sample[usable][chosen][of_piece]
        differs = self._tokens.take(places) != fed_token[comparable[fed_sample]]
        return {
            "pieces_outside": np.bincount(sample[~within], minlength=number),
            "pieces_difference": traced_number - fed_number,
            "text_differs": np.bincount(traced_sample[differs], minlength=number),
        }


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    return (reader.get_batch(number) for number in range(reader.num_record_batches))


def _error(number: int, share: float) -> float:
    """Standard error of a count; at least one, so that a share of 0 or 1 and rounding are no surprise."""
    return max(1.0, math.sqrt(number * share * (1 - share)))


def suite(params: Params, io: StageIO, tokenizer: Tokenizer) -> Suite:
    """The suite."""
    reader = Packed(io.input("data/pack"), io.input("data/encode"), io.input("data/instruct"), tokenizer.piece_count)
    rules = ["ids_outside", "targets_outside", "targets_misplaced", "targets_not_next", "positions_wrong", "padding_wrong"]
    rules += ["blanks_wrong", "marks_wrong", "blocks_wrong", "epoch_wrong"]
    rules += ["pieces_outside", "pieces_difference", "text_differs"]
    return Suite(
        "packed",
        [
            Table("samples", "sample", reader.samples),
            Table("totals", "part", reader.totals),
            Table("kinds", "kind", reader.kinds),
            Table("epochs", "epoch", reader.epochs),
        ],
        [
            in_set("samples", "kind", sorted(KINDS)),
            *zero("samples", *rules),
            *zero("totals", "difference", "stray_pieces"),
            between("kinds", "deviation", -params.max_deviation, params.max_deviation),
            *zero("epochs", "samples_difference", "repeated"),
            between("epochs", "left_over_share", 0, params.max_left_over_share),
        ],
    )

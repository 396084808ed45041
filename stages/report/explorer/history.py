"""What the training did, as the page draws it: the tree of segments, and what each was shown of every origin over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ledger import LedgerError
from ledger.journal import Segment
from ledger.query import Ledger
from stages._runner import StageError
from stages.report.explorer.columns import Columns
from stages.report.explorer.documents import Documents

_BINS = 120  # of the whole training, in the pictures over time
_SAMPLES = 2**52  # the page walks through a domain of at most 52 bits
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """data/pack/pieces-*.parquet as arrays: sample (ascending), document, its first token and the number of tokens."""

    sample: Int64
    document: Int64
    offset: Int64
    tokens: Int64

    @classmethod
    def of(cls, table: pa.Table) -> Pieces:
        """From the table's four columns."""
        names = ("sample", "doc_index", "doc_offset", "length")
        return cls(*(table[name].to_numpy().astype(np.int64, copy=False) for name in names))

    def pack(self, columns: Columns, samples: int, place: Int64) -> None:
        """Add to a page of `samples` packed samples what stands in each; `place` is a document's in the page, or -1."""
        known = place[self.document] >= 0
        columns.integers("pieces", np.bincount(self.sample[known], minlength=samples))
        columns.integers("piece_document", place[self.document[known]], differences=True)
        columns.integers("piece_tokens", self.tokens[known])


def history(ledger: Ledger, pieces: Pieces, documents: Documents, columns: Columns) -> dict[str, Any]:
    """The facts of the training; tables go to `columns`.

    Args:
        ledger: plan and journal.
        pieces: what each packed sample holds.
        documents: for the origins of those trained on, also of those that the page leaves out.
        columns: of the page; gets `series` [segment, bin, origin] tokens, `shown` [segment, origin] exposures and
            `reached` [segment, origin] documents that its checkpoint saw, with all that it started from.

    Raises:
        StageError: the journal does not follow the plan, or there are more samples than the page can count.
    """
    order, ramp, segments = ledger.plan.order, ledger.plan.ramp, ledger.journal.segments
    if order.samples > _SAMPLES:
        raise StageError(f"{order.samples:,} samples an epoch; the page's formula walks through at most {_SAMPLES:,}")
    end = max((segment.last_step + 1 for segment in segments), default=1)
    width = max(1, -(-end // _BINS))
    kinds, origin = len(documents.origins), documents.trained
    series, shown, reached = [], [], []
    seen: list[npt.NDArray[np.uint8]] = []
    rows = []
    main = {segment.index for segment in ledger.journal.main_line()}
    parent_of = {segment.index: _parent(ledger, segment) for segment in segments}
    for segment in segments:
        try:
            ranges = ledger.trained([segment])
        except LedgerError as error:
            raise StageError(str(error)) from error
        first = segment.first_step // width
        bins = segment.last_step // width - first + 1
        part = _shown(ledger, pieces, ranges)
        place = (ramp.step_of(part.consumption) // width - first) * kinds + origin[part.document]
        series.append(np.bincount(place, weights=part.tokens, minlength=bins * kinds).astype(np.int64))
        shown.append(_exposures(part, origin, kinds))
        mask = np.zeros(len(origin), bool)
        mask[part.document] = True
        parent = parent_of[segment.index]
        if parent is not None:
            mask |= np.unpackbits(seen[parent], count=len(origin)).astype(bool)
        seen.append(np.packbits(mask))
        reached.append(np.bincount(origin[mask], minlength=kinds))
        status = "left behind" if segment.status == "kept" and segment.index not in main else segment.status
        rows.append(_row(segment, parent, status, ranges) | {"bins": [first, bins]})
    columns.integers("series", np.concatenate([np.zeros(0, np.int64), *series]))
    columns.integers("shown", np.concatenate([np.zeros(0, np.int64), *shown]))
    columns.integers("reached", np.concatenate([np.zeros(0, np.int64), *reached]))
    return {
        "order": {"seed": [order.seed >> 32, order.seed & 0xFFFFFFFF], "samples": order.samples, "epochs": order.epochs},
        "ramp": {"start": ramp.start, "end": ramp.end, "increment": ramp.increment, "ramp_samples": ramp.ramp_samples},
        "steps": end,
        "width": width,
        "segments": rows,
        "head": ledger.journal.head,
        "plan": ledger.plan.digest,
    }


def _row(segment: Segment, parent: int | None, status: str, ranges: Int64) -> dict[str, Any]:
    return {
        "parent": parent,
        "first": segment.first_step,
        "last": segment.last_step,
        "status": status,
        "checkpoint": segment.checkpoint,
        "weights": segment.weights_sha256,
        "hash": segment.hash,
        "skipped": [list(pair) for pair in segment.skipped],
        "settings": dict(segment.settings),
        "samples": ranges.tolist(),
    }


def _parent(ledger: Ledger, segment: Segment) -> int | None:
    path = ledger.journal.ancestry(segment)
    return path[-2].index if len(path) > 1 else None


@dataclass(frozen=True)
class _Part:
    """What a segment was shown: consumption index, document and tokens of every piece, in the order of consumption."""

    consumption: Int64
    document: Int64
    tokens: Int64


def _shown(ledger: Ledger, pieces: Pieces, ranges: Int64) -> _Part:
    consumption = np.concatenate([np.arange(first, end) for first, end in [(0, 0), *ranges.tolist()]])
    rows = ledger.plan.order.rows(consumption)
    first, end = (np.searchsorted(pieces.sample, rows, side=side) for side in ("left", "right"))
    count = end - first
    piece = np.arange(count.sum()) + np.repeat(first - (np.cumsum(count) - count), count)
    return _Part(np.repeat(consumption, count), pieces.document[piece], pieces.tokens[piece])


def _exposures(part: _Part, origin: Int64, kinds: int) -> Int64:
    """Exposures by origin; a sample that holds two pieces of a document exposes it once."""
    pair = np.unique(part.consumption * len(origin) + part.document)
    return np.bincount(origin[pair % max(1, len(origin))], minlength=kinds)

"""Section "Lineage": which documents the final checkpoint was shown, how often and when, and an index to ask by document."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from markupsafe import Markup

from ledger import LedgerError
from ledger.journal import Segment
from ledger.order import Int64
from ledger.query import Ledger
from stages._runner import StageError
from stages.report.charts import Words, bar_chart
from stages.report.corpus import Removal
from stages.report.facts import Facts

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_KEYS = ("source", "lang", "licence")


@dataclass(frozen=True)
class Exposures:
    """What a checkpoint was shown: one entry for each pair of a consumed sample and a document in it.

    Attributes:
        consumption, rows: consumption indices that were trained on, ascending, and the packed sample that each one read.
        document: index of the document in the train documents table, ascending.
        step: step in which it was shown, ascending within a document.
        tokens: tokens of the document in that sample.
    """

    consumption: Int64
    rows: Int64
    document: Int64
    step: Int64
    tokens: Int64


def final_segment(ledger: Ledger) -> Segment:
    """The segment that left the newest checkpoint of the main line.

    Raises:
        StageError: the journal has none.
    """
    line = ledger.journal.main_line()
    if not line:
        raise StageError("no kept checkpoint", file="data/pretrain/journal.jsonl", remedy="run `dvc repro --force pretrain`")
    return line[-1]


def exposures(ledger: Ledger, segment: Segment, pieces: pa.Table) -> Exposures:
    """Join the samples that made a checkpoint with the documents behind them (data/pack/pieces-*.parquet).

    Raises:
        StageError: the journal does not follow the data plan.
    """
    try:
        ranges = ledger.trained(ledger.journal.ancestry(segment))
    except LedgerError as error:
        raise StageError(str(error)) from error
    consumption = np.concatenate([np.arange(first, end) for first, end in [(0, 0), *ranges.tolist()]])
    rows = ledger.plan.order.rows(consumption)
    sample, document, length = (pieces[name].to_numpy() for name in ("sample", "doc_index", "length"))
    by_row = np.argsort(rows, kind="stable")
    first, end = (np.searchsorted(rows[by_row], sample, side=side) for side in ("left", "right"))
    piece = np.repeat(np.arange(len(sample)), end - first)  # a piece as often as its sample was consumed
    within = np.arange(len(piece)) - np.repeat(np.cumsum(end - first) - (end - first), end - first)
    when = by_row[np.repeat(first, end - first) + within]  # place in `consumption`
    key = document[piece].astype(np.int64) * len(consumption) + when
    pair, inverse = np.unique(key, return_inverse=True)  # a sample that holds two pieces of a document shows it once
    tokens = np.bincount(inverse, weights=length[piece], minlength=len(pair)).astype(np.int64)
    shown, place = np.divmod(pair, max(1, len(consumption)))
    return Exposures(consumption, rows, shown, ledger.plan.ramp.step_of(consumption[place]), tokens)


def section(facts: Facts, seen: Exposures, segment: Segment, removed: Sequence[Removal], most: int) -> dict[str, Any]:
    """What the template needs; the index holds at most `most` documents."""
    train = facts.documents(["doc_id", "length", *_KEYS])
    heldout = facts.table("data/encode/heldout.documents.parquet", ["doc_id"])["doc_id"].to_pylist()
    count = np.bincount(seen.document, minlength=train.num_rows)
    tokens = np.bincount(seen.document, weights=seen.tokens, minlength=train.num_rows).astype(np.int64)
    columns = {name: train[name].to_pylist() for name in ("doc_id", "length", *_KEYS)}
    groups = {key: _by(columns[key], columns["length"], count, tokens) for key in _KEYS}
    index = document_index(columns["doc_id"], seen, heldout, removed, most)
    return {
        "checkpoint": segment.checkpoint,
        "steps": segment.last_step + 1,
        "samples": len(seen.consumption),
        "documents": int((count > 0).sum()),
        "unseen": int((count == 0).sum()),
        "exposures": len(seen.document),
        "tokens": int(tokens.sum()),
        "available": sum(columns["length"]),
        "groups": groups,
        "often": _often(count),
        "chart": _coverage(groups["source"], dict(zip(columns["source"], columns["lang"], strict=True))),
        "index": Markup(json.dumps(index, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")),
        "indexed": len(index["fate"]),
        "all_documents": train.num_rows + len(heldout) + len(removed),
        "examples": [columns["doc_id"][int(np.argmax(count))], *heldout[:1], *(item.doc_id for item in removed[:1])],
    }


def _by(
    names: Sequence[str], length: Sequence[int], count: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64]
) -> dict[str, Counter[str]]:
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for name, available, times, shown in zip(names, length, count.tolist(), tokens.tolist(), strict=True):
        groups[name].update(documents=1, seen=int(times > 0), exposures=times, tokens=shown, available=available)
    return dict(sorted(groups.items()))


def _often(count: npt.NDArray[np.int64]) -> list[tuple[str, int]]:
    """Number of documents by how often they were shown."""
    edges = [0, 1, 2, 3, 4, 6, 11, 21, 51]
    found = []
    for low, high in zip(edges, [*edges[1:], None], strict=True):
        number = int(((count >= low) & (count < high if high else True)).sum())
        label = f"{low} or more" if high is None else str(low) if high == low + 1 else f"{low} to {high - 1}"
        found.append((label, number))
    while len(found) > 2 and found[-1][1] == 0:
        found.pop()
    return found


def _coverage(groups: dict[str, Counter[str]], language: dict[str, str]) -> Markup:
    share = {source: group["tokens"] / max(1, group["available"]) for source, group in groups.items()}
    said = {source: f"{share[source]:.0%} of {group['available']:,}" for source, group in groups.items()}
    rows = [(source, f"c-{language[source]}", share[source], said[source]) for source in share]
    description = "; ".join(f"{source} {words}" for source, words in said.items())
    words = Words("coverage", "Tokens shown, as a share of each source's training tokens", description)
    return bar_chart(words, rows, 440, highest=max(1.0, *share.values()))


def document_index(
    train: Sequence[str], seen: Exposures, heldout: Iterable[str], removed: Iterable[Removal], most: int
) -> dict[str, Any]:
    """Every document of the corpus with its fate, compact enough to stand in the page; `templates/search.js` reads it.

    Returns:
        `ids`: sorted and front-coded, see `front_coded`;
        `fates`: (why a document was not trained on, detail, the other document), and `fate`, for each document its number in
        them, 0 for the training set;
        `steps` and `tokens`: for the documents with fate 0, in order, the steps (to base 36, each but the first as the
        difference to the one before) and the tokens shown.
        Where there are more than `most` documents, evenly spaced ones are taken.
    """
    fates = {("", "", ""): 0, ("held out", "", ""): 1}
    fate = dict.fromkeys(train, 0) | dict.fromkeys(heldout, 1)
    for item in removed:
        said = (item.reason, "", item.other) if item.other else (item.reason, item.detail, "")
        fate[item.doc_id] = fates.setdefault(said, len(fates))
    names = sorted(fate)
    if len(names) > most:
        names = [names[place * len(names) // most] for place in range(most)]
    bounds = np.searchsorted(seen.document, np.arange(len(train) + 1)).tolist()
    place = {name: index for index, name in enumerate(train)}
    steps, tokens = [], []
    for name in names:
        if fate[name] == 0:
            part = slice(bounds[place[name]], bounds[place[name] + 1])
            shown = seen.step[part]
            steps.append(".".join(base36(value) for value in np.diff(shown, prepend=0).tolist()))
            tokens.append(base36(int(seen.tokens[part].sum())))
    used = sorted({fate[name] for name in names})
    number = {old: new for new, old in enumerate(dict.fromkeys([0, *used]))}
    reasons = list(fates)
    return {
        "ids": front_coded(names),
        "fates": [list(reasons[old]) for old in number],
        "fate": [number[fate[name]] for name in names],
        "steps": ",".join(steps),
        "tokens": ",".join(tokens),
    }


def front_coded(names: Sequence[str]) -> str:
    """Sorted names, one a line: the length of the prefix shared with the name before (one digit to base 36), and the rest."""
    lines, before = [], ""
    for name in names:
        shared = 0
        while shared < min(len(before), len(name), 35) and before[shared] == name[shared]:
            shared += 1
        lines.append(_DIGITS[shared] + name[shared:])
        before = name
    return "\n".join(lines)


def base36(value: int) -> str:
    """A number that is not negative, to base 36."""
    digits = _DIGITS[value % 36]
    while value := value // 36:
        digits = _DIGITS[value % 36] + digits
    return digits

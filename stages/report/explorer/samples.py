"""Single samples from the fetched page to the masked row, of each kind and language.

The first that training consumed, and then, among the next, those with a text that the stages before changed, for they show
more; where there are none, simply the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ledger.schedule import BatchRamp
from model.tokenizer import SPECIAL
from stages.report.explorer.documents import Documents
from stages.report.explorer.history import Pieces
from stages.report.explorer.origins import LETTERS, Origins, Part
from stages.report.facts import Facts
from stages.report.lineage import Exposures
from stages.report.objective import KINDS, Token, read_blocks
from stages.report.packed import PackedSamples

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer

_PARTS = 4  # documents of a sample shown with their text
_CANDIDATES = 24  # samples looked at for one with a change


def follow(
    facts: Facts, tokenizer: Tokenizer, seen: Exposures, ramp: BatchRamp, pieces: Pieces, documents: Documents, most: int
) -> list[dict[str, Any]]:
    """At most `most` samples of each kind and language, in the order of the kinds, then of consumption."""
    packed = PackedSamples(facts, int(seen.rows.max(initial=-1)))
    candidates = _candidates(packed.kinds(), seen, pieces, documents, most)
    parts = {place: _parts(pieces, int(seen.rows[place])) for group in candidates.values() for place in group}
    origins = Origins(facts, tokenizer, documents, sorted({part[0] for held in parts.values() for part in held[:_PARTS]}))
    found = []
    for (kind, lang), group in candidates.items():
        for place in _choose(group, parts, origins, most) if KINDS[kind] != "instruction" else group[:most]:
            number, row = int(seen.consumption[place]), int(seen.rows[place])
            head = {"row": row, "consumption": number, "step": int(ramp.step_of(number)), "kind": KINDS[kind], "lang": lang}
            record, held = packed.record(row), parts[place]
            if KINDS[kind] == "instruction":
                bounds = pairwise(record["block_start"])
                prompt = "\n".join(tokenizer.decode(record["input_ids"][start:end]) for start, end in bounds)
                shown = [origins.worded(part, prompt) for part in held[:_PARTS]]
            else:
                shown = [origins.taken(part) for part in held[:_PARTS]]
            found.append({**head, **_sample(record, tokenizer), "parts": shown, "more": len(held[_PARTS:])})
    return found


def _choose(group: Sequence[int], parts: Mapping[int, list[Part]], origins: Origins, most: int) -> list[int]:
    """The first place of a group, and of the rest those with a change before those without."""

    def changed(place: int) -> bool:
        return any(code in (1, 2) for part in parts[place][:_PARTS] for code, _ in origins.taken(part)["text"])

    first, *rest = group
    return sorted([first, *sorted(rest, key=lambda place: not changed(place))[: most - 1]])


def _candidates(
    kinds: npt.NDArray[np.int8], seen: Exposures, pieces: Pieces, documents: Documents, most: int
) -> dict[tuple[int, str], list[int]]:
    """By kind and language of a sample's first piece: places in the order of training, more than `most` to choose from."""
    first = np.searchsorted(pieces.sample, seen.rows)
    languages, number = np.unique([lang for _, lang, _ in documents.origins], return_inverse=True)
    of = number[documents.trained[pieces.document[first]]]
    found = {}
    for kind in range(len(KINDS)):
        for index, lang in enumerate(languages.tolist()):
            places = np.flatnonzero((kinds[seen.rows] == kind) & (of == index))[: most + _CANDIDATES]
            if places.size:
                found[kind, lang] = places.tolist()
    return found


def _parts(pieces: Pieces, row: int) -> list[Part]:
    """The documents in a row, those with most tokens first; what follows on in a document is one part in any blocks."""
    first, end = np.searchsorted(pieces.sample, [row, row + 1])
    columns = (pieces.document[first:end], pieces.offset[first:end], pieces.tokens[first:end])
    held: list[Part] = []
    for document, offset, length in sorted(zip(*(column.tolist() for column in columns), strict=True)):
        if held and held[-1][0] == document and sum(held[-1][1:]) == offset:
            held[-1] = (document, held[-1][1], held[-1][2] + length)
        else:
            held.append((document, offset, length))
    return sorted(held, key=lambda part: (-part[2], part))


def _sample(record: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """The row as the page draws it: tokens are [shown, kind, position, blank]."""
    blocks = [
        {
            "context": [_token(token) for token in block.context],
            "spans": [{"blank": span.blank, "tokens": [_token(token) for token in span.tokens]} for span in block.spans],
        }
        for block in read_blocks(record, tokenizer)
    ]
    used = [place for place, token in enumerate(record["input_ids"]) if token != SPECIAL.pad]
    return {
        "blocks": blocks,
        "positions": [record["position_ids"][place] for place in used],
        "learnt": [int(record["target_ids"][place] >= 0) for place in used],
        "length": len(record["input_ids"]),
    }


def _token(token: Token) -> list[Any]:
    return [token.piece.shown, LETTERS[token.piece.kind], token.position, token.blank]

"""Token ids as a reader sees them: one box a piece, bytes of rare characters as hexadecimal, special tokens as chips."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages._runner import StageError
from stages.report.facts import Facts

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """One token: what is shown, and its kind: `text`, `byte`, `line` (a line end) or `special`."""

    id: int
    shown: str
    kind: str


def load_tokenizer(facts: Facts) -> Tokenizer:
    """The tokenizer of data/tokenizer.

    Raises:
        StageError: the model file is absent or not ours.
    """
    from model.tokenizer import Tokenizer

    path = "data/tokenizer/tokenizer.model"
    try:
        return Tokenizer(facts.io.input(path))
    except ValueError as error:
        raise StageError(str(error).replace(f"{facts.io.root}/", ""), remedy="run `dvc checkout data/tokenizer`") from error


def pieces(tokenizer: Tokenizer, ids: Iterable[int]) -> list[Piece]:
    """The pieces of `ids`, in order. A blank is a blank, so that boxes in a row read as the text."""
    from model.tokenizer import BLANK, PIECES, SPECIAL

    special = {getattr(SPECIAL, name): spelling for name, spelling in PIECES.items()}
    found = []
    for index in ids:
        if index in special:
            found.append(Piece(index, special[index].strip("<>"), "special"))
        elif tokenizer.is_byte(index):
            found.append(Piece(index, tokenizer.piece(index)[3:5], "byte"))
        else:
            spelling = tokenizer.piece(index).replace(BLANK, " ")
            found.append(Piece(index, "↵", "line") if spelling == "\n" else Piece(index, spelling, "text"))
    return found

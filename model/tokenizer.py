"""The tokenizer: text to ids and back without loss, with GLM's special tokens at fixed ids.

GLM-130B uses icetk, a bilingual SentencePiece unigram model (paper appendix B.1). Ours is trained by the tokenizer stage
and differs on purpose in three points: its special tokens stand at the front (icetk: 150000 and above), every byte has a
piece from the start (icetk got byte fallback a year after the run), and the newline is a piece of its own without any switch.

Special tokens come only by id: a document that spells `[MASK]` is encoded as six ordinary characters. Only `encode_prompt`,
made for people who type prompts, reads the three mask tokens from text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BLANK = "\u2581"  # SentencePiece's own sign for a blank: text that holds this character needs care (see `encode`)
_BLANK = BLANK.encode()
_PROBE = " \ufb01\u3000 two  blanks\t\n\x00\u9f98 "  # text that any normalisation, trimming or missing piece would change


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens, the same in every model (docs/data.md)."""

    pad: int = 0
    unk: int = 1
    eod: int = 2
    mask: int = 3
    gmask: int = 4
    smask: int = 5
    sop: int = 6
    eop: int = 7


SPECIAL = SpecialTokens()
PIECES = {  # how the model file spells each of them, in order of their ids
    "pad": "<pad>",
    "unk": "<unk>",
    "eod": "<eod>",
    "mask": "[MASK]",
    "gmask": "[gMASK]",
    "smask": "[sMASK]",
    "sop": "<sop>",
    "eop": "<eop>",
}
_IN_PROMPTS = {PIECES[name]: getattr(SPECIAL, name) for name in ("mask", "gmask", "smask")}
_PROMPT_SPLIT = re.compile("(" + "|".join(map(re.escape, _IN_PROMPTS)) + ")")


def may_hold_blank(data: npt.NDArray[np.uint8]) -> bool:
    """Whether UTF-8 may hold U+2581, by the last two of its bytes: in an eighth of the time that a search for it takes."""
    pair = np.frombuffer(_BLANK[1:], np.uint16)
    return any(bool((data[first : len(data) - (len(data) - first) % 2].view(np.uint16) == pair).any()) for first in (0, 1))


class Tokenizer:
    """A SentencePiece unigram model with fixed special tokens; `decode(encode(text)) == text` for every text."""

    def __init__(self, path: str | Path, content: bytes | None = None) -> None:
        """Load the model file at `path`; `content` is what it holds where it lies out of this machine's reach.

        Raises:
            ValueError: not a SentencePiece model, special tokens elsewhere than in `SPECIAL`, or a model that loses text.
        """
        import sentencepiece

        self.path = Path(path)
        proto = self.path.read_bytes() if content is None else content
        self._model: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(proto)
        except RuntimeError as error:
            raise ValueError(f"{path}: not a SentencePiece model: {error}") from error
        self.special = SPECIAL
        self.piece_count: int = self._model.get_piece_size()
        self._check_special()
        self._blank = np.array([self._model.piece_to_id(f"<0x{byte:02X}>") for byte in _BLANK], dtype=np.int32)
        if b"".join(self._bytes_of(self.encode(_PROBE))) != _PROBE.encode():
            raise ValueError(f"{path}: this model loses text; train it with byte fallback and without normalisation")

    def encode(self, text: str) -> list[int]:
        """Ids of the whole text, special tokens never among them.

        Raises:
            UnicodeEncodeError: the text holds a lone surrogate, which is no character.
        """
        return self._encode(text.encode()).tolist()

    def encode_batch(
        self, texts: Sequence[str] | Sequence[bytes], threads: int = 1, *, eod: bool = False, blanks: bool = True
    ) -> list[npt.NDArray[np.int32]]:
        """Ids of each text as `encode` gives them, and `eod` behind them where asked for, in read-only int32 arrays.

        Args:
            texts: strings, or valid UTF-8: SentencePiece would replace any other byte in silence.
            threads: changes the time, not the ids.
            eod: end each text's ids with the token that ends a document.
            blanks: whether a text may hold U+2581; who knows better (`may_hold_blank`) saves the search.
        """
        raw = [text.encode() if isinstance(text, str) else text for text in texts]
        found: list[npt.NDArray[np.int32]] = self._model.encode(raw, return_type="numpy", num_threads=threads, add_eos=eod)
        if not blanks:
            return found
        end = np.array([SPECIAL.eod] if eod else [], dtype=np.int32)
        for index, text in enumerate(raw):
            if _BLANK in text:
                found[index] = np.concatenate([self._encode(text), end])
        return found

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt that a person typed: a literal `[MASK]`, `[gMASK]` or `[sMASK]` becomes the special token.

        One blank before such a token is dropped: pieces carry the blank before their word (`▁word`), so what the model
        was trained to fill in begins with it.
        """
        parts = _PROMPT_SPLIT.split(text)  # text, token, text, ..., token, text
        ids: list[int] = []
        for part, token in zip(parts[::2], parts[1::2], strict=False):
            ids += [*self.encode(part.removesuffix(" ")), _IN_PROMPTS[token]]
        return ids + self.encode(parts[-1])

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; special tokens have no text, bytes that form no character become U+FFFD.

        Raises:
            ValueError: an id outside [0, piece_count).
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """UTF-8 bytes of the ids: what `decode` reads, for callers that get a text in parts (half a character each)."""
        ids = [int(piece) for piece in ids]
        wrong = [piece for piece in ids if not 0 <= piece < self.piece_count]
        if wrong:
            raise ValueError(f"id {wrong[0]} is outside the vocabulary of {self.piece_count} pieces")
        return b"".join([self._bytes[piece] for piece in ids])

    def piece(self, index: int) -> str:
        """The model's own spelling of piece `index`: `<0xE2>` for a byte, U+2581 for a blank."""
        return str(self._model.id_to_piece(index))

    def is_byte(self, index: int) -> bool:
        """Whether piece `index` stands for one byte of a character without a piece of its own."""
        return bool(self._model.is_byte(index))

    def byte_values(self) -> npt.NDArray[np.int16]:
        """For each piece the byte that it stands for, -1 where it stands for anything else; int16 [piece_count]."""
        found = np.full(self.piece_count, -1, dtype=np.int16)
        for index, is_byte in enumerate(self._model.is_byte(list(range(self.piece_count)))):
            if is_byte:
                found[index] = self._bytes[index][0]
        return found

    def padded_size(self, multiple: int) -> int:
        """Smallest multiple of `multiple` that holds every piece: rows of the embedding (GLM-130B: 150,000 -> 150,528)."""
        return -(-self.piece_count // multiple) * multiple

    def _encode(self, text: bytes) -> npt.NDArray[np.int32]:
        """Ids of one text. A U+2581 would come back as a blank, so it goes in as its three bytes, beside SentencePiece."""
        parts = [self._model.encode(part, return_type="numpy") for part in text.split(_BLANK)]
        joined = [parts[0]]
        for part in parts[1:]:
            joined += [self._blank, part]
        return np.concatenate(joined)

    @cached_property
    def _bytes(self) -> list[bytes]:
        """What each piece stands for; made when it is first asked for, which those who only encode never do."""
        return self._bytes_of(list(range(self.piece_count)))

    def _bytes_of(self, pieces: list[int]) -> list[bytes]:
        """What some pieces stand for in UTF-8; special tokens have no text."""
        without = zip(self._model.is_control(pieces), self._model.is_unknown(pieces), strict=True)
        rows = zip(self._model.id_to_piece(pieces), without, self._model.is_byte(pieces), strict=True)
        return [
            b"" if any(textless) else bytes([int(spelling[3:5], 16)]) if is_byte else spelling.replace(BLANK, " ").encode()
            for spelling, textless, is_byte in rows
        ]

    def _check_special(self) -> None:
        for field in fields(SpecialTokens):
            index, spelling = getattr(SPECIAL, field.name), PIECES[field.name]
            found = self.piece(index) if index < self.piece_count else "nothing"
            if found != spelling:
                raise ValueError(f"{self.path}: piece {index} is {found!r}, not {spelling!r}; train it by the tokenizer stage")

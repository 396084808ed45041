"""Training itself, by SentencePiece, and what its complaints mean for the parameters."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator

from model.tokenizer import BLANK, PIECES, SPECIAL
from stages._errors import StageError
from stages.tokenizer.params import Params
from stages.tokenizer.sampling import TRAIN

_ASCII = "".join(map(chr, range(0x21, 0x7F)))  # a piece each, however rare: prompts use what old books do not
_TOO_HIGH = re.compile(r"Vocabulary size too high .*<= (\d+)")
_TOO_LOW = re.compile(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)")


def train(lines: Iterable[str], params: Params) -> bytes:
    """The SentencePiece model, as the bytes of its file.

    Raises:
        StageError: no line to train on, or the vocabulary does not fit the text: the message gives the size that would.
    """
    import sentencepiece

    buffer = io.BytesIO()
    counted = _Counted(lines)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(counted),
            model_writer=buffer,
            model_type="unigram",
            vocab_size=params.vocab_size,
            character_coverage=params.character_coverage,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            byte_fallback=True,
            required_chars=_ASCII,
            split_digits=params.split_digits,
            max_sentencepiece_length=params.max_piece_characters,
            seed_sentencepiece_size=params.seed_pieces,
            pad_id=SPECIAL.pad,
            unk_id=SPECIAL.unk,
            bos_id=-1,
            eos_id=SPECIAL.eod,
            pad_piece=PIECES["pad"],
            unk_piece=PIECES["unk"],
            eos_piece=PIECES["eod"],
            control_symbols=[PIECES[name] for name in ("mask", "gmask", "smask", "sop", "eop")],
            user_defined_symbols=["\n", "\t", *(BLANK * length for length in range(2, params.blank_runs + 1))],
            num_threads=params.threads,
            minloglevel=1,
        )
    except RuntimeError as error:
        raise _explained(str(error), params, counted.lines) from error
    return buffer.getvalue()


class _Counted:
    """Lines, and how many of them were not empty."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines, self.lines = lines, 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.lines += bool(line)
            yield line


def _explained(complaint: str, params: Params, lines: int) -> StageError:
    """What is wrong with the parameters by SentencePiece's complaint."""
    said = f"SentencePiece could not train: {complaint}"
    if not lines:
        remedy = "raise tokenizer.sample_bytes, or look at the counts of the stages before"
        return StageError("the training sample holds no line of text", file=TRAIN, remedy=remedy)
    if high := _TOO_HIGH.search(complaint):
        most = int(high[1])
        message = f"a vocabulary of {params.vocab_size:,} pieces is larger than the text supports: at most {most:,}"
        return StageError(
            f"{message}. {said}", file=TRAIN, remedy=f"set tokenizer.vocab_size to {most} or less, or give more text"
        )
    if low := _TOO_LOW.search(complaint):
        least = int(low[1])
        message = f"a vocabulary of {params.vocab_size:,} pieces has no room for the characters alone: at least {least:,}"
        remedy = f"set tokenizer.vocab_size to {least} or more, or lower tokenizer.character_coverage"
        return StageError(f"{message}. {said}", file=TRAIN, remedy=remedy)
    return StageError(
        said, file=TRAIN, remedy="change tokenizer.vocab_size, lower tokenizer.character_coverage, or give more text"
    )

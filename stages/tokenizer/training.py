"""Training itself, by SentencePiece, and what its complaints mean for the parameters."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from model.tokenizer import BLANK, PIECES, SPECIAL
from stages._errors import StageError
from stages.tokenizer import trainer
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
    counted = _Counted(lines)
    try:
        return _trained(counted, _settings(params))
    except RuntimeError as error:
        raise _explained(str(error), params, counted.lines) from error


def _settings(params: Params) -> dict[str, Any]:
    """What SentencePiece is told."""
    return {
        "model_type": "unigram",
        "vocab_size": params.vocab_size,
        "character_coverage": params.character_coverage,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
        "required_chars": _ASCII,
        "split_digits": params.split_digits,
        "max_sentencepiece_length": params.max_piece_characters,
        "seed_sentencepiece_size": params.seed_pieces,
        "pad_id": SPECIAL.pad,
        "unk_id": SPECIAL.unk,
        "bos_id": -1,
        "eos_id": SPECIAL.eod,
        "pad_piece": PIECES["pad"],
        "unk_piece": PIECES["unk"],
        "eos_piece": PIECES["eod"],
        "control_symbols": [PIECES[name] for name in ("mask", "gmask", "smask", "sop", "eop")],
        "user_defined_symbols": ["\n", "\t", *(BLANK * length for length in range(2, params.blank_runs + 1))],
        "num_threads": params.threads,
        "minloglevel": 1,
    }


def _trained(lines: Iterable[str], settings: dict[str, Any]) -> bytes:
    """The model that `trainer` makes of these lines.

    Raises:
        RuntimeError: SentencePiece's complaint.
        StageError: the process was killed.
    """
    command = [sys.executable, "-P", trainer.__file__, json.dumps(settings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError), process.stdin as sample:  # one that ends early says why
                for line in lines:
                    sample.write(line.encode() + b"\n")
            said = process.stdout.read()
        except BaseException:
            process.kill()  # else it would train on what it has got
            raise
    if process.returncode == trainer.REFUSED:
        raise RuntimeError(said.decode(errors="replace"))
    if process.returncode:
        remedy = "lower tokenizer.sample_bytes: 50 MB of text and 150,000 pieces take 1 GB of memory"
        raise StageError(f"the training process ended with status {process.returncode}", file=TRAIN, remedy=remedy)
    return said


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

"""Training itself, by SentencePiece, and what its complaints mean for the parameters."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import sys
import tempfile
from collections.abc import Iterable
from typing import Any, NoReturn

from stages._errors import StageError
from stages.tokenizer import trainer
from stages.tokenizer.params import TRAIN, Params

_RAISED = 4  # status of a child that raised; what it raised stands in its output
_ASCII = "".join(map(chr, range(0x21, 0x7F)))  # a piece each, however rare: prompts use what old books do not
_TOO_HIGH = re.compile(r"Vocabulary size too high .*<= (\d+)")
_TOO_LOW = re.compile(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)")


def train(lines: Iterable[str], params: Params) -> bytes:
    """The SentencePiece model, as the bytes of its file.

    Raises:
        StageError: no line to train on, or the vocabulary does not fit the text: the message gives the size that would.
    """
    try:
        return _trained(lines, params)
    except RuntimeError as error:
        raise _explained(str(error), params) from error


def _settings(params: Params) -> dict[str, Any]:
    """What SentencePiece is told."""
    from model.tokenizer import BLANK, PIECES, SPECIAL

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


def _trained(lines: Iterable[str], params: Params) -> bytes:
    """The model that `trainer` makes of these lines, in a child process that goes through them and then becomes the trainer.

    So what it takes to read documents is gone when training begins, and this process, which waits, needs none of it.

    Raises:
        RuntimeError: SentencePiece's complaint.
        StageError: the process was killed.
        Exception: what `lines` raised.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        os.close(reading)
        os.dup2(writing, 1)
        _become_trainer(lines, params)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as output:
            said = output.read()
    except BaseException:
        os.kill(process, signal.SIGKILL)  # else it would train on
        raise
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status == trainer.REFUSED:
        raise RuntimeError(said.decode(errors="replace"))
    if status == _RAISED:
        raise pickle.loads(said)  # of our own child
    if status:
        remedy = "lower tokenizer.sample_bytes: 50 MB of text and 150,000 pieces take 1 GB of memory"
        raise StageError(f"the training process ended with status {status}", file=TRAIN, remedy=remedy)
    return said


def _become_trainer(lines: Iterable[str], params: Params) -> NoReturn:
    """Write the lines to a file without a name, and run the trainer on it in this process's place; never comes back."""
    try:
        sample, filled = tempfile.TemporaryFile(), False  # noqa: SIM115  the trainer's standard input
        for line in lines:
            sample.write(line.encode() + b"\n")
            filled = filled or bool(line)
        if not filled:
            remedy = "raise tokenizer.sample_bytes, or look at the counts of the stages before"
            raise StageError("the training sample holds no line of text", file=TRAIN, remedy=remedy)
        sample.seek(0)
        os.dup2(sample.fileno(), 0)
        os.execv(sys.executable, [sys.executable, "-P", trainer.__file__, json.dumps(_settings(params))])
    except BaseException as error:
        with os.fdopen(1, "wb", closefd=False) as output:
            output.write(_pickled(error))
    finally:
        os._exit(_RAISED)


def _pickled(error: BaseException) -> bytes:
    try:
        return pickle.dumps(error)
    except (pickle.PicklingError, TypeError, AttributeError):
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))


def _explained(complaint: str, params: Params) -> StageError:
    """What is wrong with the parameters by SentencePiece's complaint."""
    said = f"SentencePiece could not train: {complaint}"
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

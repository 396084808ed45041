"""Fits worded examples to a block: the head of a long text stays, at least a share of the block, then the target is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.tokenizer import Tokenizer
from stages._errors import StageError
from stages.instruct.params import Params
from stages.instruct.prompts import TEMPLATES, Template
from stages.instruct.tasks import Example

Ids = NDArray[np.int32]
_MARKS = 3  # [MASK], sop, eop
_CHARACTERS = 16  # of a piece, at most: so many for each position are more than ever fit, and spare encoding a whole chapter


@dataclass(frozen=True)
class Worded:
    """An example in words.

    Attributes:
        template, example: by which a prompt can be worded again around a shorter text; None where only its end can be cut.
        shortened: whether text beyond all that can ever fit is missing already.
    """

    prompt: str
    target: str
    shortened: bool = False
    template: Template | None = None
    example: Example | None = None


@dataclass(frozen=True)
class Fitted:
    """A worded example that fits a block: prompt_ids end with `[MASK]`."""

    prompt: str
    target: str
    prompt_ids: list[int]
    target_ids: list[int]
    text_cut: bool
    target_cut: bool


def word(template: Template, example: Example, params: Params) -> Worded:
    """An example in the words of one of our templates."""
    text = example["text"][: _CHARACTERS * params.block_length]
    shown = example | {"text": text}
    around = (template, example) if params.truncation == "keep_question" else (None, None)
    return Worded(template.prompt(shown), template.target(example), len(text) < len(example["text"]), *around)


def plain(prompt: str, target: str, params: Params) -> Worded:
    """An example that came in words."""
    head = prompt[: _CHARACTERS * params.block_length]
    return Worded(head, target, len(head) < len(prompt))


def fit_all(worded: Sequence[Worded], tokenizer: Tokenizer, params: Params, threads: int = 1) -> list[Fitted]:
    """Fit every example into `block_length` positions; most fit as they are, and are encoded together by `threads`.

    Raises:
        StageError: a template's own words leave no room for a target.
    """
    prompts = tokenizer.encode_batch([example.prompt for example in worded], threads)
    targets = tokenizer.encode_batch([example.target for example in worded], threads)
    room = params.block_length - _MARKS
    fitted = []
    for example, prompt, target in zip(worded, prompts, targets, strict=True):
        if len(prompt) + len(target) <= room and not example.shortened:
            fitted.append(_finish(tokenizer, example.prompt, prompt.tolist(), target.tolist(), room, text_cut=False))
        elif example.template is not None and example.example is not None:
            fitted.append(fit(example.template, example.example, tokenizer, params))
        else:
            fitted.append(_cut_end(tokenizer, example, prompt, target, params))
    return fitted


def fit(template: Template, example: Example, tokenizer: Tokenizer, params: Params) -> Fitted:
    """Word an example within `block_length` positions, cutting inside `text` alone so that what stands behind it survives.

    Raises:
        StageError: the template's own words leave no room for a target.
    """
    target_ids = tokenizer.encode(template.target(example))
    room = params.block_length - _MARKS
    text = example["text"][: _CHARACTERS * params.block_length]
    text_ids = tokenizer.encode(text)
    words = len(tokenizer.encode(template.prompt(example | {"text": ""})))
    least = words + min(len(text_ids), int(params.minimum_text_share * params.block_length))
    if least >= room:
        raise StageError(
            f"template {template.name} needs {least} of {room} tokens before any target",
            file=TEMPLATES.name,
            remedy="shorten the template, raise instruct.block_length, or lower instruct.minimum_text_share",
        )
    prompt_room, keep = max(room - len(target_ids), least), len(text_ids)
    while True:
        prompt = template.prompt(example | {"text": text})
        prompt_ids = tokenizer.encode(prompt)
        excess = len(prompt_ids) - prompt_room
        if excess <= 0:
            break
        keep = max(0, keep - excess)
        text = tokenizer.decode_bytes(text_ids[:keep]).decode(errors="ignore").rstrip()
    return _finish(tokenizer, prompt, prompt_ids, target_ids, room, text_cut=text != example["text"])


def _cut_end(tokenizer: Tokenizer, example: Worded, prompt: Ids, target: Ids, params: Params) -> Fitted:
    """The published rule: the head of the prompt, at least its share of the block, and as much of the target as fits."""
    room = params.block_length - _MARKS
    least = int(params.minimum_text_share * params.block_length)
    kept, shown = _head(tokenizer, prompt.tolist(), max(room - len(target), least))
    cut = example.shortened or len(kept) < len(prompt)
    return _finish(tokenizer, shown, kept, target.tolist(), room, text_cut=cut)


def _finish(
    tokenizer: Tokenizer, prompt: str, prompt_ids: list[int], target_ids: list[int], room: int, *, text_cut: bool
) -> Fitted:
    kept, target = _head(tokenizer, target_ids, room - len(prompt_ids))
    return Fitted(prompt, target, [*prompt_ids, tokenizer.special.mask], kept, text_cut, len(kept) < len(target_ids))


def _head(tokenizer: Tokenizer, ids: list[int], most: int) -> tuple[list[int], str]:
    """The first ids, `most` of them or up to three fewer, so that no character is cut in two; and their text."""
    while True:
        try:
            return ids[:most], tokenizer.decode_bytes(ids[:most]).decode()
        except UnicodeDecodeError:
            most -= 1

"""Likelihoods from a GLM: whole documents in windows, and the choices of a multiple-choice question.

As GLM-130B was scored (facts 6.1). The GLM cannot read a text from left to right in one go as a decoder does: what it predicts
stands behind a [gMASK], and what it reads before that, it reads both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.glm import GLM, Batch
from model.tokenizer import SPECIAL

Ids = Sequence[int] | NDArray[np.int32]
Array = NDArray[np.int64]
_NO_TARGET = -1


@dataclass(frozen=True)
class Question:
    """A context and what may fill the blank behind it, in ids; no choice is empty."""

    context: Ids
    choices: Sequence[Ids]


@dataclass(frozen=True)
class _Sequence:
    """One block: `context` positions are seen both ways, the rest is causal."""

    inputs: Array
    targets: Array
    positions: Array
    context: int


def score_documents(
    model: GLM, documents: Sequence[Ids], window: int, context: int, batch_positions: int = 8192
) -> NDArray[np.float64]:
    """Negative log-likelihood of each document in nats, every token scored once, [documents].

    The first window is scored from an empty context (`[gMASK] sop t1 t2 ...`). Each later window reads the `context`
    tokens before it both ways and is scored behind them (`c1 ... [gMASK] sop t1 ...`). Published for the Pile: windows of
    2,047 tokens, of which 1,024 are scored.

    Args:
        model: in evaluation mode.
        documents: ids without special tokens.
        window: tokens in a window, context and scored ones together; below the model's longest sequence.
        context: tokens of a later window that are read only, at least 1.
        batch_positions: positions that go through the model together.

    Raises:
        ValueError: window and context do not fit each other or the model.
    """
    longest = model.config.max_sequence - 1  # beside the tokens stand [gMASK] and sop, and the last token is no input
    if not 1 <= context < window <= longest:
        raise ValueError(f"1 <= context < window <= {longest} is needed, found context {context} and window {window}")
    sequences, owners = [], []
    for owner, document in enumerate(documents):
        for sequence in _windows(np.asarray(document, dtype=np.int64), window, context):
            sequences.append(sequence)
            owners.append(owner)
    nats = _sequence_nats(model, sequences, batch_positions)
    return np.bincount(np.array(owners, dtype=np.int64), weights=nats, minlength=len(documents)).astype(np.float64)


def score_choices(model: GLM, questions: Sequence[Question], batch_positions: int = 8192) -> list[NDArray[np.float64]]:
    """Log-likelihood of each choice of each question, in nats: `context [MASK] sop choice`, summed over the choice's tokens.

    As published: every token of a choice stands at the position of its [MASK], no eop is scored, the sum is not divided by
    the length, and a context that is too long loses its beginning (the same for all choices of a question). The prediction
    is the arg max. Where all choices are single tokens, one pass over the context reads them all.

    Raises:
        ValueError: a choice that is empty or does not fit the model's sequence.
    """
    result: list[NDArray[np.float64]] = [np.zeros(len(question.choices)) for question in questions]
    sequences, single, owners = [], [], []
    for number, question in enumerate(questions):
        room = model.config.max_sequence - 1 - max(map(len, question.choices))
        if room < 1 or not all(map(len, question.choices)):
            raise ValueError(f"question {number}: each choice needs 1 to {model.config.max_sequence - 2} tokens")
        context = np.asarray(question.context, dtype=np.int64)[-room:]
        if all(len(choice) == 1 for choice in question.choices):
            single.append((number, _filling(context, np.array([_NO_TARGET]))))
            continue
        for index, choice in enumerate(question.choices):
            sequences.append(_filling(context, np.asarray(choice, dtype=np.int64)))
            owners.append((number, index))
    for (number, index), nats in zip(owners, _sequence_nats(model, sequences, batch_positions), strict=True):
        result[number][index] = -nats
    for number, scores_V in _last_scores(model, single, batch_positions):
        result[number] = scores_V[[int(choice[0]) for choice in questions[number].choices]]
    return result


def _windows(ids: Array, window: int, context: int) -> Iterator[_Sequence]:
    start = 0
    while start < len(ids):
        end = min(start + (window - context if start else window), len(ids))
        before, scored = ids[max(0, start - context) : start], ids[start:end]
        inputs = np.concatenate([before, [SPECIAL.gmask, SPECIAL.sop], scored[:-1]])
        targets = np.concatenate([np.full(len(before) + 1, _NO_TARGET), scored])
        yield _Sequence(inputs, targets, np.arange(len(inputs)), len(before) + 1)
        start = end


def _filling(context: Array, choice: Array) -> _Sequence:
    inputs = np.concatenate([context, [SPECIAL.mask, SPECIAL.sop], choice[:-1]])
    targets = np.concatenate([np.full(len(context) + 1, _NO_TARGET), choice])
    return _Sequence(inputs, targets, np.minimum(np.arange(len(inputs)), len(context)), len(context) + 1)


@torch.inference_mode()
def _sequence_nats(model: GLM, sequences: Sequence[_Sequence], batch_positions: int) -> NDArray[np.float64]:
    """Summed loss of each sequence's targets, [sequences]."""
    nats = np.zeros(len(sequences))
    for chosen in _batches([len(sequence.inputs) for sequence in sequences], batch_positions):
        batch = _collate(model, [sequences[number] for number in chosen])
        _, losses_T, where_T = model(batch)
        owner_T = (where_T // batch.input_ids.shape[1]).cpu().numpy()
        nats[chosen] = np.bincount(owner_T, weights=losses_T.double().cpu().numpy(), minlength=len(chosen))
    return nats


@torch.inference_mode()
def _last_scores(
    model: GLM, numbered: Sequence[tuple[int, _Sequence]], batch_positions: int
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Log-probabilities [V] behind the last position of each sequence, with the number that came with it."""
    for chosen in _batches([len(sequence.inputs) for _, sequence in numbered], batch_positions):
        batch = _collate(model, [numbered[number][1] for number in chosen])
        last_B = batch.block_start[:, 1] - 1
        hidden_BD = model.hidden_states(batch)[torch.arange(len(chosen), device=last_B.device), last_B]
        scores_BV = model.logits(hidden_BD).log_softmax(-1).double().cpu().numpy()
        yield from zip([numbered[number][0] for number in chosen], scores_BV, strict=True)


def _batches(lengths: Sequence[int], positions: int) -> Iterator[list[int]]:
    """Numbers of sequences of similar length, at most `positions` together once padded (one sequence at least)."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > positions:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _collate(model: GLM, sequences: Sequence[_Sequence]) -> Batch:
    """Pad to the longest; padding stands behind the block, where nothing that counts can see it."""
    shape = len(sequences), max(len(sequence.inputs) for sequence in sequences)
    inputs, targets = np.full(shape, SPECIAL.pad, dtype=np.int64), np.full(shape, _NO_TARGET, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        length = len(sequence.inputs)
        inputs[row, :length], targets[row, :length], positions[row, :length] = (
            sequence.inputs,
            sequence.targets,
            sequence.positions,
        )
    ends = np.array([[0, len(sequence.inputs)] for sequence in sequences])
    contexts = np.array([[sequence.context] for sequence in sequences])
    device = model.word_embeddings.weight.device
    return Batch(*(torch.from_numpy(array).to(device) for array in (inputs, targets, positions, ends, contexts)))

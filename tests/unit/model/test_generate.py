"""Filling blanks: order, positions, endings, limits. A scripted model stands in where the written tokens must be known."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import sentencepiece
import torch

from model.config import ModelConfig
from model.generate import Sampling, choose, fill
from model.glm import GLM, Batch, initialise
from model.tokenizer import PIECES, SPECIAL, Tokenizer

CONFIG = ModelConfig(layers=1, hidden=16, heads=1, ffn=16, vocabulary=400, max_sequence=32)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat", "a dog and a cat"] * 20), model_writer=proto, vocab_size=300,
        byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
        control_symbols=[p for n, p in PIECES.items() if n not in ("pad", "unk", "eod")], pad_id=0, unk_id=1, eos_id=2,
        bos_id=-1, pad_piece=PIECES["pad"], unk_piece=PIECES["unk"], eos_piece=PIECES["eod"], hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(proto.getvalue())
    return Tokenizer(path)


class Scripted(GLM):
    """Writes given token ids whatever it reads, and keeps what it was shown."""

    def __init__(self, script: list[int]) -> None:
        super().__init__(CONFIG)
        self.script, self.shown = list(script), []

    def hidden_states(self, batch: Batch) -> torch.Tensor:
        self.shown.append(batch)
        return torch.zeros(1, batch.input_ids.shape[1], CONFIG.hidden)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(CONFIG.vocabulary)
        scores[self.script.pop(0)] = 9.0
        return scores


GREEDY = Sampling(max_tokens=8, temperature=0.0)


def test_blanks_are_filled_from_left_to_right_where_they_stand(tokenizer: Tokenizer) -> None:
    first, second = tokenizer.encode("cat"), tokenizer.encode("mat")
    model = Scripted([*first, SPECIAL.eop, *second, SPECIAL.eod])
    assert fill(model, tokenizer, "the [MASK] sat on the [MASK].", GREEDY) == "thecat sat on themat."
    blank = len(tokenizer.encode("the"))
    written = model.shown[len(first)]
    assert written.position_ids[0, -len(first) - 1 :].tolist() == [blank] * (len(first) + 1), "positions stay at the blank"
    later = model.shown[len(first) + 1].input_ids[0].tolist()
    assert later[blank : blank + len(first)] == first, "the second blank sees what filled the first"


def test_gmask_is_added_and_positions_go_on(tokenizer: Tokenizer) -> None:
    script = tokenizer.encode(" sat")
    model = Scripted([*script, SPECIAL.eop])
    assert fill(model, tokenizer, "the cat", GREEDY) == "the cat sat"
    last = model.shown[-1]
    assert last.position_ids[0].tolist() == list(range(last.input_ids.shape[1]))
    assert SPECIAL.gmask in last.input_ids[0].tolist()
    assert int(last.block_context[0, 0]) == len(tokenizer.encode("the cat")) + 1


def test_special_tokens_are_never_written(tokenizer: Tokenizer) -> None:
    for special in (SPECIAL.pad, SPECIAL.unk, SPECIAL.mask, SPECIAL.gmask, SPECIAL.smask, SPECIAL.sop):
        model = Scripted([special] * 3)
        assert "[" not in fill(model, tokenizer, "the cat [gMASK]", Sampling(max_tokens=3, temperature=0.0))


def test_a_real_model_is_deterministic_for_a_seed_and_stops_at_its_sequence(tokenizer: Tokenizer) -> None:
    model = GLM(CONFIG)
    initialise(model, 1)
    model.eval()
    sampling = Sampling(max_tokens=500, temperature=1.0, top_p=1.0, seed=5)
    once, again = (fill(model, tokenizer, "the cat", sampling) for _ in range(2))
    assert once == again
    with pytest.raises(ValueError, match="at most 30 fit"):
        fill(model, tokenizer, "a b c d e f g " * 20, sampling)


def test_nucleus_and_top_k_keep_what_they_promise() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    generator = torch.Generator().manual_seed(0)

    def drawn(sampling: Sampling) -> set[int]:
        return {choose(logits, sampling, generator) for _ in range(300)}

    assert drawn(Sampling(temperature=1.0, top_p=1.0)) == {0, 1, 2, 3}
    assert drawn(Sampling(temperature=1.0, top_p=0.75)) == {0, 1}
    assert drawn(Sampling(temperature=1.0, top_p=1.0, top_k=3)) == {0, 1, 2}
    assert drawn(Sampling(temperature=0.0)) == {0}


def test_wrong_sampling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="top_p"):
        Sampling(top_p=0.0)

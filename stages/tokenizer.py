"""Trains the bilingual SentencePiece unigram model on a byte-balanced sample of the training documents.

Reads:    data/decontaminate (train/documents to train on, heldout/documents to measure on)
Writes:   data/tokenizer: tokenizer.model, tokenizer.json, report.json
Params:   tokenizer
Promises: special tokens at their fixed ids; every text survives encode and decode unchanged; the same documents and
          parameters give the same bytes in any folder (sentences go in by iterator and the model comes out by a buffer, so
          no path enters it; the thread count decides the order of float sums and is a parameter for that reason)

GLM-130B's icetk was trained on 25 GB, half English and half Chinese (paper appendix B.1); its training code was never
released, so coverage, digits and normalisation below are our choice: no normalisation, because what is changed is lost.
"""

from __future__ import annotations

import hashlib
import io as memory
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from model.tokenizer import BLANK, PIECES, SPECIAL, Tokenizer
from stages._documents import read_documents
from stages._manifest import canonical
from stages._params import Fraction, Positive, Range, Seed
from stages._runner import StageError, StageIO, run_stage

LANGUAGES = ("en", "zh")
_ASCII = "".join(map(chr, range(0x21, 0x7F)))  # a piece each, however rare: prompts use what old books do not
_SENTENCE = 1024  # characters: at most 4,096 bytes, below the 4,192 above which SentencePiece drops a sentence in silence


@dataclass(frozen=True)
class Params:
    """Section `tokenizer` of params.yaml."""

    vocab_size: Annotated[int, Range(512, 2**20)]
    character_coverage: Annotated[float, Range(0.5, 1.0)]
    sample_bytes: Positive
    english_share: Fraction
    split_digits: bool
    blank_runs: Annotated[int, Range(1, 80)]
    max_piece_characters: Annotated[int, Range(1, 64)]
    seed_pieces: Positive
    pad_multiple: Positive
    threads: Annotated[int, Range(1, 1024)]
    seed: Seed


def sentences(text: str) -> Iterator[str]:
    """Lines of `text` without empty ones, long lines cut: the newline is a piece of its own, so no piece crosses it."""
    for line in text.split("\n"):
        for start in range(0, len(line), _SENTENCE):
            yield line[start : start + _SENTENCE]


def shares(params: Params, available: dict[str, int]) -> dict[str, float]:
    """Share of each language's bytes to take, so that the sample has the asked-for ratio and at most `sample_bytes`.

    Raises:
        StageError: a language that the ratio asks for has no text.
    """
    wanted = {"en": params.english_share * params.sample_bytes, "zh": (1 - params.english_share) * params.sample_bytes}
    for language, size in wanted.items():
        if size and not available.get(language):
            raise StageError(
                f"no training document in {language!r}, but english_share is {params.english_share}",
                file="data/decontaminate/train/documents",
                remedy="add a source in that language, or set tokenizer.english_share to 1.0 or 0.0",
            )
    scale = min([1.0, *(available[language] / size for language, size in wanted.items() if size)])
    return {language: scale * size / available[language] if size else 0.0 for language, size in wanted.items()}


def sample(documents: Iterable[dict[str, Any]], share: dict[str, float], seed: int) -> Iterator[str]:
    """Sentences of `documents`, each kept with its language's share; the draw is keyed by seed and document."""
    for document in documents:
        lines = list(sentences(document["text"]))
        key = hashlib.sha256(f"{seed}\n{document['doc_id']}".encode()).digest()
        draw = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "big"))).random(len(lines))
        yield from (line for line, number in zip(lines, draw, strict=True) if number < share.get(document["lang"], 0.0))


def train(lines: Iterable[str], params: Params) -> bytes:
    """The SentencePiece model, as the bytes of its file.

    Raises:
        StageError: the vocabulary does not fit the text; SentencePiece's own message says which limit.
    """
    import sentencepiece

    buffer = memory.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
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
        raise StageError(
            f"SentencePiece could not train: {error}",
            file="data/decontaminate/train/documents",
            remedy="change tokenizer.vocab_size, lower tokenizer.character_coverage, or give more text",
        ) from error
    return buffer.getvalue()


def fertility(tokenizer: Tokenizer, documents: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per language: documents, bytes, characters, tokens, tokens per character and per byte, share of byte pieces."""
    is_byte = np.array([tokenizer.is_byte(piece) for piece in range(tokenizer.piece_count)])
    totals: dict[str, Counter[str]] = {}
    for document in documents:
        ids = tokenizer.encode_batch([document["text"]])[0]
        totals.setdefault(document["lang"], Counter()).update(
            documents=1,
            bytes=len(document["text"].encode()),
            characters=len(document["text"]),
            tokens=len(ids),
            byte_pieces=int(is_byte[ids].sum()),
        )
    return {language: dict(total) | _ratios(total) for language, total in sorted(totals.items())}


def _ratios(total: Counter[str]) -> dict[str, float]:
    return {
        "tokens_per_character": round(total["tokens"] / total["characters"], 4),
        "tokens_per_byte": round(total["tokens"] / total["bytes"], 4),
        "bytes_per_token": round(total["bytes"] / total["tokens"], 4),
        "byte_fallback_share": round(total["byte_pieces"] / total["tokens"], 6),
    }


def composition(tokenizer: Tokenizer) -> dict[str, int]:
    """How many pieces the vocabulary spends on what: special tokens, bytes, blanks, and each script."""
    specials = set(asdict(tokenizer.special).values())
    counts: Counter[str] = Counter()
    for index in range(tokenizer.piece_count):
        if index in specials:
            counts["special"] += 1
        elif tokenizer.is_byte(index):
            counts["byte"] += 1
        else:
            counts[script(tokenizer.piece(index))] += 1
    return dict(sorted(counts.items()))


def script(piece: str) -> str:
    """Script of a piece by its characters; `mixed` where they are of more than one kind."""
    kinds = {_kind(character) for character in piece.replace(BLANK, "").strip()}
    if not kinds:
        return "blank"
    if kinds == {"han"}:
        return "han-character" if len(piece.replace(BLANK, "")) == 1 else "han-word"
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _kind(character: str) -> str:
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if name.startswith("CJK") and category == "Lo":
        return "han"
    if category.startswith("L") and name.startswith(("LATIN", "FULLWIDTH LATIN")):
        return "latin"
    if category.startswith("L"):
        return "other-letter"
    return "digit" if category == "Nd" else "punctuation"


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Train, then measure on the held-out documents."""
    folder = io.input("data/decontaminate/train")
    available: Counter[str] = Counter()
    for document in read_documents(folder):
        available[document["lang"]] += len(document["text"].encode())
    share = shares(params, available)
    used = Counter({language: round(share[language] * available[language]) for language in LANGUAGES})
    io.log(f"training {params.vocab_size:,} pieces on about {used['en']:,} bytes of English, {used['zh']:,} of Chinese")
    path: Path = io.output / "tokenizer.model"
    path.write_bytes(train(sample(read_documents(folder), share, params.seed), params))
    tokenizer = Tokenizer(path)
    description = {
        "model": "sentencepiece-unigram",
        "piece_count": tokenizer.piece_count,
        "padded_size": tokenizer.padded_size(params.pad_multiple),
        "pad_multiple": params.pad_multiple,
        "special": asdict(tokenizer.special),
    }
    (io.output / "tokenizer.json").write_text(canonical(description), encoding="utf-8")
    measured = fertility(tokenizer, read_documents(io.input("data/decontaminate/heldout")))
    report = {
        "sample": {language: {"available_bytes": available[language], "share": share[language]} for language in LANGUAGES},
        "heldout": measured,
        "composition": composition(tokenizer),
    }
    (io.output / "report.json").write_text(canonical(report), encoding="utf-8")
    for language, row in measured.items():
        io.log(f"{language}: {row['bytes_per_token']} bytes per token, {row['byte_fallback_share']:.2%} byte pieces (held out)")
    return {"pieces": tokenizer.piece_count, "sample_bytes": dict(used)}


if __name__ == "__main__":
    run_stage("tokenizer", Params, run)

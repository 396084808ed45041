"""A small project with everything that the evaluate stage reads, and its settings there."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from model.checkpoint import write_checkpoint
from model.config import ModelConfig
from model.glm import GLM, initialise
from model.quantization import Scheme, quantize_checkpoint
from model.tokenizer import Tokenizer
from stages._runner import StageIO
from stages.encode import BATCH_TOKENS
from stages.encode import Params as EncodeParams
from stages.encode import run as encode
from stages.evaluate import Params
from stages.evaluate.heldout import Split, every_nth, read_split
from stages.evaluate.settings import Baselines, Cloze
from stages.tokenizer import Params as TokenizerParams
from stages.tokenizer import train
from tests.support.text import documents, text, write_documents

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = TokenizerParams(1500, 0.999, 1, 0.5, True, 4, 16, 15_000, 128, 2, 1)
PARAMS = Params(
    seed=1,
    threads=1,
    batch_positions=2048,
    window=60,
    context=20,
    heldout_tokens=2**40,
    checkpoint_tokens=100,
    bootstrap=200,
    baselines=Baselines(2**40, 1.0, None),
    cloze=Cloze(items=12, context=30, min_context=8, min_sentence=4, min_count=2, frequency_ratio=3.0),
)
DEPS = ["data/encode", "data/pretrain", "data/quantize", "data/tokenizer"]


def make_evaluate_project(root: Path) -> Path:
    """Tokenizer, token shards, two checkpoints and two exports of the last."""
    rows = {
        "train": documents("en", 1, 40, 1500) + documents("zh", 1, 40, 1200),
        "heldout": documents("en", 2, 4, 700) + documents("zh", 2, 5, 500, source="made-zh"),
    }
    for split, table in rows.items():
        write_documents(root / "data/decontaminate" / split, table)
    (root / "data/tokenizer").mkdir()
    spm = root / "data/tokenizer/tokenizer.model"
    spm.write_bytes(train((text("en", 1, 60_000) + "\n" + text("zh", 1, 40_000)).split("\n"), TOKENIZER))
    io = StageIO("encode", root, ["data/decontaminate", "data/tokenizer"], "data/encode")
    io.output.mkdir(parents=True)
    encode(EncodeParams(BATCH_TOKENS), io)
    io.collect()
    io.output.rename(root / "data/encode")
    config = ModelConfig(2, 32, 2, 64, Tokenizer(spm).padded_size(128), 64)
    for step in (5, 10):
        model = GLM(config)
        initialise(model, step)
        folder = root / f"data/pretrain/checkpoints/step-{step:06d}"
        write_checkpoint(folder, model.state_dict(), {"model": asdict(config)}, spm)
    for scheme in (Scheme("int8", 8), Scheme("int4", 4)):
        quantize_checkpoint(root / "data/pretrain/checkpoints/step-000010", root / "data/quantize" / scheme.scheme, scheme)
    return root


def stage_io(root: Path) -> StageIO:
    io = StageIO("evaluate", root, DEPS, "data/evaluate")
    shutil.rmtree(io.output, ignore_errors=True)
    io.output.mkdir(parents=True)
    return io


def splits(project: Path) -> tuple[Split, Split, Tokenizer]:
    folder = project / "data/encode"
    tokenizer = Tokenizer(project / "data/tokenizer/tokenizer.model")
    return read_split(folder, "train", every_nth(2**40)), read_split(folder, "heldout", every_nth(2**40)), tokenizer

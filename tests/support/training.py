"""A small project in which `python -m stages.pretrain` runs for real, without the stages before it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from model.tokenizer import SPECIAL
from stages import pack
from stages._engine import EngineSettings
from stages._manifest import canonical, describe_folder
from stages._params import parse, to_plain
from stages._runner import StageError, StageIO
from stages.pack.kernel import Rules, tokens_before
from stages.pretrain.settings import Params

ROOT = Path(__file__).parents[2]
PACK: dict[str, Any] = {
    "seed": 3, "epochs": 1, "instruction_share": 0.0, "shard_samples": 40,  # three shards: batches cross their borders
    "sequence_length": 64, "blocks": 4, "gmask_row": 62, "mask_row": 52, "gmask_probability": 0.7, "gmask_min_ratio": 0.2,
    "mask_ratio": 0.15, "span_lambda": 3.0, "span_max": 8, "short_probability": 0.02, "short_minimum": 8,
    "single_span_probability": 0.02, "truncation": "keep_all",
}  # fmt: skip
PRETRAIN: dict[str, Any] = {
    "seed": 7,
    "model": {"layers": 2, "hidden": 32, "heads": 2, "ffn": 48, "dropout": 0.1},
    "optimizer": {
        "peak_lr": 3.0e-3, "min_lr": 1.0e-4, "warmup_samples": 16, "decay_samples": 200,
        "beta1": 0.9, "beta2": 0.95, "eps": 1.0e-8, "weight_decay": 0.1, "clip_norm": 1.0,
    },
    "batch_start": 4, "batch_end": 8, "batch_increment": 4, "batch_ramp_samples": 32,
    "steps": 24, "micro_batch": 2, "checkpoint_every": 10, "save_every": 4,
    "embedding_gradient_shrink": 0.1, "precision": "bf16", "zero_stage": 1, "data_parallel": 1, "threads": 1,
}  # fmt: skip


def training_project(root: Path, rows: int = 90, documents: int = 1, **changes: Any) -> Path:
    """Lay out code, parameters, packed samples of made-up tokens and a stand-in for the tokenizer file below `root`."""
    for room in ("stages", "model", "ledger"):
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "dvc.yaml", root / "dvc.yaml")
    (root / "params.yaml").write_text(yaml.safe_dump({"pretrain": PRETRAIN | changes}), encoding="utf-8")
    write_packed(root / "data" / "pack", rows, vocabulary=128, documents=documents)
    tokenizer = root / "data" / "tokenizer"
    tokenizer.mkdir(parents=True)
    (tokenizer / "tokenizer.json").write_text(json.dumps({"padded_size": 128}), encoding="utf-8")
    (tokenizer / "tokenizer.model").write_bytes(b"copied, not read, by training")
    _write_manifest(tokenizer)
    return root


def write_packed(folder: Path, rows: int, vocabulary: int, documents: int = 1) -> None:
    """`rows` sequences over a token stream with structure that a model can learn (each token follows from the last)."""
    settings = parse(pack.Params, PACK, "pack")
    length = int(tokens_before(settings.seed, 0, np.array([rows]), Rules.of(settings.masking()))[0])
    rng = np.random.Generator(np.random.Philox(key=1))
    tokens = np.empty(length, dtype=np.int32)
    tokens[0] = 8
    for index in range(1, len(tokens)):
        jump = 7 if rng.random() < 0.9 else int(rng.integers(1, vocabulary - 8))
        tokens[index] = 8 + (tokens[index - 1] - 8 + jump) % (vocabulary - 8)
    root = folder.parents[1]
    write_encoded(root, tokens, [len(part) for part in np.array_split(tokens, documents)])
    pack_project(root, settings)


def write_encoded(root: Path, tokens: Any, lengths: list[int], shards: int = 1, instructions: list[Any] | None = None) -> None:
    """Token shards and their documents, and instruction samples, below `root`, as encode and instruct leave them."""
    encode, instruct = root / "data/encode", root / "data/instruct"
    encode.mkdir(parents=True)
    instruct.mkdir()
    starts = np.cumsum([0, *lengths])
    of_shard = starts[:-1] * shards // len(tokens)  # no document crosses a shard
    for shard in range(shards):
        part = tokens[np.repeat(of_shard, lengths) == shard]
        with pa.ipc.new_file(str(encode / f"train-{shard:05d}.arrow"), pa.schema([("token", pa.int32())])) as writer:
            for batch in np.array_split(part, [(len(part) + 1) // 2]):  # two record batches, the last not the larger
                writer.write_batch(pa.record_batch([pa.array(batch)], names=["token"]))
    names = [f"made/{number}" for number in range(len(lengths))]
    table = pa.table(
        {
            "doc_index": pa.array(range(len(lengths)), pa.int64()),
            "doc_id": names,
            **{name: [value] * len(lengths) for name, value in (("source", "made"), ("lang", "en"), ("licence", "CC0-1.0"))},
            "shard": pa.array(of_shard, pa.int32()),
            "offset": pa.array(starts[:-1], pa.int64()),
            "length": pa.array(lengths, pa.int32()),
        }
    )
    pq.write_table(table, encode / "train.documents.parquet")
    ids = pa.list_(pa.int32())
    schema = pa.schema([("prompt_ids", ids), ("target_ids", ids), ("doc_index", pa.int64())])
    pq.write_table(pa.Table.from_pylist(instructions or [], schema=schema), instruct / "samples.parquet")
    pq.write_table(table.select(["doc_id", "source", "lang", "licence"]).slice(0, 0), instruct / "documents.parquet")


def pack_project(root: Path, settings: pack.Params, workers: EngineSettings | None = None) -> dict[str, Any]:
    """Run the pack stage and move its output into place, with a manifest; gives its counts."""
    io = StageIO("pack", root, ["data/encode", "data/instruct"], "data/pack", workers)
    io.output.mkdir(parents=True)
    counts = pack.run(settings, io)
    io.engine.close()
    io.collect()
    io.forget()
    io.output.rename(root / "data/pack")
    _write_manifest(root / "data/pack", params=to_plain(settings))
    return counts


def run_stage(root: Path, stage: str = "pretrain", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a stage of the project to its end."""
    command = [sys.executable, "-m", f"stages.{stage}"]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=300, check=False)


def train_in_child(root: Path, before: Callable[..., None] | None = None, *args: Any) -> tuple[int, str]:
    """Train as the stage does, in a fork of a process that has imported what is slow.

    Args:
        root: a project of `training_project`.
        before: run in the child before the training, `before(*args)`: where a test plants a kill or a fault.

    Returns:
        The child's exit code (negative for a signal), and what it said.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.distributed_imports"])
    log = root / "child.log"
    child = context.Process(target=_train, args=(root, log, before, args))
    child.start()
    child.join(240)
    if child.is_alive():
        child.kill()
        child.join()
    assert child.exitcode is not None
    return child.exitcode, log.read_text(encoding="utf-8", errors="replace")


def _train(root: Path, log: Path, before: Callable[..., None] | None, args: tuple[Any, ...]) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from stages.pretrain import __main__ as stage

    params = parse(Params, yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))["pretrain"], "pretrain")
    io = StageIO("pretrain", root, ["data/pack", "data/tokenizer", "data/encode"], "data/pretrain")
    io.output.mkdir(parents=True, exist_ok=True)
    if before is not None:
        before(*args)
    try:
        stage.run(params, io)
    except StageError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(1)
    io.output.rename(root / "data/pretrain")
    os._exit(0)


def scratch_of(root: Path) -> Path:
    """The one scratch folder of a project's training."""
    (folder,) = (path for path in (root / "runs/pretrain/scratch").iterdir() if path.is_dir())
    return folder


def weights(root: Path) -> dict[str, str]:
    """SHA-256 of every file of the training's output."""
    return {name: entry["sha256"] for name, entry in describe_folder(root / "data" / "pretrain").items()}


def _write_manifest(folder: Path, **more: Any) -> None:
    manifest = {"stage": folder.name, "files": describe_folder(folder), **more}
    (folder / "manifest.json").write_text(canonical(manifest), encoding="utf-8")


assert SPECIAL.eop < 8, "made-up tokens start behind the special ones"

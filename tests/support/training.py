"""A small project in which `python -m stages.pretrain` runs for real, without the stages before it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from model.masking import MaskingConfig
from model.tokenizer import SPECIAL
from stages import pack
from stages._manifest import canonical, describe_folder

ROOT = Path(__file__).parents[2]
MASKING = MaskingConfig(64, 4, 62, 52, 0.7, 0.2, 0.15, 3.0, 8, 0.02, 8, 0.02)
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


def training_project(root: Path, **changes: Any) -> Path:
    """Lay out code, parameters, packed samples of made-up tokens and a stand-in for the tokenizer file below `root`."""
    for room in ("stages", "model", "ledger"):
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "dvc.yaml", root / "dvc.yaml")
    (root / "params.yaml").write_text(yaml.safe_dump({"pretrain": PRETRAIN | changes}), encoding="utf-8")
    write_packed(root / "data" / "pack", rows=90, vocabulary=128)
    tokenizer = root / "data" / "tokenizer"
    tokenizer.mkdir(parents=True)
    (tokenizer / "tokenizer.json").write_text(json.dumps({"padded_size": 128}), encoding="utf-8")
    (tokenizer / "tokenizer.model").write_bytes(b"copied, not read, by training")
    _write_manifest(tokenizer)
    return root


def write_packed(folder: Path, rows: int, vocabulary: int) -> None:
    """`rows` sequences over a token stream with structure that a model can learn (each token follows from the last)."""
    folder.mkdir(parents=True)
    rng = np.random.Generator(np.random.Philox(key=1))
    tokens = np.empty(rows * MASKING.gmask_row, dtype=np.int32)
    tokens[0] = 8
    for index in range(1, len(tokens)):
        jump = 7 if rng.random() < 0.9 else int(rng.integers(1, vocabulary - 8))
        tokens[index] = 8 + (tokens[index - 1] - 8 + jump) % (vocabulary - 8)
    stream = pack.Stream(tokens, np.array([0, len(tokens)]))
    plan = pack.plan_epoch(3, 0, len(tokens), MASKING)
    packer = pack.Packer(folder, MASKING, shard_samples=40)  # three shards: batches cross their borders
    for row in range(rows):
        packer.add(pack.text_sample(stream, plan, 3, 0, row, MASKING), 0, [(0, 0, 1)])
    packer.close()
    facts = {"samples_per_epoch": rows, "epochs": 1, "sequence_length": 64, "blocks": 4, "seed": 3}
    (folder / "pack.json").write_text(canonical(facts), encoding="utf-8")
    _write_manifest(folder)


def run_stage(root: Path, stage: str = "pretrain", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a stage of the project to its end."""
    command = [sys.executable, "-m", f"stages.{stage}"]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=300, check=False)


def weights(root: Path) -> dict[str, str]:
    """SHA-256 of every file of the training's output."""
    return {name: entry["sha256"] for name, entry in describe_folder(root / "data" / "pretrain").items()}


def _write_manifest(folder: Path) -> None:
    manifest = {"stage": folder.name, "files": describe_folder(folder)}
    (folder / "manifest.json").write_text(canonical(manifest), encoding="utf-8")


assert SPECIAL.eop < 8, "made-up tokens start behind the special ones"

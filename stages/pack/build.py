"""Lays the samples out and has them written, shard by shard."""

from __future__ import annotations

from typing import Any

import numpy as np

from model.packed import GMASK_KIND, INSTRUCTION_KIND, MASK_KIND
from stages._errors import StageError
from stages._manifest import canonical, write_atomic
from stages._runner import StageIO
from stages.pack.kernel import BEYOND, LOST, SAMPLES, TARGETS, Rules
from stages.pack.layout import Layout
from stages.pack.params import Params
from stages.pack.shard import Task, batch_rows, write_shard
from stages.pack.sources import INSTRUCTIONS, TABLE, index_documents, index_instructions, lay_ring

KINDS = {GMASK_KIND: "gmask", MASK_KIND: "mask", INSTRUCTION_KIND: "instruction"}


def build(params: Params, io: StageIO) -> dict[str, Any]:
    """Pack all epochs and return the counts."""
    config = params.masking()
    rules = Rules.of(config)
    ring = lay_ring(io.shards("data/encode", "train-*.arrow"))
    for name in (TABLE, INSTRUCTIONS):
        io.input(name)  # or says that it is not there
    (table,), (samples,) = io.shards("data/encode", "train.documents.parquet"), io.shards("data/instruct", "samples.parquet")
    documents = index_documents(table, ring, io.work("documents"))
    instructions = index_instructions(samples, config.sequence_length // config.blocks, io.work("instructions.arrow"))
    if ring.tokens < config.gmask_row:
        raise StageError(f"{ring.tokens} train tokens do not fill one row of {config.gmask_row}", file="data/encode")
    layout = Layout.of(params.seed, params.epochs, ring.tokens, params.instruction_share, instructions.count, rules)
    tasks = [
        Task(
            io.target(f"samples-{number:05d}.arrow"), io.target(f"pieces-{number:05d}.parquet"), number * params.shard_samples,
            tuple(stretches), params.seed, config, ring, documents, instructions,
        )
        for number, stretches in enumerate(layout.stretches(params.shard_samples, batch_rows(config), rules))
    ]  # fmt: skip
    results = io.map(write_shard, tasks, label="packing", key="pack")
    facts = {
        "samples_per_epoch": layout.samples,
        "text_samples_per_epoch": layout.text,
        "epochs": params.epochs,
        "shard_samples": params.shard_samples,
        "sequence_length": config.sequence_length,
        "blocks": config.blocks,
        "seed": params.seed,
    }
    write_atomic(io.output / "pack.json", canonical(facts))
    tally = np.sum([result["tally"] for result in results], axis=0, dtype=np.int64).reshape(3, 4)
    left = [layout.left_over(epoch, rules) for epoch in range(params.epochs)]
    return {**counts(tally), "train_tokens": ring.tokens, "tokens_left_over_per_epoch": left}


def counts(tally: Any) -> dict[str, Any]:
    """By kind: samples, targets in each, targets that were cut off, and those that blocks of equal size would have cut off."""
    found: dict[str, Any] = {f"{name}_samples": int(tally[kind, SAMPLES]) for kind, name in KINDS.items()}
    names = {TARGETS: "targets", LOST: "targets_lost", BEYOND: "targets_beyond_block"}
    for kind, name in KINDS.items():
        if tally[kind, SAMPLES]:
            shares = {f"{name}_{said}_per_sample": tally[kind, column] for column, said in names.items()}
            found |= {said: round(int(number) / int(tally[kind, SAMPLES]), 2) for said, number in shares.items()}
    return found

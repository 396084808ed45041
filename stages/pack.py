"""Packs token shards and instruction samples into training sequences, with provenance.

Reads:    data/encode (train), data/instruct
Writes:   data/pack: samples-*.arrow, pieces.parquet, pack.json (docs/data.md)
Params:   pack
Promises: every sample can be made again alone from (seed, epoch, sample); each text token of a sample is traced to a document;
          no target is cut; the same inputs give the same bytes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model import masking
from model.masking import Draws, MaskingConfig, Sample
from model.tokenizer import SPECIAL
from stages._manifest import canonical, write_atomic
from stages._params import Fraction, Positive, Range, Seed
from stages._runner import StageError, StageIO, run_stage

_BATCH = 4096
_STREAM_START = 2**63 - 1  # the "sample" whose draw turns an epoch's token ring; real samples never get that far


@dataclass(frozen=True)
class Params:
    """Section `pack`; the fields that masking uses are explained in `model.masking.MaskingConfig`."""

    seed: Seed
    epochs: Annotated[int, Range(1, 1000)]
    instruction_share: Annotated[float, Range(0.0, 0.5)]
    shard_samples: Positive
    sequence_length: Annotated[int, Range(32, 131_072)]
    blocks: Annotated[int, Range(1, 64)]
    gmask_row: Positive
    mask_row: Positive
    gmask_probability: Fraction
    gmask_min_ratio: Fraction
    mask_ratio: Annotated[float, Range(0.01, 0.9)]
    span_lambda: Annotated[float, Range(0.1, 100.0)]
    span_max: Positive
    short_probability: Fraction
    short_minimum: Positive
    single_span_probability: Fraction

    def __post_init__(self) -> None:
        self.masking()  # refuses combinations that do not fit a sequence

    def masking(self) -> MaskingConfig:
        """The fields that decide how one sample is made."""
        return MaskingConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(MaskingConfig)})


@dataclass(frozen=True)
class Stream:
    """All train tokens in one ring, and where each document begins."""

    tokens: NDArray[np.int32]
    document_start: NDArray[np.int64]

    def pieces(self, start: int, length: int) -> list[tuple[int, int, int]]:
        """(doc_index, offset in the document, tokens) of the documents under ring positions [start, start + length)."""
        found = []
        while length > 0:
            start %= len(self.tokens)
            document = int(np.searchsorted(self.document_start, start, side="right")) - 1
            end = int(self.document_start[document + 1])
            taken = min(end - start, length)
            found.append((document, start - int(self.document_start[document]), taken))
            start, length = start + taken, length - taken
        return found


@dataclass(frozen=True)
class EpochPlan:
    """Where the rows of one masking epoch lie on the ring: row i takes `length[i]` tokens from `start[i]` on."""

    kind: NDArray[np.int8]
    start: NDArray[np.int64]
    length: NDArray[np.int64]


def plan_epoch(seed: int, epoch: int, tokens: int, config: MaskingConfig) -> EpochPlan:
    """Draw each row's objective and lay the rows end to end, from a start of the epoch's own.

    A row's length depends on its objective, so that neither kind pads; turning the ring each epoch puts the cuts between
    rows elsewhere and leaves other tokens over at the end.
    """
    most = tokens // min(config.gmask_row, config.mask_row)
    kind = np.array([masking.sample_kind(Draws(seed, epoch, row), config) for row in range(most)], dtype=np.int8)
    length = np.where(kind == masking.GMASK_KIND, config.gmask_row, config.mask_row).astype(np.int64)
    end = np.cumsum(length)
    rows = int(np.searchsorted(end, tokens, side="right"))
    turn = Draws(seed, epoch, _STREAM_START).below(tokens)
    return EpochPlan(kind[:rows], (end[:rows] - length[:rows] + turn) % tokens, length[:rows])


def text_sample(stream: Stream, plan: EpochPlan, seed: int, epoch: int, row: int, config: MaskingConfig) -> Sample:
    """Make self-supervised sample `row` of `epoch`; depends on nothing but its arguments."""
    draws = Draws(seed, epoch, row)
    masking.sample_kind(draws, config)  # the first draw is spent on the plan
    tokens = stream.tokens.take(np.arange(plan.start[row], plan.start[row] + plan.length[row]), mode="wrap")
    make = masking.gmask_sample if plan.kind[row] == masking.GMASK_KIND else masking.mask_sample
    return make(tokens, draws, config, SPECIAL)


def instruction_rows(seed: int, epoch: int, sample: int, available: int, config: MaskingConfig) -> list[int]:
    """Which instruction samples share sequence `sample`: drawn by size, with replacement, as published (facts 3.6)."""
    draws = Draws(seed, epoch, sample)
    return [draws.below(available) for _ in range(config.blocks)]


class Packer:
    """Collects samples and writes them as Arrow record batches, with the pieces table beside."""

    def __init__(self, folder: Path, config: MaskingConfig, shard_samples: int) -> None:
        self.folder, self.config, self.shard_samples = folder, config, shard_samples
        self.schema = sample_schema(config)
        self.pending: list[tuple[Sample, int]] = []
        self.pieces: list[tuple[int, int, int, int]] = []
        self.written = 0
        self.targets = [0, 0, 0]
        self.kinds = [0, 0, 0]
        self._writer: Any = None

    def add(self, sample: Sample, epoch: int, pieces: list[tuple[int, int, int]]) -> None:
        """Append one sample and the documents behind it."""
        number = self.written + len(self.pending)
        self.pieces += [(number, *piece) for piece in pieces]
        self.pending.append((sample, epoch))
        self.kinds[sample.kind] += 1
        self.targets[sample.kind] += int((sample.target_ids != masking.NO_TARGET).sum())
        if len(self.pending) == min(_BATCH, self.shard_samples):
            self._flush()

    def close(self) -> None:
        """Write what is pending and the pieces table."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
        columns = np.array(self.pieces, dtype=np.int64).reshape(-1, 4).T
        types = {"sample": pa.int64(), "doc_index": pa.int64(), "doc_offset": pa.int32(), "length": pa.int32()}
        table = pa.table({name: pa.array(column).cast(types[name]) for name, column in zip(types, columns, strict=True)})
        pq.write_table(table, self.folder / "pieces.parquet", compression="zstd")

    def _flush(self) -> None:
        if not self.pending:
            return
        if self.written % self.shard_samples == 0:
            if self._writer is not None:
                self._writer.close()
            name = f"samples-{self.written // self.shard_samples:05d}.arrow"
            self._writer = pa.ipc.new_file(str(self.folder / name), self.schema)
        samples = [sample for sample, _ in self.pending]
        columns = [_fixed_size(samples, field.name) for field in self.schema if field.name not in ("kind", "epoch")]
        columns += [pa.array([s.kind for s in samples], pa.int8()), pa.array([e for _, e in self.pending], pa.int32())]
        self._writer.write_batch(pa.record_batch(columns, schema=self.schema))
        self.written += len(samples)
        self.pending = []


def sample_schema(config: MaskingConfig) -> pa.Schema:
    """Arrow schema of packed samples (docs/data.md)."""
    sizes = {
        "input_ids": config.sequence_length,
        "target_ids": config.sequence_length,
        "position_ids": config.sequence_length,
        "block_start": config.blocks + 1,
        "block_context": config.blocks,
    }
    lists = [pa.field(name, pa.list_(pa.int32(), size)) for name, size in sizes.items()]
    return pa.schema([*lists, pa.field("kind", pa.int8()), pa.field("epoch", pa.int32())])


def _fixed_size(samples: list[Sample], name: str) -> pa.FixedSizeListArray:
    values = np.stack([getattr(sample, name) for sample in samples])
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _load_stream(encode: Path) -> Stream:
    shards = sorted(encode.glob("train-*.arrow"))
    columns = [pa.ipc.open_file(pa.memory_map(str(shard))).read_all()["token"] for shard in shards]
    tokens = np.concatenate([column.to_numpy() for column in columns]) if columns else np.zeros(0, np.int32)
    table = pq.read_table(encode / "train.documents.parquet", columns=["offset", "length"])
    offset, length = table["offset"].to_numpy(), table["length"].to_numpy()
    start = np.append(offset, offset[-1] + length[-1] if len(offset) else 0).astype(np.int64)
    if start[-1] != len(tokens) or (np.diff(start) != length).any():
        raise StageError(
            f"documents cover {start[-1]} tokens, shards hold {len(tokens)}",
            file="data/encode/train.documents.parquet",
            remedy="run `dvc repro --force encode`",
        )
    return Stream(tokens, start)


def _load_instructions(folder: Path, config: MaskingConfig) -> list[tuple[NDArray[np.int32], NDArray[np.int32], int]]:
    table = pq.read_table(folder / "samples.parquet", columns=["prompt_ids", "target_ids", "doc_index"])
    limit = config.sequence_length // config.blocks
    rows = []
    for index, row in enumerate(table.to_pylist()):
        prompt, target = np.array(row["prompt_ids"], np.int32), np.array(row["target_ids"], np.int32)
        if len(prompt) + len(target) + 1 > limit or len(prompt) == 0 or prompt[-1] != SPECIAL.mask:
            raise StageError(
                f"an instruction sample needs a prompt that ends in [MASK] and at most {limit} positions with its target",
                file="data/instruct/samples.parquet",
                row=index,
                remedy="make instruct.block_length fit pack.sequence_length / pack.blocks",
            )
        rows.append((prompt, target, row["doc_index"]))
    return rows


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Pack every epoch: its self-supervised rows first, its instruction sequences behind them."""
    config = params.masking()
    stream = _load_stream(io.input("data/encode"))
    instructions = _load_instructions(io.input("data/instruct"), config)
    if len(stream.tokens) < config.gmask_row:
        raise StageError(f"{len(stream.tokens)} train tokens do not fill one row of {config.gmask_row}", file="data/encode")
    plans = [plan_epoch(params.seed, epoch, len(stream.tokens), config) for epoch in range(params.epochs)]
    text_rows = min(len(plan.kind) for plan in plans)  # equal epochs: the order formula permutes [0, N) in each
    share = params.instruction_share
    instruction_count = round(text_rows * share / (1 - share)) if instructions else 0
    packer = Packer(io.output, config, params.shard_samples)
    total = (text_rows + instruction_count) * params.epochs
    with io.progress("packing", total, "samples") as progress:
        for epoch, plan in enumerate(plans):
            for row in range(text_rows):
                sample = text_sample(stream, plan, params.seed, epoch, row, config)
                start = int(plan.start[row])
                pieces = [piece for at, length in sample.spent for piece in stream.pieces(start + at, length)]
                packer.add(sample, epoch, pieces)
                progress.advance()
            for number in range(text_rows, text_rows + instruction_count):
                chosen = instruction_rows(params.seed, epoch, number, len(instructions), config)
                packed = masking.instruction_sample([instructions[index][:2] for index in chosen], config, SPECIAL)
                origin = [(instructions[i][2], 0, len(instructions[i][0]) + len(instructions[i][1])) for i in chosen]
                packer.add(packed, epoch, origin)
                progress.advance()
    packer.close()
    facts = {
        "samples_per_epoch": text_rows + instruction_count,
        "text_samples_per_epoch": text_rows,
        "epochs": params.epochs,
        "sequence_length": config.sequence_length,
        "blocks": config.blocks,
        "seed": params.seed,
    }
    write_atomic(io.output / "pack.json", canonical(facts))
    names = ("gmask", "mask", "instruction")
    counts: dict[str, Any] = {f"{name}_samples": packer.kinds[kind] for kind, name in enumerate(names)}
    for kind, name in enumerate(names):
        if packer.kinds[kind]:
            counts[f"{name}_targets_per_sample"] = round(packer.targets[kind] / packer.kinds[kind], 2)
    used = [int(plan.length[:text_rows].sum()) for plan in plans]
    return {**counts, "train_tokens": len(stream.tokens), "tokens_left_over_per_epoch": [len(stream.tokens) - u for u in used]}


if __name__ == "__main__":
    run_stage("pack", Params, run)

"""`glm replay`: one packed sample as a person reads it, made again from tokens, parameters and key, compared with its row."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from ledger import LedgerError
from ledger.plan import DataPlan
from model.masking import GMASK_KIND, INSTRUCTION_KIND, MASK_KIND, NO_TARGET, Sample
from model.packed import Stored, targets_and_positions
from model.tokenizer import PIECES, SPECIAL, Tokenizer
from stages._errors import StageError, damaged
from stages._packed import columns, open_samples
from stages._params import ParamsError, parse
from stages._texts import MODEL, load_tokenizer
from stages.pack.definition import Piece, Source, read_table
from stages.pack.params import Params
from stages.pack.sources import INSTRUCTIONS, TABLE

KINDS = {GMASK_KIND: "[gMASK]", MASK_KIND: "[MASK]", INSTRUCTION_KIND: "instruction"}
_BLANKS = (SPECIAL.mask, SPECIAL.gmask)
_SHOWN = {SPECIAL.eod: PIECES["eod"], SPECIAL.eop: PIECES["eop"]}

app = typer.Typer(help="Print one packed sample.", add_completion=False)


@dataclass(frozen=True)
class Row:
    """What data/pack holds of one sample: the stored columns, what follows from them, and the documents."""

    stored: Stored
    targets: Any
    positions: Any
    epoch: int
    pieces: list[Piece]


@dataclass(frozen=True)
class Blank:
    """One blank: its number in the block, the position of its tokens, the tokens to predict and their text."""

    blank: int
    positions: list[int]
    targets: list[int]
    text: str


@dataclass(frozen=True)
class Block:
    """One block: the context with its blanks marked, its ids (positions count from 0), and the blanks as they are learnt."""

    context: str
    context_ids: list[int]
    blanks: list[Blank]


class Project:
    """The packed samples of a project and what they were made of."""

    def __init__(self, root: Path) -> None:
        """Open it.

        Raises:
            StageError: a file is absent.
        """
        self.root = root
        manifest = self._json("data/pack/manifest.json")
        self.params = parse(Params, manifest["params"], "data/pack/manifest.json")
        self.source = Source(self.params, self._path("data/encode"), self._path("data/instruct"))
        self.facts = self._json("data/pack/pack.json")

    def row_of_step(self, step: int, place: int) -> int:
        """Row of the packed samples that stands at `place` in the batch of `step`, both from 0.

        Raises:
            StageError: the batch is smaller, or the plan is one over other samples.
            LedgerError: there is no plan.
        """
        plan = DataPlan.read(self.root / "data/pretrain/plan.json")
        manifest = self._path("data/pack/manifest.json")
        if hashlib.sha256(manifest.read_bytes()).hexdigest() != plan.pack_manifest_sha256:
            raise StageError("the data plan was made for other samples", file=manifest, remedy="run `dvc checkout`")
        rows = plan.rows(step)
        if not 0 <= place < len(rows):
            raise StageError(f"the batch of step {step} has rows 0 to {len(rows) - 1}, not {place}")
        return int(rows[place])

    def stored(self, row: int) -> Row:
        """What lies in data/pack.

        Raises:
            StageError: a shard is absent, damaged, or ends before the row.
        """
        shard, inside = divmod(row, self.params.shard_samples)
        name, pieces_name = f"data/pack/samples-{shard:05d}.arrow", f"data/pack/pieces-{shard:05d}.parquet"
        reader = open_samples(self._path(name), name)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            if inside < len(batch):
                break
            inside -= len(batch)
        else:
            raise StageError(f"row {row} is not there", file=name, remedy="run `dvc repro --force pack`")
        one = batch.slice(inside, 1)
        stored = Stored(*(np.array(column) for column in columns(one)))
        epoch = int(one["epoch"][0].as_py())
        pieces = read_table(self._path(pieces_name), pieces_name, filters=[("sample", "=", row)])
        found = [(piece["doc_index"], piece["doc_offset"], piece["length"]) for piece in pieces.to_pylist()]
        targets, positions = targets_and_positions(stored)
        return Row(stored, targets[0], positions[0], epoch, found)

    def replay(self, row: int) -> dict[str, Any]:
        """The sample of a row made again, how it differs from the row (nothing, if all is well), and how it reads.

        Raises:
            StageError: there is no such row, or what it is made of is absent, damaged or of another build.
        """
        for name in (TABLE, INSTRUCTIONS, MODEL):
            self._path(name)
        layout = self.source.layout
        if (layout.samples, layout.epochs) != (self.facts["samples_per_epoch"], self.facts["epochs"]):
            raise StageError(
                f"data/encode and data/instruct give {layout.samples} samples an epoch, data/pack has "
                f"{self.facts['samples_per_epoch']}: they are of different builds, or token shards are absent",
                file="data/pack/pack.json",
                remedy="run `dvc repro` or `dvc checkout` in the project's folder",
            )
        total = layout.samples * layout.epochs
        if not 0 <= row < total:
            raise StageError(f"there are samples 0 to {total - 1}, not {row}", file="data/pack")
        epoch, number = divmod(row, layout.samples)
        sample, pieces = self.source.sample(epoch, number)
        tokenizer = load_tokenizer(str(self._path(MODEL)))
        return {
            "row": row,
            "epoch": epoch,
            "sample": number,
            "seed": self.params.seed,
            "kind": KINDS[sample.kind],
            "positions": int((sample.input_ids != SPECIAL.pad).sum()),
            "targets": int((sample.target_ids != NO_TARGET).sum()),
            "differs": differences(sample, epoch, pieces, self.stored(row)),
            "blocks": [asdict(block) for block in blocks(sample, tokenizer)],
            "documents": self._documents(pieces),
        }

    def _documents(self, pieces: list[Piece]) -> list[dict[str, Any]]:
        columns = ["doc_id", "source", "licence"]
        tables = (TABLE, "data/instruct/documents.parquet")
        names = pa.concat_tables([read_table(self._path(table), table, columns=columns) for table in tables])
        return [
            {**names.slice(index, 1).to_pylist()[0], "doc_offset": offset, "length": length} for index, offset, length in pieces
        ]

    def _path(self, name: str) -> Path:
        path = self.root / name
        if not path.exists():
            raise StageError("it is not here", file=name, remedy="run `dvc repro` or `dvc checkout` in the project's folder")
        return path

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self._path(name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise damaged(error, name, "run `dvc repro --force pack`") from error


def differences(sample: Sample, epoch: int, pieces: list[Piece], row: Row) -> list[str]:
    """Names of what differs between a sample made again and its row, with targets and positions as training derives them."""
    stored = {name: column[0] for name, column in row.stored._asdict().items()}
    held = {**stored, "target_ids": row.targets, "position_ids": row.positions}
    found = [name for name, values in held.items() if not np.array_equal(getattr(sample, name), values)]
    return found + ["epoch"] * (epoch != row.epoch) + ["pieces"] * (pieces != row.pieces)


def blocks(sample: Sample, tokenizer: Tokenizer) -> list[Block]:
    """The blocks of a sample in words; unused ones are left out."""
    found = []
    for index, context in enumerate(sample.block_context.tolist()):
        start, end = sample.block_start[index : index + 2].tolist()
        if start == end:
            continue
        end = start + int((sample.input_ids[start:end] != SPECIAL.pad).sum())  # a published block is padded behind
        ids = sample.input_ids[start : start + context].tolist()
        rest = slice(start + context, end)
        arrays = [array[rest].tolist() for array in (sample.input_ids, sample.target_ids, sample.position_ids)]
        found.append(Block(_context(ids, tokenizer), ids, _blanks(tokenizer, ids, *arrays)))
    return found


def _context(ids: list[int], tokenizer: Tokenizer) -> str:
    blanks = [place for place, token in enumerate(ids) if token in _BLANKS]
    parts = [ids[start:end] for start, end in zip([0, *(place + 1 for place in blanks)], [*blanks, len(ids)], strict=True)]
    text = [_words(part, tokenizer) for part in parts]
    return text[0] + "".join(f"⟦{number}⟧{part}" for number, part in enumerate(text[1:], 1))


def _words(ids: list[int], tokenizer: Tokenizer) -> str:
    """Text of ids; the ends of documents and of spans are shown as they are spelled."""
    text, run = "", 0
    for place, token in enumerate(ids):
        if token in _SHOWN:
            text += tokenizer.decode(ids[run:place]) + _SHOWN[token]
            run = place + 1
    return text + tokenizer.decode(ids[run:])


def _blanks(tokenizer: Tokenizer, context: list[int], ids: list[int], targets: list[int], positions: list[int]) -> list[Blank]:
    """The spans in the order in which they are learnt; each begins with `sop`, at its blank or behind the context."""
    places = [place for place, token in enumerate(context) if token in _BLANKS]
    starts = [place for place, token in enumerate(ids) if token == SPECIAL.sop]
    found = []
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        blank = places.index(positions[start]) + 1 if positions[start] in places else 1
        span = targets[start:end]
        found.append(Blank(blank, positions[start:end], span, _words(span, tokenizer)))
    return found


def text_of(replayed: dict[str, Any]) -> str:
    """What is printed."""
    name = f"epoch {replayed['epoch']}, sample {replayed['sample']}, row {replayed['row']}"
    lines = [f"{replayed['kind']} sample: {name}; {replayed['positions']} positions used, {replayed['targets']} with a target"]
    key = f"made again from data/encode and data/instruct by (seed {replayed['seed']}, {name})"
    differs = ", ".join(replayed["differs"])
    lines.append(f"{key}: {f'DIFFERS from its row in data/pack: {differs}' if differs else 'equal to its row in data/pack'}")
    for number, block in enumerate(replayed["blocks"], 1):
        lines += ["", f"block {number}: context, positions 0 to {len(block['context_ids']) - 1}", block["context"]]
        for blank in block["blanks"]:
            first, last = blank["positions"][0], blank["positions"][-1]
            where = f"position {first}" if first == last else f"positions {first} to {last}"
            lines.append(f"  ⟦{blank['blank']}⟧ at {where}: {blank['text']}")
    lines += ["", "documents"]
    for document in replayed["documents"]:
        end = document["doc_offset"] + document["length"] - 1
        origin = f"{document['source']}, {document['licence']}"
        lines.append(f"  {document['doc_id']} ({origin}): tokens {document['doc_offset']} to {end}")
    return "\n".join(lines)


@app.command()
def replay(
    sample: Annotated[int | None, typer.Option(help="Number of the sample: in its epoch, or else through all epochs.")] = None,
    epoch: Annotated[int | None, typer.Option(help="Masking epoch that --sample counts in.")] = None,
    step: Annotated[int | None, typer.Option(help="Step of the training, from 0; with --row.")] = None,
    row: Annotated[int | None, typer.Option(help="Place in the batch of --step, from 0.")] = None,
    project: Annotated[Path, typer.Option(help="Folder of the project.", file_okay=False)] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with ids.")] = False,
) -> None:
    """Print one packed sample: text with its blanks, targets, positions, documents. It is made again and compared."""
    if (sample is None) == (step is None) or (step is None) != (row is None) or (epoch is not None and sample is None):
        raise typer.BadParameter("give --sample (and --epoch), or --step and --row")
    try:
        opened = Project(project)
        if step is not None and row is not None:
            number = opened.row_of_step(step, row)
        else:
            number = (sample or 0) + (epoch or 0) * opened.facts["samples_per_epoch"]
            if epoch is not None and not 0 <= (sample or 0) < opened.facts["samples_per_epoch"]:
                raise StageError(f"an epoch has samples 0 to {opened.facts['samples_per_epoch'] - 1}, not {sample}")
        found = opened.replay(number)
    except (StageError, LedgerError, ParamsError, ValueError) as error:
        typer.echo(f"ERROR: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(json.dumps(found, ensure_ascii=False) if as_json else text_of(found))
    if found["differs"]:
        raise typer.Exit(1)

"""What samples are made of, by place: the ring of all training tokens, where each document lies on it, instruction samples.

Nothing is held whole. Tokens are read from the record batches that a window touches, document starts from a flat file with a
sparse index, instruction samples from record batches of one size; the last two are written once, before any sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.tokenizer import SPECIAL
from stages import _documents, _storage
from stages._errors import StageError

TABLE = "data/encode/train.documents.parquet"
INSTRUCTIONS = "data/instruct/samples.parquet"
_SPARSE = 4096  # documents for each entry of the index
_ROWS = 65_536  # instruction samples in a record batch
_REBUILD = "run `dvc repro --force encode`"
_INSTRUCTION_SCHEMA = pa.schema([("ids", pa.list_(pa.int32())), ("prompt", pa.int32()), ("doc_index", pa.int64())])
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """A token shard: its address, first token on the ring, tokens, and tokens in each of its record batches but the last."""

    address: str
    first: int
    tokens: int
    batch: int

    @property
    def name(self) -> str:
        """As messages call it."""
        return f"data/encode/{self.address.rpartition('/')[2]}"


@dataclass(frozen=True)
class Ring:
    """All training tokens, closed to a ring."""

    shards: tuple[Shard, ...]

    @property
    def tokens(self) -> int:
        """Tokens on it."""
        return self.shards[-1].first + self.shards[-1].tokens if self.shards else 0

    def take(self, start: int, length: int) -> NDArray[np.int32]:
        """The `length` tokens from `start` on, past the end to the beginning.

        Raises:
            StageError: a shard is not what it was when the ring was laid out.
        """
        out = np.empty(length, np.int32)
        starts = [shard.first for shard in self.shards]
        done = 0
        while done < length:
            place = (start + done) % self.tokens
            shard = self.shards[int(np.searchsorted(starts, place, side="right")) - 1]
            done += self._copy(shard, place - shard.first, out[done:])
        return out

    def _copy(self, shard: Shard, at: int, out: NDArray[np.int32]) -> int:
        taken = min(len(out), shard.tokens - at)
        with _opened(shard.address, shard.name) as reader:
            done = 0
            while done < taken:
                number, inside = divmod(at + done, shard.batch)
                part = reader.get_batch(number).column(0).to_numpy()[inside : inside + taken - done]
                out[done : done + len(part)] = part
                done += len(part)
        return taken


def lay_ring(addresses: Sequence[str]) -> Ring:
    """The ring over token shards, in the order of their names.

    Raises:
        StageError: a shard is damaged, or its record batches differ in size.
    """
    shards: list[Shard] = []
    first = 0
    for address in addresses:
        with _opened(address, f"data/encode/{address.rpartition('/')[2]}") as reader:
            count = reader.num_record_batches
            size = reader.get_batch(0).num_rows if count else 1
            last = reader.get_batch(count - 1).num_rows if count else 0
        if last > size:
            raise StageError("its last record batch is the largest", file=address.rpartition("/")[2], remedy=_REBUILD)
        tokens = max(0, count - 1) * size + last
        shards.append(Shard(address, first, tokens, max(1, size)))
        first += tokens
    return Ring(tuple(shard for shard in shards if shard.tokens))


@dataclass(frozen=True)
class Documents:
    """Where documents begin on the ring: a flat file of int64, and every 4,096th of its numbers in another.

    Attributes:
        starts, index: addresses of the two.
        count: documents.
        tokens: of all of them, which is the ring's.
    """

    starts: str
    index: str
    count: int
    tokens: int

    def within(self, start: int, length: int) -> tuple[int, Numbers]:
        """(first document, bounds) of the window [start, start + length) of the ring.

        `bounds` counts from `start`: where the first document begins (at most 0) and those behind it, past the ring's end too,
        then where the last ends.
        """
        first = self._at(start)
        stop = start + length
        parts = [self._starts(first, self._at(min(stop, self.tokens) - 1) + 1)]
        if stop > self.tokens:
            parts.append(self._starts(0, self._at(stop - self.tokens - 1) + 1) + self.tokens)
        last = first + sum(map(len, parts)) - 1
        after = (last + 1) % self.count
        end = int(self._starts(after, after + 1)[0]) if after else self.tokens
        bounds = np.concatenate([*parts, [end + self.tokens * (stop > self.tokens)]])
        return first, bounds - start

    def _at(self, place: int) -> int:
        """The last document that begins at or before `place`."""
        with _storage.open_input(self.index) as stream:
            sparse = np.frombuffer(stream.read(), np.int64)
        near = max(0, int(np.searchsorted(sparse, place, side="right")) - 1) * _SPARSE
        starts = self._starts(near, min(self.count, near + _SPARSE))
        return near + int(np.searchsorted(starts, place, side="right")) - 1

    def _starts(self, first: int, end: int) -> Numbers:
        with _storage.open_input(self.starts) as stream:
            stream.seek(8 * first)
            return np.frombuffer(stream.read(8 * (end - first)), np.int64)


def index_documents(table: str, ring: Ring, folder: str) -> Documents:
    """Write the starts of all documents below `folder`, and see that they cover the ring.

    Raises:
        StageError: the table has gaps, or the shards hold other tokens than it says.
    """
    starts, index = _storage.join(folder, "starts"), _storage.join(folder, "index")
    sparse: list[int] = []
    count = reached = 0
    by_shard: Counter[int] = Counter()
    with _storage.atomic_output(starts) as stream:
        for batch in _documents.read_batches(table, ["offset", "length", "shard"]):
            offset, length, shard = (batch[name].to_numpy().astype(np.int64) for name in ("offset", "length", "shard"))
            gap = np.flatnonzero(offset != reached + np.cumsum(length) - length)
            if len(gap) or (length < 0).any():
                row = count + int(gap[0]) if len(gap) else count
                raise StageError("documents do not follow each other without gaps", file=TABLE, row=row, remedy=_REBUILD)
            stream.write(offset.tobytes())
            sparse += offset[-count % _SPARSE :: _SPARSE].tolist()
            by_shard.update(dict(enumerate(np.bincount(shard, weights=length).astype(int).tolist())))
            count, reached = count + len(batch), reached + int(length.sum())
    if reached != ring.tokens:
        held = {int(Path(shard.address).stem.rpartition("-")[2]): shard.tokens for shard in ring.shards}
        wrong = [number for number, tokens in sorted(by_shard.items()) if held.get(number, 0) != tokens]
        file = f"data/encode/train-{wrong[0]:05d}.arrow" if wrong else TABLE
        raise StageError(
            f"documents cover {reached} tokens, shards hold {ring.tokens}: this one is absent, cut short or of another build",
            file=file,
            remedy=_REBUILD,
        )
    with _storage.atomic_output(index) as stream:
        stream.write(np.array(sparse, np.int64).tobytes())
    return Documents(starts, index, count, reached)


@dataclass(frozen=True)
class Instructions:
    """Instruction samples by number: address of an Arrow file with record batches of one size, and how many there are."""

    address: str
    count: int

    def take(self, numbers: Numbers) -> tuple[NDArray[np.int32], Numbers, Numbers, Numbers]:
        """(ids, bounds, prompt, doc_index) of some samples, from the record batches that hold them.

        ids[bounds[i]:bounds[i + 1]] are the i-th's, the first `prompt[i]` of them its prompt.
        """
        order = np.argsort(numbers, kind="stable")
        parts = []
        with _opened(self.address, INSTRUCTIONS) as reader:
            of_batch = numbers[order] // _ROWS
            for batch in np.unique(of_batch).tolist():
                chosen = pa.array(numbers[order][of_batch == batch] - batch * _ROWS)
                parts.append(reader.get_batch(batch).take(chosen))
        table = pa.Table.from_batches(parts, _INSTRUCTION_SCHEMA).combine_chunks().take(pa.array(np.argsort(order)))
        ids = table["ids"].combine_chunks()
        lists = ids.chunk(0) if isinstance(ids, pa.ChunkedArray) else ids
        bounds = lists.offsets.to_numpy().astype(np.int64)
        prompt, document = (table[name].to_numpy().astype(np.int64) for name in ("prompt", "doc_index"))
        return lists.values.to_numpy(), bounds, prompt, document


def index_instructions(table: str, limit: int, address: str) -> Instructions:
    """Write the instruction samples as Arrow record batches that are found by arithmetic.

    Args:
        table: address of data/instruct/samples.parquet.
        limit: positions that one sample may take.
        address: where to write them.

    Raises:
        StageError: a sample is longer, or its prompt does not end in [MASK].
    """
    count = 0
    with _storage.atomic_output(address) as stream, pa.ipc.new_file(stream, _INSTRUCTION_SCHEMA) as writer:
        for batch in _documents.read_batches(table, ["prompt_ids", "target_ids", "doc_index"], rows=_ROWS):
            rows = _instructions(batch, limit, count)
            writer.write_batch(rows)
            count += len(rows)
    return Instructions(address, count)


def _instructions(batch: pa.RecordBatch, limit: int, row: int) -> pa.RecordBatch:
    (prompt, prompt_bounds), (target, target_bounds) = (_ragged(batch[name]) for name in ("prompt_ids", "target_ids"))
    prompts, targets = np.diff(prompt_bounds), np.diff(target_bounds)
    masked = prompts > 0
    masked[masked] = prompt[prompt_bounds[1:][masked] - 1] == SPECIAL.mask
    wrong = np.flatnonzero(~masked | (prompts + targets + 1 > limit))
    if len(wrong):
        raise StageError(
            f"an instruction sample needs a prompt that ends in [MASK] and at most {limit} positions with its target",
            file=INSTRUCTIONS,
            row=row + int(wrong[0]),
            remedy="make instruct.block_length fit pack.sequence_length / pack.blocks",
        )
    bounds = prompt_bounds + target_bounds
    is_prompt = np.repeat(np.tile([True, False], len(prompts)), np.stack([prompts, targets], axis=1).ravel())
    ids = np.empty(len(is_prompt), np.int32)
    ids[is_prompt], ids[~is_prompt] = prompt, target
    lists = pa.ListArray.from_arrays(pa.array(bounds.astype(np.int32)), pa.array(ids))
    return pa.record_batch([lists, pa.array(prompts.astype(np.int32)), batch["doc_index"]], schema=_INSTRUCTION_SCHEMA)


def _ragged(lists: pa.ListArray) -> tuple[NDArray[np.int32], Numbers]:
    bounds = lists.offsets.to_numpy().astype(np.int64)
    return lists.values.to_numpy()[bounds[0] : bounds[-1]], bounds - bounds[0]


@contextmanager
def _opened(address: str, name: str) -> Iterator[Any]:
    """A reader of an Arrow file: mapped where it lies on this machine, by seeking elsewhere.

    Raises:
        StageError: the file is damaged, or cut short on disk.
    """
    source: Any = None
    try:
        if _storage.is_remote(address):
            source = pa.PythonFile(_storage.open_input(address), mode="r")
        else:
            source = pa.memory_map(address.removeprefix("file://"))
        yield pa.ipc.open_file(source)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise StageError(f"cut short on disk, or no Arrow file: {error}", file=name, remedy=_REBUILD) from error
    finally:
        if source is not None:
            source.close()

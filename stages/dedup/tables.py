"""Arrow files between the steps: signature tables and others, with the parameters and known answers in their headers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages import _storage, _units
from stages._errors import StageError
from stages.dedup import minhash
from stages.dedup.params import Params

HEADER = b"glm-rebuild/minhash"
_VERSION = 1
_KNOWN = ("To be, or not to be: that is the question.", "对酒当歌，人生几何？譬如朝露，去日苦多。", "short", "…")


@dataclass(frozen=True)
class Layout:
    """The documents of a corpus in one row: those of shard i have the numbers starts[i] to starts[i + 1] - 1."""

    tables: tuple[str, ...]
    starts: tuple[int, ...]

    @property
    def documents(self) -> int:
        """Documents of all shards."""
        return self.starts[-1]

    def inside(self, numbers: NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
        """(shard, slice of the sorted document `numbers` that lie in it) for shards that hold any."""
        places = np.searchsorted(numbers, self.starts)
        for shard, (begin, end) in enumerate(pairwise(places)):
            if begin < end:
                yield shard, slice(int(begin), int(end))


def language_seeds(languages: Sequence[str]) -> dict[str, int]:
    """A seed for each language: its fingerprints and bands meet no other's."""
    return {lang: _units.digest(lang.encode()) for lang in languages}


def header(params: Params) -> dict[bytes, bytes]:
    """Schema metadata of signature and band tables: what must agree before values in them may be compared."""
    facts = {
        "version": _VERSION,
        "shingles": dict(sorted(params.ngram.items())),
        "hash": "the low 32 bits of XXH64",
        "scheme": params.scheme,
        "seed": params.seed,
        "permutations": params.permutations,
        "bands": params.bands,
        "rows": params.rows,
        "max_characters": params.max_characters,
    }
    return {HEADER: json.dumps(facts | {"known": known_answers(params)}, sort_keys=True).encode()}


def known_answers(params: Params) -> dict[str, str]:
    """SHA-256 of the signatures and band keys that this program gives a few texts, by language."""
    numbers = (params.permutations, params.seed, params.bands, params.rows, params.max_characters)
    return {lang: _answer(_KNOWN, lang, size, *numbers) for lang, size in sorted(params.ngram.items())}


@lru_cache
def _answer(texts: tuple[str, ...], lang: str, size: int, count: int, seed: int, bands: int, rows: int, limit: int) -> str:
    seeds, sizes = np.full(len(texts), language_seeds([lang])[lang], np.uint64), np.full(len(texts), size, np.int64)
    signed = minhash.sign(pa.array(texts), sizes, seeds, limit, minhash.permutations(count, seed))
    keys = minhash.band_keys(signed.signatures, seeds, bands, rows)
    return sha256(signed.signatures.tobytes() + signed.fingerprints.tobytes() + keys.tobytes()).hexdigest()


@contextmanager
def writer(address: str, schema: pa.Schema) -> Iterator[pa.RecordBatchFileWriter]:
    """An Arrow IPC file that appears whole."""
    with _storage.atomic_output(address) as stream, pa.ipc.new_file(stream, schema) as output:
        yield output


def write(address: str, schema: pa.Schema, columns: Sequence[Any]) -> None:
    """Write columns as one record batch."""
    with writer(address, schema) as output:
        output.write_batch(
            pa.record_batch([_array(column, field) for column, field in zip(columns, schema, strict=True)], schema=schema)
        )


def _array(column: Any, field: pa.Field) -> pa.Array:
    return column if isinstance(column, pa.Array) else pa.array(column, field.type)


def open_table(address: str, names: Sequence[str] = (), expected: dict[bytes, bytes] | None = None) -> pa.RecordBatchFileReader:
    """Open an Arrow IPC file; local ones are mapped into memory, so that only what is looked at is read.

    Args:
        address: of the file.
        names: columns that will be read, where the file has to be fetched; none means all.
        expected: `header` that it must have.

    Raises:
        StageError: the file is not whole, or was made with other parameters or by a program that gives other answers.
    """
    try:
        remote = _storage.is_remote(address)
        source = pa.PythonFile(_storage.open_input(address)) if remote else pa.memory_map(address)
        reader = pa.ipc.open_file(source)
    except pa.ArrowInvalid as error:
        raise StageError(
            f"not a whole Arrow file: {error}", file=address, remedy="delete it and run the stage again"
        ) from error
    if expected is not None and (reader.schema.metadata or {}).get(HEADER) != expected[HEADER]:
        _compare(reader.schema.metadata or {}, expected, address)
    if remote and names:
        fields = [reader.schema.get_field_index(name) for name in names]
        return pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields))
    return reader


def _compare(found: dict[bytes, bytes], expected: dict[bytes, bytes], address: str) -> None:
    theirs, ours = (json.loads(table.get(HEADER, b"{}")) for table in (found, expected))
    different = sorted(name for name in ours | theirs if theirs.get(name) != ours.get(name))
    if different:
        told = ", ".join(f"{name} {theirs.get(name)} instead of {ours.get(name)}" for name in different)
        raise StageError(f"signatures that cannot be compared: {told}", file=address, remedy="run dedup again with one version")


def column(batch: pa.RecordBatch, name: str) -> NDArray[Any]:
    """A column of numbers as an array, without a copy."""
    values: NDArray[Any] = batch.column(name).to_numpy(zero_copy_only=True)
    return values


def matrix(batch: pa.RecordBatch, name: str) -> NDArray[np.uint32]:
    """A column of signatures, uint32[rows, permutations], without a copy."""
    values = batch.column(name)
    flat: NDArray[np.uint32] = values.flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(len(values), values.type.list_size)

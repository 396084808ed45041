"""First step, shard by shard: fingerprint, signature and band keys of every document."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages import _documents
from stages._errors import StageError
from stages.dedup import minhash, tables
from stages.dedup.params import Params

_ROWS = 1024  # documents that are read at a time: their text is in a cache still when it is signed


@dataclass(frozen=True)
class SignTask:
    """Documents of one shard to a signature table."""

    shard: str
    target: str
    params: Params


def band_name(band: int) -> str:
    """The column of a band's keys."""
    return f"band_{band:03d}"


def schema(params: Params) -> pa.Schema:
    """Of a signature table, one row per document; a table is one record batch."""
    fields = [
        ("doc_id", pa.string()),
        ("lang", pa.string()),
        ("characters", pa.int64()),
        ("fingerprint_0", pa.uint64()),
        ("fingerprint_1", pa.uint64()),
        ("signature", pa.list_(pa.uint32(), params.permutations)),
        *((band_name(band), pa.uint64()) for band in range(params.bands)),
    ]
    return pa.schema(fields, metadata=tables.header(params))


def sign_shard(task: SignTask) -> dict[str, int]:
    """Write the signature table of a shard; gives the number of its documents, and of those over the character limit.

    Raises:
        StageError: a document's language has no length of shingles.
    """
    params = task.params
    permutations, seeds_of = minhash.permutations(params.permutations, params.seed), tables.language_seeds(list(params.ngram))
    with _documents.opened(task.shard) as table:
        signed = minhash.Signed.room(table.metadata.num_rows, params.permutations)
    ids, langs, seeds, start = [], [], [np.empty(0, np.uint64)], 0
    for batch in _documents.read_batches(task.shard, ["doc_id", "lang", "text"], _ROWS):
        kinds = batch["lang"].dictionary_encode()
        for lang in kinds.dictionary.to_pylist():
            if lang not in params.ngram:
                _refuse(lang, batch, task.shard)
        codes = kinds.indices.to_numpy()
        sizes = np.array([params.ngram[lang] for lang in kinds.dictionary.to_pylist()], np.int64)[codes]
        seeds.append(np.array([seeds_of[lang] for lang in kinds.dictionary.to_pylist()], np.uint64)[codes])
        room = signed.part(start, start + len(batch))
        minhash.sign(batch["text"], sizes, seeds[-1], params.max_characters, permutations, room)
        ids.append(batch["doc_id"])
        langs.append(batch["lang"])
        start += len(batch)
    keys = minhash.band_keys(signed.signatures, np.concatenate(seeds), params.bands, params.rows)
    names = [pa.chunked_array(chunks, pa.string()).combine_chunks() for chunks in (ids, langs)]
    marks = [signed.fingerprints[:, half].copy() for half in range(2)]
    signatures = pa.FixedSizeListArray.from_arrays(signed.signatures.reshape(-1), params.permutations)
    tables.write(task.target, schema(params), [*names, signed.characters, *marks, signatures, *keys])
    return {"documents": start, "capped": int((signed.characters > params.max_characters).sum())}


def _refuse(lang: str, batch: pa.RecordBatch, shard: str) -> None:
    row = batch["doc_id"][pc.index(batch["lang"], lang).as_py()].as_py()
    name = shard.rpartition("/")[2]
    raise StageError(f"no n-gram length for language {lang!r}", file=name, row=row, remedy="add it to dedup.ngram")

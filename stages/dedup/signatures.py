"""First step, shard by shard: fingerprint, signature and band keys of every document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages import _documents
from stages._errors import StageError
from stages.dedup import minhash, tables
from stages.dedup.params import Params


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
    batches, capped = [], 0
    for batch in _documents.read_batches(task.shard, ["doc_id", "lang", "text"]):
        kinds, texts = batch["lang"].dictionary_encode(), batch["text"]
        for lang in kinds.dictionary.to_pylist():
            if lang not in params.ngram:
                _refuse(lang, batch, task.shard)
        codes = kinds.indices.to_numpy()
        sizes = np.array([params.ngram[lang] for lang in kinds.dictionary.to_pylist()], np.int64)[codes]
        seeds = np.array([seeds_of[lang] for lang in kinds.dictionary.to_pylist()], np.uint64)[codes]
        signed = minhash.sign(texts, sizes, seeds, params.max_characters, permutations)
        keys = minhash.band_keys(signed.signatures, seeds, params.bands, params.rows)
        capped += int((signed.characters > params.max_characters).sum())
        batches.append([batch["doc_id"], batch["lang"], signed, keys])
    tables.write(task.target, schema(params), _columns(batches, params))
    return {"documents": sum(len(batch[0]) for batch in batches), "capped": capped}


def _columns(batches: list[list[Any]], params: Params) -> list[Any]:
    if len(batches) == 1:  # as a rule; nothing is copied then
        ids, langs, signed, keys = batches[0]
    else:
        ids, langs = (
            pa.concat_arrays([batch[place] for batch in batches]) if batches else pa.array([], pa.string())
            for place in range(2)
        )
        signed = minhash.Signed(
            np.concatenate([batch[2].signatures for batch in batches] or [np.empty((0, params.permutations), np.uint32)]),
            np.concatenate([batch[2].fingerprints for batch in batches] or [np.empty((0, 2), np.uint64)]),
            np.concatenate([batch[2].characters for batch in batches] or [np.empty(0, np.int64)]),
        )
        keys = np.concatenate([batch[3] for batch in batches] or [np.empty((params.bands, 0), np.uint64)], axis=1)
    signatures = pa.FixedSizeListArray.from_arrays(signed.signatures.reshape(-1), params.permutations)
    marks = signed.fingerprints
    return [ids, langs, signed.characters, marks[:, 0].copy(), marks[:, 1].copy(), signatures, *keys]


def _refuse(lang: str, batch: pa.RecordBatch, shard: str) -> None:
    row = batch["doc_id"][pc.index(batch["lang"], lang).as_py()].as_py()
    name = shard.rpartition("/")[2]
    raise StageError(f"no n-gram length for language {lang!r}", file=name, row=row, remedy="add it to dedup.ngram")

"""What the project's own stages are called by: the only file of the benchmark that knows their functions."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmarks._project import ROOT
from stages._engine import EngineSettings
from stages._params import load_section
from stages._runner import StageIO

# --- dedup -----------------------------------------------------------------------------------------------------------------


@cache
def _params(stage: str) -> Any:
    """The laptop profile's section of a stage."""
    return load_section(import_module(f"stages.{stage}").Params, ROOT / "params.yaml", stage)


def hash_shingle(data: bytes) -> int:
    """The hash of one shingle, as `hashfunc` for datasketch."""
    from stages.dedup import minhash

    return minhash.hash32(data)


def signatures(texts: pa.Array, lang: str) -> NDArray[np.uint32]:
    """MinHash signatures of a column of texts, uint32[m, permutations]."""
    from stages.dedup import minhash

    params = _params("dedup")
    sizes = np.full(len(texts), params.ngram[lang], np.int64)
    seeds, table = np.zeros(len(texts), np.uint64), minhash.permutations(params.permutations, params.seed)
    return minhash.sign(texts, sizes, seeds, params.max_characters, table).signatures


def clusters(folder: Path, files: list[Path], check: str, workers: int = 1, memory: int = 2**31) -> list[tuple[str, str]]:
    """From shards of documents to clusters, by the steps of the dedup stage, in this process or by so many workers.

    Signatures estimate: where they alone decide, the threshold is a little lower, so that no true pair is lost to their error.

    Returns:
        (document, survivor) of each that is removed.
    """
    from stages.dedup.build import find_clusters

    shutil.rmtree(folder, ignore_errors=True)
    io = StageIO("dedup", folder, [], "data/dedup", EngineSettings("inline" if workers == 1 else "local", workers, memory))
    params = dataclasses.replace(_params("dedup"), verify=check)
    if check == "signature":
        params = dataclasses.replace(params, threshold=params.threshold - 0.05)
    with contextlib.redirect_stderr(StringIO()):  # progress
        found = find_clusters([str(file) for file in files], params, io)
    members = found.members.filter(pc.invert(found.members["survivor"]))
    return list(zip(members["doc_id"].to_pylist(), members["cluster"].to_pylist(), strict=True))


# --- clean -----------------------------------------------------------------------------------------------------------------


def batches(texts: list[str], lang: str) -> list[pa.RecordBatch]:
    """Texts as the batches in which the clean stage reads them."""
    from stages import _documents
    from stages.clean.shard import BATCH

    rows = [
        {**dict.fromkeys(_documents.SCHEMA.names, ""), "doc_id": str(number), "lang": lang, "text": text}
        for number, text in enumerate(texts)
    ]
    return [pa.RecordBatch.from_pylist(rows[at : at + BATCH], schema=_documents.SCHEMA) for at in range(0, len(rows), BATCH)]


def clean(batches: list[pa.RecordBatch]) -> int:
    """Repair, normalise, identify, judge and mask batches of documents as the clean stage does; gives how many are kept."""
    from stages.clean import boilerplate
    from stages.clean.shard import Cleaner

    cleaner = Cleaner(_params("clean"), *boilerplate.read_counts(()))
    return sum(len(cleaner.clean(batch)) for batch in batches)


def statistics(texts: pa.Array) -> NDArray[np.int64]:
    """Everything that the quality rules look at, int64 [documents, statistics]."""
    from stages.clean.statistics import measure

    return measure(texts).counts


def agreement(texts: list[str]) -> float:
    """Share of documents whose every statistic equals that of the tests' plain-Python definition."""
    from stages.clean.columns import COLUMNS
    from tests.support import clean_oracle

    rows = statistics(pa.array(texts, pa.large_string())).tolist()
    equal = []
    for row, text in zip(rows, texts, strict=True):
        defined = clean_oracle.measure(text)
        equal.append(all(defined.get(name, 0) == value for name, value in zip(COLUMNS, row, strict=True)))
    return sum(equal) / len(equal)


def identify(texts: list[str]) -> list[str]:
    """The language of each text; the letters that it is judged by are counted too."""
    from stages.clean import language
    from stages.clean.statistics import measure

    counted, limits = measure(texts), _params("clean").language
    columns = (counted[name].tolist() for name in ("han", "latin", "other_letter", "stop_words"))
    return [language.identify(text, *counts, limits=limits).code for text, *counts in zip(texts, *columns, strict=True)]


# --- corpus ----------------------------------------------------------------------------------------------------------------


def crawl_records(path: Path, kind: str) -> Iterator[tuple[str, bytes]]:
    """(URL, payload) of the records of one kind of a WARC or WET file."""
    from stages.corpus.warc import iter_warc

    with path.open("rb") as stream:
        for item in iter_warc(stream, kind):
            yield str(item.url), item.payload if kind == "response" else item.block or b""

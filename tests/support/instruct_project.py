"""What the instruct stage reads, small: a tokenizer, training documents and the encode stage's table of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages import encode
from stages._documents import write_table
from stages._runner import StageIO
from stages.tokenizer import Params, train
from tests.support.text import text, write_documents

TOKENIZER = Params(1500, 0.999, 1, 0.5, True, 4, 16, 15_000, 128, 2, 1)
DEPENDENCIES = ("data/decontaminate", "data/encode", "data/tokenizer", "takedowns.jsonl")


def trained(folder: Path, more: Iterable[str] = ()) -> Path:
    """A tokenizer model of both languages, and of `more` text."""
    path = folder / "tokenizer.model"
    path.write_bytes(train([*text("en", 1, 60_000).split("\n"), *text("zh", 1, 40_000).split("\n"), *more], TOKENIZER))
    return path


def instruct_project(root: Path, model: Path, rows: list[dict[str, Any]], *declared: str) -> StageIO:
    """The stage's inputs below `root`: documents, and the encode stage's table of them in the order of the files."""
    (root / "data/decontaminate/train").mkdir(parents=True)
    write_documents(root / "data/decontaminate/train", rows)
    (root / "takedowns.jsonl").touch()
    (root / "data/tokenizer").mkdir(parents=True)
    (root / "data/tokenizer/tokenizer.model").write_bytes(model.read_bytes())
    listed = [
        {name: row[name] for name in ("doc_id", "source", "lang", "licence")}
        | {"doc_index": index, "shard": 0, "offset": index, "length": 1, "bytes": 1}
        for index, row in enumerate(sorted(rows, key=lambda row: row["source"]))
    ]
    write_table(root / "data/encode/train.documents.parquet", encode.DOCUMENTS, listed)
    io = StageIO("instruct", root, [*DEPENDENCIES, *declared], "data/instruct")
    io.output.mkdir(parents=True)
    return io

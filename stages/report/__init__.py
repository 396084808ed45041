"""Writes one self-contained page about the final checkpoint: data, objective, training, scores, lineage, provenance, limits.

Reads:    the manifest of every stage before, and of their files what the page shows (docs/data.md)
Writes:   data/report/index.html
Params:   report
Promises: every number is taken from a file that a manifest covers or computed from such files; what is absent stops the stage;
          the page loads nothing from anywhere, its own policy forbids it; no clock, so the same project gives the same bytes

`facts` reads, one module a section turns facts into what its template shows, `svg` and `charts` draw, `templates/` words it.
"""

from stages.report.build import Params, run

__all__ = ["Params", "run"]

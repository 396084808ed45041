"""Writes what a stranger needs to judge the models: statement, bill of materials, data set description, lineage, model card.

Reads:    the manifest of every stage before, and of their files only what the documents quote (docs/data.md)
Writes:   data/attest: statement.json and statements/CHECKPOINT.json (in-toto), ai-bom.cdx.json (CycloneDX 1.6),
          croissant/NAME.json (Croissant 1.1), openlineage.ndjson, model-card.md, training-summary.md
Params:   attest
Promises: every number is taken from a file that a manifest covers; manifests that do not fit together stop the stage; no
          clock, so the same project gives the same bytes

`evidence` gathers and checks, each other module turns the evidence into one format by a pure function. Card and summary are
templates of queries, which `ledger/export/answers.py` fills. Signing (`glm attest sign`) needs a statement and a key only.
"""

from stages.attest.build import Params, run

__all__ = ["Params", "run"]

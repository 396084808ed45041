"""Makes prompted multi-task samples (the 5 %) out of the metadata and text of the training documents.

Reads:    data/decontaminate/train/documents, data/encode/train.documents.parquet, data/tokenizer/tokenizer.model
Writes:   data/instruct: samples.parquet, registry.json
Params:   instruct
Promises: labels are real (what the source states, or the next words of the text itself), never made up; training documents
          only; at most `cap` samples of a data set, chosen by a keyed hash; no sample longer than `block_length`; a data set
          that is also an evaluation set stops the build unless it is allowed by name

GLM-130B mixed in 74 English data sets, prompted by T0's and its own templates (paper 2.2, appendix C); none was Chinese. The
form is its own, `text [MASK] -> target`; tasks, templates and the Chinese half are ours. `tasks` finds the labels,
`templates.yaml` holds the wording, `build` chooses, fits and writes.
"""

from stages.instruct.build import Params, run

__all__ = ["Params", "run"]

"""How one GLM is spread over many processes. `model/glm.py` knows nothing of it.

    plan.py           the three degrees, who stands where, how blocks fall on pipeline stages, what is refused
    split.py          which part of which parameter a tensor-parallel rank holds, both ways
    collectives.py    the two collectives of tensor parallelism, with their gradients
    layers.py         column-, row- and vocabulary-parallel layers
    cross_entropy.py  the loss over a vocabulary that is spread
    parallelize.py    walks a GLM and puts these layers in; cuts a stage out of it; fills it with its own weights
    pipeline.py       a stage as DeepSpeed's PipelineModule wants it

DeepSpeed is imported in pipeline.py alone.
"""

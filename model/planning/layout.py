"""How a model is cut over GPUs: tensor-parallel shards, pipeline stages, data-parallel replicas."""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ModelConfig
from model.planning.flops import layernorms_per_layer


@dataclass(frozen=True)
class Layout:
    """Sizes of the three parallel dimensions and of what one replica is fed.

    Attributes:
        tensor: GPUs that share each matrix.
        pipeline: stages that the layers are dealt to.
        data: replicas.
        micro_batch: sequences that go through the pipeline together.
        zero_stage: what the replicas share: 1 optimizer states, 2 gradients too, 3 weights too.
        checkpointing: whether layers are recomputed in the backward pass instead of kept.
    """

    tensor: int
    pipeline: int
    data: int
    micro_batch: int
    zero_stage: int = 1
    checkpointing: bool = True

    def __post_init__(self) -> None:
        if min(self.tensor, self.pipeline, self.data, self.micro_batch) < 1:
            raise ValueError("tensor, pipeline, data and micro_batch must be at least 1")
        if self.pipeline > 1 and self.zero_stage > 1:
            raise ValueError("a pipeline keeps gradients over its micro-batches: it goes with ZeRO stage 1 alone")

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.tensor * self.pipeline * self.data

    def micro_batches(self, batch: int) -> int:
        """Micro-batches that a replica's pipeline runs for a global batch of `batch` sequences.

        Raises:
            ValueError: the batch does not divide evenly.
        """
        unit = self.data * self.micro_batch
        if batch % unit:
            raise ValueError(f"a batch of {batch} is no multiple of data * micro_batch = {unit}")
        return batch // unit

    def bubble(self, batch: int) -> float:
        """Share of a step that pipeline stages wait, (p - 1) / (m + p - 1) (GLM-130B paper, appendix B.4)."""
        return (self.pipeline - 1) / (self.micro_batches(batch) + self.pipeline - 1)


def layers_per_stage(layers: int, stages: int) -> list[int]:
    """Transformer layers of each stage when embedding and head count as a layer each (facts 4.2).

    GLM-130B's 70 + 2 items over 8 stages are 9 each, so its first and last stage hold 8 layers and one matrix. What does
    not divide evenly goes to the middle: the ends hold the vocabulary.

    Raises:
        ValueError: a stage would be left without a layer.
    """
    if stages == 1:
        return [layers]
    if layers < stages:
        raise ValueError(f"{layers} layers do not fill {stages} pipeline stages")
    share, rest = divmod(layers + 2, stages)
    counts = [share] * stages
    middle = sorted(range(stages), key=lambda stage: (abs(2 * stage - (stages - 1)), stage))
    for stage in middle[:rest]:
        counts[stage] += 1
    counts[0] -= 1
    counts[-1] -= 1
    while min(counts) < 1:  # few layers on many stages: the ends take one from the fullest
        counts[counts.index(min(counts))] += 1
        counts[counts.index(max(counts))] -= 1
    return counts


def stage_parameters(config: ModelConfig, layout: Layout) -> list[int]:
    """Parameters that one GPU of each pipeline stage holds: sharded matrices divided, LayerNorms and row biases whole.

    A tied embedding lies on the first stage and again on the last one, as head; one of its own is there in any case.

    Raises:
        ValueError: heads, feed-forward width or vocabulary do not divide by the tensor-parallel size.
    """
    hidden, inner, tensor = config.hidden, config.ffn, layout.tensor
    for name, size in (("heads", config.heads), ("ffn", inner), ("vocabulary", config.vocabulary)):
        if size % tensor:
            raise ValueError(f"{name} {size} does not divide by tensor-parallel size {tensor}")
    sharded = 3 * hidden * hidden + 3 * hidden + hidden * hidden + 3 * hidden * inner + 2 * inner
    layer = sharded // tensor + 2 * hidden + 2 * hidden * layernorms_per_layer(config)  # two row-parallel biases, LayerNorms
    counts = [count * layer for count in layers_per_stage(config.layers, layout.pipeline)]
    embedding = config.vocabulary // tensor * hidden
    counts[0] += embedding + (2 * hidden if config.embedding_norm else 0)
    counts[-1] += 2 * hidden + (embedding if layout.pipeline > 1 or not config.tied_embeddings else 0)
    return counts

"""A stage of a GLM as DeepSpeed's pipeline engine runs it: 1F1B over PipelineModule, the embedding tied across stages.

Items of the pipeline are the embedding, every block, and final norm with head. Between stages travel the residual stream and
what attention needs of the batch: positions, block starts and contexts, as tensors (published: mask and positions, facts 4.2).
Targets go to the last stage alone.

What DeepSpeed needs to be right here: the topology carries the groups (no `mpu`), ZeRO-1, ties by TiedLayerSpec.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.pipe import PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import Tensor, nn

from model.glm import GLM, Batch, loss_rows
from model.parallel.collectives import TensorGroup
from model.parallel.cross_entropy import vocab_parallel_cross_entropy
from model.parallel.plan import ParallelPlan, stage_bounds, stage_of
from model.parallel.split import split_of, whole

Stream = tuple[Tensor, Tensor, Tensor, Tensor]  # x [B, L, D], then position_ids, block_start, block_context of `Batch`
Losses = tuple[Tensor, Tensor, Tensor]


class _Tied(TiedLayerSpec):
    """A layer that stands on two stages; it was built before."""

    def __init__(self, module: nn.Module | None, forward: Any) -> None:
        super().__init__("embedding", nn.Embedding, forward_fn=forward, tied_weight_attr="weight")
        self._module = module

    def build(self, log: bool = False) -> nn.Module:
        """The layer; asked for on its own stages only."""
        assert self._module is not None
        return self._module


class GLMPipeline(PipelineModule):
    """One stage of a GLM; on every rank of the plan, a collective call.

    Attributes:
        stage: the model that `parallelize.stage_model` cut for this rank, filled.
        losses: what `GLM.forward` returns, for each micro-batch since `take_losses`; on the last stage.
    """

    def __init__(self, stage: GLM, plan: ParallelPlan, group: TensorGroup) -> None:
        self._bounds = stage_bounds(stage.config.layers, plan.pipeline)
        self._unregistered_stage = (stage,)  # a tuple: torch registers modules only after its own __init__
        self._plan, self._group = plan, group
        self._surroundings: tuple[Tensor, Any] | None = None
        self.losses: list[Losses] = []
        first: Any = partial(self._embed, None)
        last: Any = partial(self._finish, None)
        if stage.config.tied_embeddings:
            table = getattr(stage, "word_embeddings", None)  # absent on stages between
            first, last = _Tied(table, self._embed), _Tied(table, self._finish)
        blocks = [partial(self._block, str(number)) for number in range(stage.config.layers)]
        # It broadcasts tied weights as if they had a graph, and prints its topology and its layers.
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            super().__init__(
                [first, *blocks, last],
                topology=PipeModelDataParallelTopology(plan.pipeline, plan.tensor, plan.data),
                loss_fn=self._loss,
            )

    def take_losses(self) -> list[Losses]:
        """`losses`, which is empty then."""
        taken, self.losses = self.losses, []
        return taken

    def gather(self, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Full tensors by name, on every rank, from each rank's parts of its stage; a collective call.

        Args:
            mine: tensors of the shapes of this stage's parameters, by name.
        """
        grid, config, first_of_stage = self.mpu(), self.stage.config, self._plan.data * self._plan.tensor
        with torch.device("meta"):
            shapes = {name: parameter.shape for name, parameter in GLM(config).named_parameters()}
        full = {}
        for name, shape in shapes.items():
            owner = stage_of(name, config.layers, self._plan.pipeline)
            if owner == self.stage_id:
                tensor = self._whole(name, mine[name].contiguous())
            else:
                tensor = torch.empty(shape, dtype=torch.float32, device=next(iter(mine.values())).device)
            if self._plan.pipeline > 1:
                source = owner * first_of_stage + self.global_rank % first_of_stage
                dist.broadcast(tensor, source, group=grid.get_pipe_parallel_group())
            full[name] = tensor
        return full

    def _whole(self, name: str, mine: Tensor) -> Tensor:
        if self._group.size == 1 or split_of(name) is None:
            return mine
        parts = [torch.empty_like(mine) for _ in range(self._group.size)]
        dist.all_gather(parts, mine, group=self._group.group)
        return whole(name, parts)

    def _partition_layers(self, method: str = "") -> None:
        """Our own bounds in place of DeepSpeed's methods, which know no item of weight one that is no module."""
        self.parts = self._bounds
        self._set_bounds(self.parts[self.stage_id], self.parts[self.stage_id + 1])

    def _build(self) -> None:
        (self.stage,) = self._unregistered_stage
        super()._build()

    def _embed(self, _: nn.Module | None, inputs: Stream) -> Stream:
        ids_BL, *rest = inputs
        return (self.stage.embed(ids_BL), *rest)  # type: ignore[return-value]

    def _block(self, number: str, stream: Stream) -> Stream:
        x_BLD, position_BL, start_BN, context_BN = stream
        if self._surroundings is None or self._surroundings[0] is not position_BL:  # once a micro-batch, not once a block
            self._surroundings = position_BL, self.stage.surroundings(x_BLD, position_BL, start_BN, context_BN)
        block = self.stage.layers.get_submodule(number)
        return block(x_BLD, *self._surroundings[1]), position_BL, start_BN, context_BN

    def _finish(self, _: nn.Module | None, stream: Stream) -> Tensor:
        out: Tensor = self.stage.final_layernorm(stream[0])
        return out

    def _loss(self, hidden_BLD: Tensor, target_ids_BL: Tensor) -> Tensor:
        where_T, targets_T, weights_T = loss_rows(target_ids_BL)
        hidden_TD = hidden_BLD.flatten(0, 1)[where_T]
        loss, losses_T = vocab_parallel_cross_entropy(hidden_TD, self.stage.head_weight(), targets_T, weights_T, self._group)
        self.losses.append((loss.detach(), losses_T, where_T))
        return loss


def feed(micro_batches: Sequence[Batch]) -> Iterator[tuple[Stream, Tensor]]:
    """Micro-batches as the engine's iterator wants them: what travels, and what the last stage compares with."""
    for batch in micro_batches:
        yield (batch.input_ids, batch.position_ids, batch.block_start, batch.block_context), batch.target_ids

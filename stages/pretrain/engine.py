"""What runs a plan: one step over micro-batches, weights, state. The trainer above does not know which plan it is.

Two engines of DeepSpeed stand behind these few verbs: the plain one, with ZeRO-1, 2 or 3 over copies of the whole model, and
the pipeline engine wherever the model itself is spread. Every default that matters is written out.
"""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.checkpoint.shards import stored_name
from model.config import ModelConfig
from model.glm import GLM, Batch, initial_weights, initialise
from model.parallel.collectives import TensorGroup
from model.parallel.parallelize import checkpoint_blocks, fill, stage_model, tensor_group
from model.parallel.plan import PlanError, check_config, stage_of
from stages.pretrain.attention import check_attention
from stages.pretrain.compilation import check_compile, compile_blocks
from stages.pretrain.deepspeed_config import deepspeed_config
from stages.pretrain.gradients import GradientWatch
from stages.pretrain.settings import Params

Losses = tuple[Tensor, Tensor, Tensor]
QUANTITIES = ("master", "exp_avg", "exp_avg_sq")
_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
_TIMEOUT = datetime.timedelta(minutes=30)  # of a collective: others wait while rank 0 writes a checkpoint


def prepare_environment(scratch: Path) -> None:
    """Settings that DeepSpeed reads while it is imported; called in every rank, before the first import."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS refuses to compute deterministically
    # A build killed in a shared extensions folder leaves a lock on which every later run waits for ever.
    os.environ["TORCH_EXTENSIONS_DIR"] = str(scratch / "torch_extensions")


def start_process_group(rank: int, world: int, meeting: Path | dist.Store, local_rank: int | None = None) -> None:
    """Join the process group; a collective call.

    Args:
        rank: of this process, among `world`.
        world: how many there are.
        meeting: where they find each other: a file that is not there yet, so that no port is taken, or a launcher's store.
        local_rank: which one of its host this process is, and so whose GPU it takes; `rank` where there is one host.
    """
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # Otherwise `init_distributed` compiles a shared-memory op with the C++ compiler, for a minute, for no gain here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    local_rank = rank if local_rank is None else local_rank
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(local_rank), WORLD_SIZE=str(world))
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    store = dist.FileStore(str(meeting), world) if isinstance(meeting, Path) else dist.PrefixStore("training", meeting)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=_TIMEOUT)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, timeout=_TIMEOUT, verbose=False)  # takes what is there


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and the embedding, not biases nor LayerNorms (facts 4.1)."""
    named = list(model.named_parameters())
    plain = [p for name, p in named if name.endswith(".bias") or "layernorm" in name]
    decayed = [p for name, p in named if not (name.endswith(".bias") or "layernorm" in name)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def check_machine(precision: str) -> None:
    """Refuse a number format that this machine does not compute in.

    Raises:
        PlanError: says what to set.
    """
    from deepspeed.accelerator import get_accelerator

    if precision == "fp16" and not get_accelerator().is_fp16_supported():
        raise PlanError(
            "precision fp16 is refused: this machine does not compute in it (a GPU does, or a CPU with avx512_fp16). "
            "Set precision: bf16"
        )


def build_engine(config: ModelConfig, params: Params, rank: int) -> Engine:
    """The engine of rank `rank`, its weights drawn from `params.seed`; on every rank, a collective call.

    Raises:
        PlanError: the plan cannot run, with this model or on this machine.
    """
    return PipelineEngine(config, params, rank) if params.plan.staged else Engine(config, params, rank)


class Engine:
    """One rank of a plan that gives each rank the whole model.

    Attributes:
        model: the GLM that this rank runs: all of it, or its stage with its parts of the matrices.
        place: where the rank stands in the plan.
        attention: name of the attention backend in use.
    """

    def __init__(self, config: ModelConfig, params: Params, rank: int) -> None:
        check_config(params.plan, config)
        check_machine(params.precision)
        check_compile(params)
        self.attention = check_attention(config, params)
        self.plan, self.place, self._params = params.plan, params.plan.place(rank), params
        self.model = self._model(config, rank)
        self.model.attention_backend = params.attention
        self.set_embedding_gradient_shrink(params.embedding_gradient_shrink)
        self._engine, self._optimizer = self._start(self.model)
        self._watch = GradientWatch(self._optimizer, self.model, config.layers) if params.stability else None

    def _model(self, config: ModelConfig, rank: int) -> GLM:
        model = GLM(config)
        initialise(model, self._params.seed)
        if self._params.compile:
            compile_blocks(model)
        if self.plan.activation_checkpointing:
            checkpoint_blocks(model)
        return model

    def _start(self, module: nn.Module) -> tuple[Any, Any]:
        """DeepSpeed's engine and its optimizer."""
        import deepspeed

        settings = self._params.optimizer
        optimizer = torch.optim.AdamW(
            parameter_groups(self.model, settings.weight_decay),
            lr=settings.peak_lr,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            fused=True,
        )
        if self.plan.zero_stage == 3:  # the head's matrix is used outside of its own module
            table = self.model.word_embeddings if self.model.config.tied_embeddings else self.model.head
            deepspeed.zero.register_external_parameter(self.model, table.weight)
        config = deepspeed_config(self._params, sum(parameter.numel() for parameter in self.model.parameters()))
        engine, optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=config, dist_init_required=False
        )
        if self.plan.data == 1 and hasattr(optimizer, "average_tensor"):
            optimizer.average_tensor = _leave  # the mean of one replica: DeepSpeed would send it around all the same
        return engine, optimizer

    def set_embedding_gradient_shrink(self, alpha: float) -> None:
        """EGS's alpha from the next step on."""
        self.model.embedding_gradient_shrink = alpha

    def time_updates(self, timed: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Let `timed` wrap what makes new weights of gradients, their norm and clipping included."""
        self._engine._take_model_step = timed(self._engine._take_model_step)

    def train_step(self, micro_batches: Sequence[Batch], lr: float) -> list[Losses]:
        """One update of the weights from this rank's share of a batch.

        Args:
            micro_batches: for each, sequences of this data-parallel rank; as many on every rank.
            lr: learning rate of this step.

        Returns:
            What `GLM.forward` returns, for each micro-batch, on ranks that speak for their sequences; elsewhere nothing.
        """
        size = len(micro_batches) * self._params.micro_batch * self.plan.data
        if size != self._engine.train_batch_size():
            self._engine.set_train_batch_size(size)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        return self._run([_on_device(batch, self._engine.device) for batch in micro_batches])

    def _run(self, micro_batches: Sequence[Batch]) -> list[Losses]:
        outputs = []
        for batch in micro_batches:
            loss, losses_T, where_T = self._engine(batch)
            self._engine.backward(loss)
            self._engine.step()  # the last one of a step updates the weights
            outputs.append((loss.detach(), losses_T, where_T))
        return outputs

    def evaluate(self, micro_batches: Sequence[Batch]) -> list[Losses]:
        """As `train_step`, but without dropout, and nothing is learnt: the training goes on as if it had not been."""
        self._engine.eval()
        with torch.no_grad():
            outputs = self._look([_on_device(batch, self._engine.device) for batch in micro_batches])
        self._engine.train()
        return outputs

    def _look(self, micro_batches: Sequence[Batch]) -> list[Losses]:
        return [self._engine(batch) for batch in micro_batches]

    def gradient_norm(self) -> float:
        """Global gradient norm of the last step, before clipping."""
        return float(self._engine.get_global_grad_norm())

    def gradient_norms(self) -> dict[str, float]:
        """The same by part of the model, where `params.stability` asks for it, else empty; a collective call."""
        return self._watch.norms() if self._watch is not None else {}

    def total(self, meter: Tensor) -> Tensor:
        """Sum of all ranks' meters; a collective call."""
        on_device = meter.to(self._engine.device)
        dist.all_reduce(on_device)
        return on_device.to(meter.device)

    def stored(self) -> list[str]:
        """Names of the parameters that this rank stores, its parts of them: each part of the model is stored by one rank."""
        config, size = self.model.config, self.plan.tensor
        mine = [
            name
            for name, _ in self.model.named_parameters()
            if stage_of(name, config.layers, self.plan.pipeline) == self.place.stage
            and (self.place.tensor == 0 or stored_name(name, self.place.tensor, size) != name)
        ]
        return mine[self.place.data :: self.plan.data]

    def shards(
        self, quantity: str = "master", wanted: Collection[str] | None = None, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """What this rank's model has of a quantity, FP32 by parameter name, whatever ZeRO spread; a collective call.

        Args:
            quantity: one of `QUANTITIES`.
            wanted: names of the parameters to keep, or all.
            device: where the copies go, or None for where the model is.

        Returns:
            Parts of matrices and of the model, as `model.parallel.split` and `model.parallel.plan` cut them.
        """
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        read = safe_get_full_fp32_param
        if quantity != "master":
            if not self._optimizer.optimizer.state[self._flat()[0]]:  # no update yet: every FP16 gradient was out of range
                self._begin_moments(0)
            self._link_moments()
            read = partial(safe_get_full_optimizer_state, optim_state_key=quantity)
        kept = {}
        for name, parameter in self.model.named_parameters():
            full = read(parameter)  # on every rank, whoever keeps it
            if wanted is None or name in wanted:
                kept[name] = full.to(device or full.device, copy=True)
        return kept

    def whole(self, quantity: str = "master") -> dict[str, Tensor]:
        """`shards` of all ranks put together: of the whole model, on every rank; a collective call."""
        return self.shards(quantity)

    def counters(self) -> dict[str, Any]:
        """What a state needs beside masters and moments: how many updates these have seen, and FP16's loss scale."""
        counters: dict[str, Any] = {"updates": int(self._optimizer.optimizer.state[self._flat()[0]].get("step", 0))}
        if self._params.precision == "fp16":
            counters["loss_scaler"] = {name: getattr(self._optimizer.loss_scaler, name) for name in _SCALER}
        return counters

    def load_shards(
        self, shards: Mapping[str, Mapping[str, Tensor]], steps: int, loss_scaler: Mapping[str, float] | None = None
    ) -> None:
        """Continue from the `shards` that a rank at this place has, whichever plan they come from.

        Args:
            shards: for each of `QUANTITIES`, tensors by parameter name; each is asked for once.
            steps: updates that the moments have seen.
            loss_scaler: as in `counters`.
        """
        self._begin_moments(steps)
        self._link_moments()
        for quantity in QUANTITIES:
            for name, parameter in self.model.named_parameters():
                _set_full(parameter, quantity, shards[quantity][name].to(self._engine.device), self.place.data)
        for name, value in (loss_scaler or {}).items():
            setattr(self._optimizer.loss_scaler, name, value)
        self._refresh()

    def _begin_moments(self, steps: int) -> None:
        """Moments of zero, which have seen so many updates."""
        for flat in self._flat():
            count = torch.full((), float(steps), device=flat.device)
            moments = {name: torch.zeros_like(flat.data) for name in QUANTITIES[1:]}
            self._optimizer.optimizer.state[flat] = {"step": count, **moments}

    def _link_moments(self) -> None:
        """Let parameters know their moments anew: DeepSpeed does so once, in the first step and before the second group's."""
        if self.plan.zero_stage < 3:
            self._optimizer._hp_optimizer_states_linked = False
            self._optimizer._lazy_init_hp_params_optimizer_state()

    def _refresh(self) -> None:
        """Make the weights that the model computes with from the masters; a collective call."""
        if self.plan.zero_stage < 3:
            self._optimizer.update_lp_params()
            return
        for index in range(len(self._flat())):
            self._optimizer._reassign_or_swap_out_partitioned_parameters(index)
        if self._optimizer.persistent_parameters:  # small ones, which every rank keeps whole
            for parameter in self._optimizer.persistent_parameters:
                parameter.partition()
            self._optimizer.persistent_parameters[0].all_gather(self._optimizer.persistent_parameters)

    def _flat(self) -> list[Tensor]:
        name = "fp32_partitioned_groups_flat" if self.plan.zero_stage == 3 else "single_partition_of_fp32_groups"
        if self._params.fp32_gradient_sums:
            name = "fp32_groups_flat_partition"  # of another optimizer: DeepSpeed has one for FP32 sums beside BF16 weights
        flats: list[Tensor] = getattr(self._optimizer, name)
        return flats


class PipelineEngine(Engine):
    """One rank of a plan that spreads the model over stages, each matrix over ranks, or both."""

    _shapes: set[tuple[torch.Size, ...]] | None = None

    def _model(self, config: ModelConfig, rank: int) -> GLM:
        self._group: TensorGroup = tensor_group(self.plan, rank)
        model = stage_model(config, self.plan, self.place.stage, self._group)
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        fill(model, initial_weights(config, self._params.seed), self._group, device)
        return model

    def _start(self, module: nn.Module) -> tuple[Any, Any]:
        from model.parallel.pipeline import GLMPipeline

        self._pipeline = GLMPipeline(self.model, self.plan, self._group)
        return super()._start(self._pipeline)

    def _run(self, micro_batches: Sequence[Batch]) -> list[Losses]:
        from model.parallel.pipeline import feed

        shapes = {tuple(tensor.shape for tensor in vars(batch).values()) for batch in micro_batches}
        self._shapes = self._shapes or shapes
        if shapes != self._shapes:  # stages agree on them once; later ones would be read wrongly, or never arrive
            raise ValueError(f"all micro-batches need the same shapes in a pipeline: {sorted(self._shapes | shapes)}")
        self._engine.train_batch(feed(micro_batches))
        return self._spoken()

    def _look(self, micro_batches: Sequence[Batch]) -> list[Losses]:
        from model.parallel.pipeline import feed

        self._engine.eval_batch(feed(micro_batches), num_micro_batches=len(micro_batches))
        return self._spoken()

    def _spoken(self) -> list[Losses]:
        losses = self._pipeline.take_losses()
        return losses if self.place.tensor == 0 else []  # the group's other ranks say the same

    def whole(self, quantity: str = "master") -> dict[str, Tensor]:
        """`shards` of all ranks put together: of the whole model, on every rank; a collective call."""
        return self._pipeline.gather(self.shards(quantity))


def _set_full(parameter: nn.Parameter, quantity: str, value: Tensor, rank: int) -> None:
    """Write data-parallel rank `rank`'s share of a full FP32 tensor into DeepSpeed's masters or moments."""
    from deepspeed import utils

    if not hasattr(parameter, "ds_tensor"):
        if quantity == "master":
            utils.safe_set_full_fp32_param(parameter, value)
        else:
            utils.safe_set_full_optimizer_state(parameter, value, quantity)
        return
    size = parameter.ds_tensor.numel()  # ZeRO-3: equal shares, the last one padded
    share = torch.zeros(size, device=value.device)
    mine = value.flatten()[rank * size : (rank + 1) * size]
    share[: len(mine)] = mine
    if quantity == "master":
        utils.safe_set_local_fp32_param(parameter, share)
    else:
        utils.safe_set_local_optimizer_state(parameter, share, quantity)


def _leave(tensor: Tensor, dtype: torch.dtype) -> None:
    """DeepSpeed's `average_tensor` where there is nothing to average."""


def _on_device(batch: Batch, device: torch.device) -> Batch:
    tensors = (batch.input_ids, batch.target_ids, batch.position_ids, batch.block_start, batch.block_context)
    return Batch(*(tensor.to(device) for tensor in tensors))

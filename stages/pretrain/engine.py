"""The DeepSpeed engine, with every default that matters written out, and its state as plain tensors."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.pretrain.settings import Params


def prepare_environment(scratch: Path) -> None:
    """Settings that DeepSpeed reads while it is imported; called in every rank, before the first import."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    # A build killed in a shared extensions folder leaves a lock on which every later run waits for ever.
    os.environ["TORCH_EXTENSIONS_DIR"] = str(scratch / "torch_extensions")


def start_process_group(rank: int, world: int, rendezvous: Path) -> None:
    """Join the process group through a file, so that no port is taken."""
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # Otherwise `init_distributed` compiles a shared-memory op with the C++ compiler, for a minute, for no gain here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(
        backend, auto_mpi_discovery=False, init_method=f"file://{rendezvous}", rank=rank, world_size=world, verbose=False
    )


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and the embedding, not biases nor LayerNorms (facts 4.1)."""
    named = list(model.named_parameters())
    plain = [p for name, p in named if name.endswith(".bias") or "layernorm" in name]
    decayed = [p for name, p in named if not (name.endswith(".bias") or "layernorm" in name)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


class Engine:
    """One rank's DeepSpeed engine: a training step over micro-batches, and save/load of its state without pickle."""

    def __init__(self, model: nn.Module, params: Params) -> None:
        import deepspeed

        settings = params.optimizer
        optimizer = torch.optim.AdamW(
            parameter_groups(model, settings.weight_decay),
            lr=settings.peak_lr,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            fused=True,
        )
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=deepspeed_config(params), dist_init_required=False
        )

    def set_batch(self, batch_size: int, lr: float) -> int:
        """Set this step's global batch and learning rate; returns the number of micro-batches a rank has to feed."""
        if batch_size != self._engine.train_batch_size():
            self._engine.set_train_batch_size(batch_size)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        return int(self._engine.gradient_accumulation_steps())

    def micro_step(self, *inputs: Any) -> tuple[Tensor, ...]:
        """Forward and backward of one micro-batch; the last one of a step also updates the weights."""
        outputs: tuple[Tensor, ...] = self._engine(*inputs)
        self._engine.backward(outputs[0])
        self._engine.step()
        return outputs

    def gradient_norm(self) -> float:
        """Global gradient norm of the last step, before clipping."""
        return float(self._engine.get_global_grad_norm())

    def master_weights(self) -> dict[str, Tensor]:
        """FP32 weights by parameter name; on every rank, a collective call."""
        from deepspeed.utils import safe_get_full_fp32_param

        return {name: safe_get_full_fp32_param(p).clone() for name, p in self._engine.module.named_parameters()}

    def state(self) -> dict[str, Tensor]:
        """This rank's share of masters and moments, by parameter group."""
        tensors = {}
        for index, flat in enumerate(self._flat()):
            state = self._optimizer.optimizer.state[flat]
            tensors[f"{index}.master"] = flat.data
            tensors |= {f"{index}.{name}": state[name] for name in ("exp_avg", "exp_avg_sq", "step")}
        return tensors

    def load_state(self, tensors: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
        """Continue from `state()` and `master_weights()` of a run with the same parameters and world size."""
        for index, flat in enumerate(self._flat()):
            flat.data.copy_(tensors[f"{index}.master"])
            self._optimizer.optimizer.state[flat] = {
                name: tensors[f"{index}.{name}"].clone() for name in ("exp_avg", "exp_avg_sq", "step")
            }
        with torch.no_grad():
            for name, parameter in self._engine.module.named_parameters():
                parameter.copy_(weights[name])

    def _flat(self) -> list[Tensor]:
        flats: list[Tensor] = self._optimizer.single_partition_of_fp32_groups
        return flats


def deepspeed_config(params: Params) -> dict[str, Any]:
    """DeepSpeed's settings. ZeRO-0 is never used: its BF16 path is another optimizer, with visibly other losses."""
    return {
        "train_micro_batch_size_per_gpu": params.micro_batch,
        "train_batch_size": params.batch_start,
        "gradient_clipping": params.optimizer.clip_norm,
        "zero_optimization": {"stage": params.zero_stage},
        "bf16": {"enabled": params.precision == "bf16"},
        "fp16": {"enabled": False},
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }

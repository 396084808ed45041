"""DeepSpeed's settings, every default that matters written out."""

from __future__ import annotations

from typing import Any

from model.planning.memory import REDUCE_BUCKET
from stages.pretrain.settings import Params


def deepspeed_config(params: Params, parameters: int) -> dict[str, Any]:
    """DeepSpeed's settings, on a rank of so many parameters.

    ZeRO-0 is never used: its BF16 path is another optimizer, with visibly other losses.
    """
    zero: dict[str, Any] = {"stage": params.zero_stage, "reduce_bucket_size": min(REDUCE_BUCKET, parameters)}
    if params.zero_stage == 3:
        zero["stage3_param_persistence_threshold"] = 10 * params.model.hidden  # biases and LayerNorms stay whole
    return {
        "train_micro_batch_size_per_gpu": params.micro_batch,
        "train_batch_size": params.batch_start,
        "gradient_clipping": params.optimizer.clip_norm,
        "zero_optimization": zero,
        # Without the immediate update, a pipeline that sums in FP32 loses most of its first stages' gradients, without a word.
        "bf16": {
            "enabled": params.precision == "bf16",
            "immediate_grad_update": params.fp32_gradient_sums,
            "check_grad_overflow": False,  # it would leave out the update without a word; the trainer stops, or goes back
        },
        "fp16": {  # as the run set it (facts 4.1), where the paper's Table 11 prints a window of 2,000
            "enabled": params.precision == "fp16",
            "loss_scale": 0,
            "initial_scale_power": 16,
            "loss_scale_window": 200,
            "hysteresis": 2,
            "min_loss_scale": 1,
        },
        # Blocks compute again by themselves (`checkpoint_blocks`); reentrant checkpointing fails behind integer inputs.
        "pipeline": {"use_reentrant": False, "activation_checkpoint_interval": 0},
        "data_types": {"grad_accum_dtype": "fp32" if params.fp32_gradient_sums else None},
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }

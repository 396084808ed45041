"""Which attention a training will run, known before it starts."""

from __future__ import annotations

import torch

from model.attention import Situation, choose
from model.config import ModelConfig
from model.parallel.plan import PlanError
from stages.pretrain.settings import Params

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def check_attention(config: ModelConfig, params: Params) -> str:
    """The attention backend that the training will run, by name.

    Raises:
        PlanError: the one that was asked for cannot run here.
    """
    cuda = torch.cuda.is_available()
    capability = torch.cuda.get_device_capability() if cuda else (0, 0)
    dtype = _DTYPES[params.precision]
    try:
        return choose(
            params.attention, Situation("cuda" if cuda else "cpu", dtype, config.max_sequence, config.dropout, capability)
        )
    except ValueError as error:
        raise PlanError(f"{error}, in pretrain.attention") from error

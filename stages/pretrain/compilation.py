"""torch.compile of the blocks: on a GPU what a step of small kernels needs; elsewhere where there is a C++ compiler."""

from __future__ import annotations

import os
import shutil

import torch

from model.glm import GLM
from model.parallel.parallelize import blocks
from model.parallel.plan import PlanError
from stages.pretrain.settings import Params


def check_compile(params: Params) -> None:
    """Refuse to compile where it cannot be done.

    Raises:
        PlanError: says why, and what to set.
    """
    if not params.compile:
        return
    obstacle = None
    if params.plan.staged:
        obstacle = "with tensor_parallel or pipeline_parallel, DeepSpeed's pipeline runs blocks one by one, around collectives"
    elif params.zero_stage == 3:
        obstacle = "under zero_stage 3 a weight has elements only while its module runs, which a compiled block does not know"
    elif not torch.cuda.is_available() and shutil.which(os.environ.get("CXX", "g++")) is None:
        obstacle = "on a CPU torch needs a C++ compiler, and there is no g++ here (CXX names another one)"
    if obstacle is not None:
        raise PlanError(f"compile: true is refused: {obstacle}. Set compile: false")


def compile_blocks(model: GLM, backend: str = "inductor") -> None:
    """Compile every block, for the shapes of the first micro-batch; what then comes in too many kinds is an error.

    Args:
        model: whose blocks are not wrapped yet.
        backend: of torch.compile.
    """
    config, parts = torch._dynamo.config, blocks(model)
    config.fail_on_recompile_limit_hit = True  # never plain code in place of compiled, without a word
    config.recompile_limit = max(config.recompile_limit, 4 * len(parts))  # blocks share their code; some differ by a number
    for block in parts:
        block.forward = torch.compile(block.forward, backend=backend, dynamic=False)  # type: ignore[method-assign]

"""Settings that decide what runs: written out, refused with a sentence where they cannot be right."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from model.glm import GLM
from model.parallel.plan import PlanError
from stages._params import ParamsError
from stages.pretrain.deepspeed_config import deepspeed_config
from stages.pretrain.engine import check_machine, parameter_groups
from tests.support.parallel_cases import config, params
from tests.support.training import run_stage, training_project

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero_stage": 0}, r"zero_stage 0 is refused.*Set zero_stage: 1"),
        ({"zero_stage": 2, "pipeline_parallel": 2}, r"zero_stage 2 is refused beside .*pipeline_parallel 2"),
        ({"zero_stage": 3, "tensor_parallel": 2}, r"zero_stage 3 is refused beside tensor_parallel 2"),
        ({"tensor_parallel": 3}, r"model\.heads 4 is no multiple of tensor_parallel 3"),
        ({"pipeline_parallel": 5}, r"pipeline_parallel 5 is more than the 4 blocks"),
        ({"data_parallel": 3}, r"multiples of micro_batch \* data_parallel = 3, found 4: set batch_start"),
        ({"batch_end": 6, "data_parallel": 4}, r"= 4, found 6: set batch_end"),
        ({"fp32_gradient_sums": True}, r"fp32_gradient_sums is for precision bf16 and zero_stage 1"),
    ],
)
def test_what_cannot_be_right_is_refused_before_anything_starts(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        params(1.0, **changes)


def test_a_vocabulary_that_does_not_fall_into_parts_is_refused_with_the_multiple_to_pad_to(tmp_path: Path) -> None:
    done = run_stage(training_project(tmp_path, tensor_parallel=2))  # 128 rows
    assert done.returncode == 1
    assert "128 rows is no multiple of 256 = 128 x tensor_parallel 2. Set tokenizer.pad_multiple: 256" in done.stderr
    assert "Traceback" not in done.stderr


def test_fp16_is_refused_where_the_machine_does_not_compute_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: False)
    with pytest.raises(PlanError, match=r"precision fp16 is refused.*Set precision: bf16"):
        check_machine("fp16")
    check_machine("bf16")
    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: True)
    check_machine("fp16")


def test_every_default_that_changed_between_releases_is_written_out() -> None:
    written = deepspeed_config(params(0.5, zero_stage=2, precision="bf16"), 4_000_000)
    assert written["gradient_clipping"] == 0.5
    assert written["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 4_000_000}
    assert written["bf16"]["enabled"] and not written["fp16"]["enabled"]
    assert written["pipeline"] == {"use_reentrant": False, "activation_checkpoint_interval": 0}
    scale = deepspeed_config(params(0.5, precision="fp16"), 10**12)["fp16"]
    assert (scale["enabled"], 2 ** scale["initial_scale_power"], scale["loss_scale_window"]) == (True, 65_536, 200)


def test_the_switch_against_the_shared_memory_op_is_still_there() -> None:
    """Without it the first process group waits a minute for a compiler; DeepSpeed keeps it in an internal table."""
    import deepspeed

    assert "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__


def test_matrices_and_embeddings_decay_and_nothing_else() -> None:
    """Facts 4.1: not LayerNorms, not biases; every parameter is in one of the groups."""
    model = GLM(config(params(1.0), tied_embeddings=False, embedding_norm=True, norm="sandwich"))
    decayed, plain = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(parameter)].removeprefix("layers.0.") for parameter in decayed["params"]} >= {
        "word_embeddings.weight", "head.weight", "attention.query_key_value.weight", "attention.dense.weight",
        "mlp.dense_h_to_4h.weight", "mlp.dense_4h_to_h.weight",
    }  # fmt: skip
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert {parameter.ndim for parameter in plain["params"]} == {1}
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


READERS_OF_PICKLES = {"torch.load", "np.load", "numpy.load", "joblib.load", "pd.read_pickle"}


def test_nothing_that_trains_or_reads_checkpoints_can_unpickle() -> None:
    for room in ("model", "ledger", "stages/pretrain", "stages/quantize", "stages/evaluate"):
        for file in [*(ROOT / room).rglob("*.py"), *(ROOT / "stages").glob(f"{Path(room).name}.py")]:
            text = file.read_text(encoding="utf-8")
            tree = ast.parse(text)
            imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert not imported & {"pickle", "dill", "cloudpickle", "shelve", "marshal"}, file
            called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
            assert not called & READERS_OF_PICKLES, file


def test_deepspeed_is_imported_in_two_corners_alone() -> None:
    importing = set()
    for room in ("model", "ledger", "stages", "pipelines"):
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(name.partition(".")[0] == "deepspeed" for name in names):
                    importing.add(file.relative_to(ROOT).as_posix())
    assert importing == {"model/parallel/pipeline.py", "stages/pretrain/engine.py"}

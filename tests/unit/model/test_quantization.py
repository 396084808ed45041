"""The published scheme by an independent loop, the packing bit by bit, and exports read back as models."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoint import CONFIG, TOKENIZER, WEIGHTS, CheckpointError, read_model, read_tensors, write_checkpoint
from model.config import ModelConfig
from model.glm import GLM, Batch, initialise
from model.quantization import (
    QuantizedLinear,
    Scheme,
    dequantize,
    load_for_inference,
    pack_int4,
    quantize_checkpoint,
    quantize_tensor,
    unpack_int4,
)

SMALL = ModelConfig(layers=11, hidden=32, heads=2, ffn=64, vocabulary=96, max_sequence=32)
INT8, INT4, GROUPS = Scheme("int8", 8), Scheme("int4", 4), Scheme("int4-group", 4, 16)
SCHEMES = pytest.mark.parametrize("scheme", [INT8, INT4, GROUPS], ids=lambda scheme: scheme.scheme)


def gaussian(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def batch() -> Batch:
    generator = torch.Generator().manual_seed(5)
    return Batch(
        input_ids=torch.randint(8, 96, (2, 20), generator=generator),
        target_ids=torch.randint(8, 96, (2, 20), generator=generator),
        position_ids=torch.arange(20).repeat(2, 1),
        block_start=torch.tensor([[0, 20], [0, 20]]),
        block_context=torch.tensor([[10], [10]]),
    )


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A checkpoint whose biases are not zero, so that losing one shows."""
    model = GLM(SMALL)
    initialise(model, seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.copy_(0.1 * gaussian(1, len(parameter), seed=len(name))[0])
    (tmp_path / "spm").write_bytes(b"a tokenizer")
    folder = tmp_path / "step-000007"
    write_checkpoint(folder, model.state_dict(), {"model": asdict(SMALL)}, tmp_path / "spm")
    return folder


@pytest.mark.parametrize("bits", [8, 4])
def test_rows_follow_the_published_formula(bits: int) -> None:
    weight = gaussian(5, 24)
    codes, scale = quantize_tensor(weight, bits)
    limit = {8: 127, 4: 7}[bits]
    assert codes.dtype == torch.int8 and scale.dtype == torch.float16 and scale.shape == (5, 1)
    for row, found, s in zip(weight.numpy(), codes.numpy(), scale.numpy(), strict=True):
        expected = np.float16(np.abs(row).max() / np.float32(limit))
        assert s[0] == expected
        assert (found == np.rint(row / np.float32(expected))).all()
        assert np.abs(found).max() == limit


@pytest.mark.parametrize("group", [None, 8])
@pytest.mark.parametrize("bits", [8, 4])
def test_no_weight_is_off_by_more_than_half_a_step(bits: int, group: int | None) -> None:
    weight = gaussian(16, 64, seed=1)
    codes, scale = quantize_tensor(weight, bits, group)
    step = scale.float().repeat_interleave(group or 64, dim=1)
    limit = 2 ** (bits - 1) - 1
    assert ((weight - dequantize(codes, scale)).abs() <= step * (0.5 + limit * 2.0**-11)).all()  # FP16 rounds the scale


def test_groups_are_rows_of_their_own() -> None:
    weight = gaussian(6, 32, seed=2)
    codes, scale = quantize_tensor(weight, 4, 8)
    alone, alone_scale = quantize_tensor(weight.view(24, 8), 4)
    assert torch.equal(codes.view(24, 8), alone) and torch.equal(scale.view(24, 1), alone_scale)


def test_an_outlier_costs_its_group_alone() -> None:
    weight = gaussian(8, 128, seed=3)
    weight[:, 5] = 40.0
    error = {group: (weight - dequantize(*quantize_tensor(weight, 4, group)))[:, 64:].norm() for group in (None, 64)}
    assert error[64] < 0.25 * error[None]


def test_halves_are_rounded_to_even() -> None:
    weight = torch.tensor([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.0]])  # scale 1
    assert quantize_tensor(weight, 4)[0].tolist() == [[7, 0, 2, 2, 0, -2, -2, 0]]


def test_empty_and_tiny_rows_become_zeros() -> None:
    weight = torch.stack([torch.zeros(8), torch.full((8,), 1e-12), torch.linspace(-1, 1, 8), torch.full((8,), 5e-7)])
    codes, scale = quantize_tensor(weight, 4)
    assert scale[:2].tolist() == [[0.0], [0.0]] and not codes[:2].any()
    restored = dequantize(pack_int4(codes), scale)
    assert not restored[:2].any() and torch.isfinite(restored).all()
    assert codes.abs().max() == 7  # a subnormal scale is coarse: without a clamp the last row would leave four bits
    assert (restored[3] - 5e-7).abs().max() < 1e-7


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    weight = gaussian(2, 4)
    weight[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantize_tensor(weight, 8)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"5 columns.*even number"):
        quantize_tensor(gaussian(2, 5), 4)
    assert quantize_tensor(gaussian(2, 5), 8)[0].shape == (2, 5)
    with pytest.raises(ValueError, match="24 columns are not a multiple of the group size 16"):
        quantize_tensor(gaussian(2, 24), 4, 16)
    with pytest.raises(ValueError, match="too large for an FP16 scale"):
        quantize_tensor(torch.full((1, 2), 1e7), 4)
    with pytest.raises(ValueError, match="4 or 8"):
        Scheme("int3", 3)


def test_the_even_column_is_in_the_high_nibble() -> None:
    assert pack_int4(torch.tensor([[1, 2, -1, 7, -8, -7]], dtype=torch.int8)).tolist() == [[0x12, 0xF7, 0x89]]


def test_packing_is_undone_for_every_pair_of_codes() -> None:
    pairs = torch.cartesian_prod(torch.arange(-8, 8), torch.arange(-8, 8)).to(torch.int8)
    packed = pack_int4(pairs)
    assert packed.dtype == torch.uint8 and len(packed.unique()) == 256
    assert torch.equal(unpack_int4(packed), pairs)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.sampled_from([2, 4, 16]), st.integers(0, 99), st.floats(1e-4, 1e4))
def test_dequantized_weights_quantize_to_themselves(rows: int, groups: int, width: int, seed: int, size: float) -> None:
    codes, scale = quantize_tensor(gaussian(rows, groups * width, seed) * size, 4, width)
    again, same_scale = quantize_tensor(dequantize(pack_int4(codes), scale), 4, width)
    assert torch.equal(again, codes) and torch.equal(same_scale, scale)


def test_a_quantized_linear_is_the_linear_of_its_weights() -> None:
    layer = QuantizedLinear(32, 12, GROUPS)
    codes, scale = quantize_tensor(gaussian(12, 32), 4, 16)
    layer.load_state_dict({"weight": pack_int4(codes), "weight_scale": scale, "bias": gaussian(1, 12, 8)[0]})
    x = gaussian(3, 32, 9)
    torch.testing.assert_close(layer(x), F.linear(x, dequantize(codes, scale), gaussian(1, 12, 8)[0]))
    assert layer(x.bfloat16()).dtype == torch.bfloat16


@SCHEMES
def test_an_export_holds_what_the_published_files_hold(parent: Path, tmp_path: Path, scheme: Scheme) -> None:
    errors = quantize_checkpoint(parent, tmp_path / "export", scheme)
    before, after = read_tensors(parent), read_tensors(tmp_path / "export")
    quantized = {name for name in before if f"{name}_scale" in after}
    linears = ("query_key_value.weight", "dense.weight", "dense_h_to_4h.weight", "dense_4h_to_h.weight")
    assert quantized == {name for name in before if name.endswith(linears)} == {error.layer for error in errors}
    assert set(after) == set(before) | {f"{name}_scale" for name in quantized}
    for name, tensor in before.items():
        if name in quantized:
            columns = tensor.shape[1] * scheme.bits // 8
            assert after[name].dtype == (torch.int8 if scheme.bits == 8 else torch.uint8)
            assert after[name].shape == (tensor.shape[0], columns)
            assert after[f"{name}_scale"].shape == (tensor.shape[0], tensor.shape[1] // (scheme.group_size or tensor.shape[1]))
        else:
            assert torch.equal(after[name], tensor.half())
    config = json.loads((tmp_path / "export" / CONFIG).read_text())
    assert config == {
        "model": asdict(SMALL),
        "quantization": {
            "scheme": scheme.scheme,
            "bits": scheme.bits,
            "group_size": scheme.group_size,
            "parent": "step-000007",
            "parent_sha256": hashlib.sha256((parent / WEIGHTS).read_bytes()).hexdigest(),
        },
    }
    assert (tmp_path / "export" / TOKENIZER).read_bytes() == b"a tokenizer"


@SCHEMES
def test_errors_are_those_of_the_stored_weights(parent: Path, tmp_path: Path, scheme: Scheme) -> None:
    errors = quantize_checkpoint(parent, tmp_path / "export", scheme)
    before, after = read_tensors(parent), read_tensors(tmp_path / "export")
    assert [error.layer.split(".")[1] for error in errors] == [str(layer) for layer in range(11) for _ in range(4)]
    for error in errors:
        w = before[error.layer].double().numpy()
        q = dequantize(after[error.layer], after[f"{error.layer}_scale"]).double().numpy()
        assert error.relative_error == pytest.approx(np.linalg.norm(w - q) / np.linalg.norm(w))
        assert error.one_minus_cosine == pytest.approx(1 - (w * q).sum() / np.linalg.norm(w) / np.linalg.norm(q), abs=1e-12)
        assert error.max_abs_error == pytest.approx(np.abs(w - q).max())
        assert error.relative_error < {8: 0.02, 4: 0.25}[scheme.bits]


@SCHEMES
def test_an_export_computes_with_the_dequantized_weights(parent: Path, tmp_path: Path, scheme: Scheme) -> None:
    quantize_checkpoint(parent, tmp_path / "export", scheme)
    model = load_for_inference(tmp_path / "export")
    assert not model.training and isinstance(model.layers[10].mlp.dense_4h_to_h, QuantizedLinear)
    stored = read_tensors(tmp_path / "export")
    plain = GLM(SMALL).eval()
    plain.load_state_dict(
        {
            name: dequantize(tensor, stored[f"{name}_scale"]) if f"{name}_scale" in stored else tensor.float()
            for name, tensor in stored.items()
            if not name.endswith("_scale")
        }
    )
    with torch.inference_mode():
        torch.testing.assert_close(model.hidden_states(batch()), plain.hidden_states(batch()))
        loss, _, _ = model(batch())
        original, _, _ = load_for_inference(parent)(batch())
    assert abs(float(loss) - float(original)) < {8: 0.01, 4: 0.3}[scheme.bits]


def test_equal_checkpoints_give_equal_bytes(parent: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        quantize_checkpoint(parent, tmp_path / name, GROUPS)
    for file in (WEIGHTS, CONFIG, TOKENIZER):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_an_unquantized_checkpoint_is_read_as_it_is(parent: Path) -> None:
    model = load_for_inference(parent)
    for name, tensor in read_model(parent).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_a_bad_tensor_is_named(parent: Path, tmp_path: Path) -> None:
    name = "layers.3.mlp.dense_4h_to_h.weight"
    tensors = read_tensors(parent)
    for broken, bad, message in ((name, float("nan"), "NaN"), ("word_embeddings.weight", 1e6, "FP16 cannot")):
        changed = {**tensors, broken: tensors[broken].clone()}
        changed[broken][0, 0] = bad
        save_file(changed, parent / WEIGHTS)
        with pytest.raises(CheckpointError, match=f"{broken}.*{message}"):
            quantize_checkpoint(parent, tmp_path / "export", INT4)
    assert not (tmp_path / "export").exists()


def test_an_export_is_not_quantized_again(parent: Path, tmp_path: Path) -> None:
    quantize_checkpoint(parent, tmp_path / "export", INT8)
    with pytest.raises(CheckpointError, match="quantized already"):
        quantize_checkpoint(tmp_path / "export", tmp_path / "again", INT4)


def test_what_is_no_export_is_refused(parent: Path, tmp_path: Path) -> None:
    quantize_checkpoint(parent, tmp_path / "export", INT4)
    config = json.loads((tmp_path / "export" / CONFIG).read_text())

    def complaint(text: str) -> str:
        (tmp_path / "export" / CONFIG).write_text(text)
        with pytest.raises(CheckpointError) as caught:
            load_for_inference(tmp_path / "export")
        return str(caught.value)

    quantization = config["quantization"]
    assert "uint8; 8 bits need torch.int8" in complaint(json.dumps({**config, "quantization": {**quantization, "bits": 8}}))
    assert "does not fit" in complaint(json.dumps({**config, "quantization": {**quantization, "group_size": 16}}))
    assert "4 or 8" in complaint(json.dumps({**config, "quantization": {**quantization, "bits": 5}}))
    assert "group_size" in complaint(json.dumps({**config, "quantization": {"scheme": "int4", "bits": 4}}))
    assert 'no key "model"' in complaint("{}")
    assert CONFIG in complaint("{")
    with pytest.raises(CheckpointError, match="nowhere"):
        load_for_inference(tmp_path / "nowhere")

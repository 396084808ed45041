"""Weight-only quantization: GLM-130B's INT8 and INT4, and INT4 in groups of columns for models too small for rows.

The published scheme (paper 4 and B.7; facts 5.1): symmetric absmax, one FP16 scale for each output row,
s = max|row| / (2^(bits-1) - 1), q = round(W / s); no zero point, no calibration, -8 never used. The four linears of each
layer are quantized; embedding (which is the head), LayerNorms and biases stay FP16. Ours differs in three points: biases
survive every path (the published load-time path drops them), an all-zero row is allowed, and scales are [N, G] with G groups
a row, so that one format serves rows (G = 1), groups, and the column shards of tensor parallelism.

What to expect (paper Table 10): row-wise INT4 costs 0.7 points of LAMBADA at 130B, but 26 of 29 points at 110M; groups of
64 columns are for that end.

Shapes, in suffixes: N output rows, K input columns, G groups of columns.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.checkpoint import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    CheckpointError,
    read_model,
    read_tensors,
    weights_file,
    write_checkpoint,
)
from model.config import ModelConfig
from model.glm import GLM

_LINEARS = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
_QUANTIZED = re.compile(rf"layers\.\d+\.(?:{'|'.join(map(re.escape, _LINEARS))})\.weight")


@dataclass(frozen=True)
class Scheme:
    """How weights are quantized.

    Attributes:
        scheme: its name, and the export's folder.
        bits: 8, or 4 packed two in a byte.
        group_size: columns that share a scale; None for the whole row, as published.
    """

    scheme: str
    bits: int
    group_size: int | None = None

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits must be 4 or 8, not {self.bits}")

    def shapes(self, rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Shapes of the stored weight and of its scales, for a matrix [rows, columns]."""
        return (rows, columns * self.bits // 8), (rows, columns // (self.group_size or columns))


@dataclass(frozen=True)
class LayerError:
    """What quantization changed in one weight matrix: W against its dequantized self, over all elements.

    Attributes:
        layer: name of the tensor.
        relative_error: ||W - W'|| / ||W||, Frobenius norms.
        one_minus_cosine: 1 - <W, W'> / (||W|| ||W'||).
        max_abs_error: largest |W - W'|.
    """

    layer: str
    relative_error: float
    one_minus_cosine: float
    max_abs_error: float


def quantize_tensor(weight_NK: Tensor, bits: int, group_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Codes, int8 [N, K], and scales, FP16 [N, G], with codes * scales close to `weight_NK`.

    Codes are found with the scale as it is stored, rounded to FP16, and round half to even. Rows too small for an FP16 scale,
    all-zero rows among them, become zeros.

    Raises:
        ValueError: the weight is not finite or too large for FP16, or its columns do not fit bits or group size.
    """
    rows, columns = weight_NK.shape
    width = group_size or columns
    if columns % width:
        raise ValueError(f"{columns} columns are not a multiple of the group size {width}")
    if bits == 4 and columns % 2:
        raise ValueError(f"{columns} columns: INT4 is packed in pairs and needs an even number")
    if not torch.isfinite(weight_NK).all():
        raise ValueError("holds NaN or infinite weights; the training that wrote it diverged")
    limit = 2 ** (bits - 1) - 1
    weight_NGW = weight_NK.float().view(rows, columns // width, width)
    scale_NG = (weight_NGW.abs().amax(-1) / limit).half()
    if not torch.isfinite(scale_NG).all():
        raise ValueError(f"weights up to {float(weight_NK.abs().max()):.3g} are too large for an FP16 scale")
    divisor = torch.where(scale_NG > 0, scale_NG.float(), torch.inf)
    codes = torch.round(weight_NGW / divisor[:, :, None]).clamp(-limit, limit)  # a subnormal scale may be too small by far
    return codes.to(torch.int8).view(rows, columns), scale_NG


def pack_int4(codes_NK: Tensor) -> Tensor:
    """Two codes of -8..7 in each byte, uint8 [N, K/2]: the even column in the HIGH nibble, as in the published kernels."""
    return (codes_NK[:, 0::2] << 4 | codes_NK[:, 1::2] & 0xF).view(torch.uint8)


def unpack_int4(packed: Tensor) -> Tensor:
    """The inverse of `pack_int4`, int8 [N, K]; arithmetic shifts restore the signs."""
    pairs = packed.view(torch.int8)
    return torch.stack([pairs >> 4, pairs << 4 >> 4], dim=-1).flatten(1)


def dequantize(stored: Tensor, scale_NG: Tensor) -> Tensor:
    """FP32 weights [N, K] of int8 codes [N, K] or packed INT4 (uint8, [N, K/2]): code times scale, exact in FP32."""
    codes_NK = unpack_int4(stored) if stored.dtype == torch.uint8 else stored
    rows, groups = scale_NG.shape
    return (codes_NK.view(rows, groups, -1) * scale_NG.float()[:, :, None]).view(rows, -1)


class QuantizedLinear(nn.Module):
    """A linear layer that keeps its weight quantized and dequantizes it for each call, as published (W8A16, W4A16).

    It saves memory, never time. The product is taken in the type of the input: FP32 on a CPU, where the published code
    dequantizes to FP16.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor

    def __init__(self, columns: int, rows: int, scheme: Scheme) -> None:
        super().__init__()
        stored, scale = scheme.shapes(rows, columns)
        self.register_buffer("weight", torch.zeros(stored, dtype=torch.uint8 if scheme.bits == 4 else torch.int8))
        self.register_buffer("weight_scale", torch.zeros(scale, dtype=torch.float16))
        self.register_buffer("bias", torch.zeros(rows))

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        return F.linear(x, dequantize(self.weight, self.weight_scale).to(x.dtype), self.bias.to(x.dtype))


def quantize_checkpoint(source: Path, target: Path, scheme: Scheme) -> list[LayerError]:
    """Write the checkpoint in `source`, quantized, to `target`, and say what that changed, layer by layer.

    A quantized matrix `NAME` is stored as `NAME` (int8, or uint8 with two INT4 codes) and `NAME_scale` (FP16); all else is
    FP16. config.json gains a key "quantization" with the scheme, the parent's folder name and the SHA-256 of its weights.

    Raises:
        CheckpointError: the source is damaged or quantized already, or one of its tensors cannot be quantized.
    """
    config = _read_config(source)
    if "quantization" in config:
        raise CheckpointError(f"{source / CONFIG}: quantized already; quantize its parent instead")
    tensors: dict[str, Tensor] = {}
    errors = []
    for name, tensor in sorted(read_tensors(source).items(), key=lambda item: _in_reading_order(item[0])):
        try:
            if _QUANTIZED.fullmatch(name):
                codes, scale = quantize_tensor(tensor, scheme.bits, scheme.group_size)
                tensors[name] = pack_int4(codes) if scheme.bits == 4 else codes
                tensors[f"{name}_scale"] = scale
                errors.append(_layer_error(name, tensor, dequantize(tensors[name], scale)))
            else:
                tensors[name] = _half(tensor)
        except ValueError as error:
            raise CheckpointError(f"{weights_file(source)}: tensor {name} {error}") from error
    with weights_file(source).open("rb") as file:
        parent_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    lineage = {**asdict(scheme), "parent": source.name, "parent_sha256": parent_sha256}
    write_checkpoint(target, tensors, {"model": config["model"], "quantization": lineage}, source / TOKENIZER)
    return errors


def read_quantized(folder: Path) -> GLM:
    """The model of a quantized checkpoint in evaluation mode: its linears quantized, all else FP32.

    Raises:
        CheckpointError: files are absent or damaged, or names, shapes or types do not fit the settings.
    """
    quantization = _read_config(folder)["quantization"]
    try:
        scheme = Scheme(quantization["scheme"], quantization["bits"], quantization["group_size"])
        config = ModelConfig.read(folder / CONFIG)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG}: not a quantized checkpoint's settings: {error}") from error
    with torch.device("meta"):
        model = GLM(config)
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, QuantizedLinear(module.in_features, module.out_features, scheme))
    types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    tensors = read_tensors(folder)
    for name, tensor in tensors.items():
        wanted = types.get(name, tensor.dtype)
        if wanted == torch.float32:
            tensors[name] = tensor.float()
        elif wanted != tensor.dtype:
            raise CheckpointError(f"{folder / WEIGHTS}: {name} is {tensor.dtype}; {scheme.bits} bits need {wanted}")
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: does not fit {CONFIG}: {error}") from error
    return model.eval()


def load_for_inference(folder: Path) -> GLM:
    """The model of any checkpoint folder, quantized or not, in evaluation mode.

    Raises:
        CheckpointError: not a checkpoint, or a damaged one.
    """
    return read_quantized(folder) if "quantization" in _read_config(folder) else read_model(folder)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG}: not a checkpoint's settings: {error}") from error
    if not isinstance(config, dict) or "model" not in config:
        raise CheckpointError(f'{folder / CONFIG}: not a checkpoint\'s settings: no key "model"')
    return config


def _in_reading_order(name: str) -> list[tuple[int, str]]:
    """Sort key: numbers in a name count as numbers, so that layer 10 follows layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _half(tensor: Tensor) -> Tensor:
    half = tensor.half()
    if not torch.isfinite(half).all():
        raise ValueError(f"holds values that FP16 cannot (largest magnitude {float(tensor.abs().max()):.3g})")
    return half


def _layer_error(name: str, weight: Tensor, quantized: Tensor) -> LayerError:
    before, after = weight.double().flatten(), quantized.double().flatten()
    norms = before.norm(), after.norm()
    if not norms[0]:
        return LayerError(name, 0.0, 0.0, 0.0)
    difference = before - after
    cosine = torch.dot(before, after) / (norms[0] * norms[1]) if norms[1] else torch.zeros(())
    return LayerError(name, float(difference.norm() / norms[0]), 1 - float(cosine), float(difference.abs().max()))

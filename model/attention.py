"""GLM's attention: who sees whom, defined once, and four ways to compute it.

    explicit  plain products, scores held whole: the fastest on a CPU up to some 512 positions
    masked    torch's fused kernel under a dense mask: runs everywhere; what the others are tested against
    prefix    two flash calls for each block of a sequence, without a mask: CPU, or CUDA in half precision
    varlen    the same two calls for all blocks of a batch at once: CUDA in half precision, no dropout
    auto      the best of them that can run

The mask of a block, a context that is seen by all and targets that see what stands before them, needs no mask at all: context
rows attend both ways to the context, and target rows attend causally, aligned to the bottom right, to the whole block. That
costs C^2 + C T + T^2 / 2 products for C context and T target positions, where a dense mask costs (sum of all blocks)^2.

A backend is chosen for a batch by `prepare`, never by a kernel: one that is asked for and cannot run is an error.

Shapes, beside those of model/glm.py: R = B * L rows of a batch in one line, S blocks that are not empty.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = ("auto", "explicit", "masked", "prefix", "varlen")
_EXPLICIT_LENGTH = 512
_fused: Callable[..., Tensor] = F.scaled_dot_product_attention
_log = logging.getLogger(__name__)


class Attend(Protocol):
    """A backend made ready for one batch; every layer calls it."""

    def __call__(self, q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, dropout: float, layer: float = 1.0) -> Tensor:
        """softmax(q k^T / sqrt(K) + mask) v, [B, H, L, K], with the softmax in FP32 and dropout on its shares.

        `layer` is the published query-key layer scaling: q is divided by it, and the scores are multiplied by it again where
        they are FP32. In exact arithmetic that changes nothing; FP16 scores beyond 65,504 it keeps finite.
        """
        ...


@dataclass(frozen=True)
class Situation:
    """What a backend can or cannot run on.

    Attributes:
        device: type of the device: "cpu", "cuda", ...
        dtype: of queries, keys and values.
        length: positions of a sequence.
        dropout: probability on the attention shares, 0 outside of training.
        capability: compute capability of a CUDA device, (0, 0) elsewhere.
    """

    device: str
    dtype: torch.dtype
    length: int
    dropout: float
    capability: tuple[int, int] = (0, 0)


def choose(asked: str, situation: Situation) -> str:
    """The name of the backend to use.

    Raises:
        ValueError: there is no such backend, or the one that was asked for cannot run; the message says why.
    """
    if asked not in BACKENDS:
        raise ValueError(f"attention backend {asked!r} is unknown; allowed: {', '.join(BACKENDS)}")
    if asked == "auto":
        if situation.device == "cpu" and situation.length <= _EXPLICIT_LENGTH:
            return "explicit"
        return next(name for name in ("varlen", "prefix", "masked") if _obstacle(name, situation) is None)
    obstacle = _obstacle(asked, situation)
    if obstacle is not None:
        raise ValueError(f"attention backend {asked} cannot run: {obstacle}; set another one, or auto")
    return asked


def _obstacle(name: str, situation: Situation) -> str | None:
    """Why a backend cannot run, or None."""
    device, dropout = situation.device, situation.dropout > 0
    if name in ("explicit", "masked"):
        return None
    if name == "varlen" and device != "cuda":
        return f"torch has it on CUDA alone, and this is a {device} device"
    if name == "varlen" and dropout:
        return "torch's kernel for blocks of different lengths has no dropout on attention"
    if device == "cpu":
        return "torch's fused kernel on a CPU has no dropout on attention" if dropout else None
    if device != "cuda":
        return f"torch has no flash kernel for a {device} device"
    if situation.dtype not in (torch.float16, torch.bfloat16):
        return f"flash kernels on CUDA take FP16 and BF16, not {situation.dtype}"
    if situation.capability < (8, 0):
        return f"flash kernels need compute capability 8.0 (Ampere), found {situation.capability}"
    return None


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type in which a linear layer gives its result for `x`: that of autocast, where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


@lru_cache(maxsize=64)
def _announce(asked: str, name: str, device: str, dtype: torch.dtype) -> None:
    """Say once for each combination which backend is in use."""
    _log.info("attention: %s (asked for: %s; %s, %s)", name, asked, device, str(dtype).removeprefix("torch."))


def prepare(
    asked: str, block_start_BN: Tensor, block_context_BN: Tensor, length: int, dtype: torch.dtype, dropout: float
) -> Attend:
    """Choose a backend, say so once, and make it ready for the blocks of one batch.

    Args:
        asked: one of `BACKENDS`.
        block_start_BN: [B, N+1], as in `model.glm.Batch`.
        block_context_BN: [B, N].
        length: L.
        dtype: of queries, keys and values.
        dropout: on the attention shares, 0 outside of training.

    Raises:
        ValueError: the backend that was asked for is unknown or cannot run here.
    """
    device = block_start_BN.device
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    name = choose(asked, Situation(device.type, dtype, length, dropout, capability))
    _announce(asked, name, device.type, dtype)
    if name in ("explicit", "masked"):
        visible = attention_mask(block_start_BN, block_context_BN, length)
        mask = torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, -torch.inf)  # once, not once a layer
        return Explicit(mask) if name == "explicit" else Masked(mask)
    blocks_S3 = blocks(block_start_BN, block_context_BN, length)
    made: Attend = Varlen.of(blocks_S3) if name == "varlen" else Prefix.of(blocks_S3)
    # A graph for each layout of blocks would soon be more than torch.compile keeps.
    uncompiled: Attend = torch.compiler.disable(made.__call__)
    return uncompiled


def attention_mask(block_start_BN: Tensor, block_context_BN: Tensor, length: int) -> Tensor:
    """Which position may look at which, bool [B, 1, L, L].

    Inside a block everybody sees the context, and the rest of the block sees itself causally; blocks do not see each
    other (paper 2.2, Fig. 2). Padding behind the last block sees only itself, so that no row is empty.
    """
    position_L = torch.arange(length, device=block_start_BN.device)
    block_BL = torch.searchsorted(block_start_BN[:, 1:].contiguous(), position_L.repeat(len(block_start_BN), 1), right=True)
    context_end_BN = block_start_BN[:, :-1] + block_context_BN
    context_end_BN = F.pad(context_end_BN, (0, 1))  # padding has no context
    context_end_BL = context_end_BN.gather(1, block_BL)
    same_BLL = block_BL[:, :, None] == block_BL[:, None, :]
    context_BLL = position_L[None, None, :] < context_end_BL[:, :, None]
    causal_LL = position_L[None, :] <= position_L[:, None]
    return (same_BLL & (context_BLL | causal_LL))[:, None]


def blocks(block_start_BN: Tensor, block_context_BN: Tensor, length: int) -> Tensor:
    """First row in R, context and target positions of every block that is not empty, int64 [S, 3], in the order of the rows.

    The blocks cover R without a gap: padding counts as a block of targets, which is how `attention_mask` treats it.
    """
    start_BN = F.pad(block_start_BN, (0, 1), value=length)
    size_BN, context_BN = start_BN.diff(dim=1), F.pad(block_context_BN, (0, 1))
    first_BN = start_BN[:, :-1] + length * torch.arange(len(start_BN), device=start_BN.device)[:, None]
    table = torch.stack([first_BN, context_BN, size_BN - context_BN], dim=-1).flatten(0, 1)
    return table[size_BN.flatten() > 0]


def _rows(x_BHLK: Tensor) -> Tensor:
    """[B, H, L, K] -> [R, H, K]: a view where x comes from a [B, L, ...] projection."""
    return x_BHLK.transpose(1, 2).flatten(0, 1)


def _sequences(x_RHK: Tensor, like_BHLK: Tensor) -> Tensor:
    """The inverse of `_rows`."""
    return x_RHK.unflatten(0, (like_BHLK.shape[0], like_BHLK.shape[2])).transpose(1, 2)


@dataclass(frozen=True)
class Explicit:
    """Plain products; `mask` [B, 1, L, L] is added to the scores: 0 or minus infinity.

    Forward and backward of a short sequence take half of the time of torch's fused kernel on a CPU. Scores have the type of
    q, as in the published code, where fused kernels keep FP32; results differ by that rounding alone.
    """

    mask: Tensor

    def __call__(self, q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, dropout: float, layer: float = 1.0) -> Tensor:
        """See `Attend`."""
        wide = torch.promote_types(q_BHLK.dtype, torch.float32)
        scores_BHLL = (q_BHLK * (q_BHLK.shape[-1] ** -0.5 / layer)) @ k_BHLK.transpose(-1, -2)
        if layer != 1.0:
            scores_BHLL = scores_BHLL.to(wide) * layer
        shares_BHLL = torch.softmax(scores_BHLL + self.mask, dim=-1, dtype=wide).to(v_BHLK.dtype)
        return F.dropout(shares_BHLL, dropout) @ v_BHLK if dropout else shares_BHLL @ v_BHLK


@dataclass(frozen=True)
class Masked:
    """`F.scaled_dot_product_attention` with whatever kernel takes a mask; `mask` as in `Explicit`."""

    mask: Tensor

    def __call__(self, q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, dropout: float, layer: float = 1.0) -> Tensor:
        """See `Attend`."""
        q_BHLK, scale = _scaled(q_BHLK, layer)
        return _fused(q_BHLK, k_BHLK, v_BHLK, attn_mask=self.mask, dropout_p=dropout, scale=scale)


def _scaled(q: Tensor, layer: float) -> tuple[Tensor, float]:
    """Queries and the factor that a fused kernel puts on its FP32 scores; q's last axis is K."""
    scale = layer * q.shape[-1] ** -0.5
    return (q if layer == 1.0 else q / layer), scale


@dataclass(frozen=True)
class Prefix:
    """Two flash calls for each block. Where torch has no flash kernel for a call, it raises; it never takes a slower one.

    A CPU has no causal kernel aligned to the bottom right: there torch spells the alignment out as T x (C + T) booleans,
    block by block, which still skips the other blocks and is faster than a dense mask.

    Attributes:
        cuts: context and target positions of each block.
        sizes: their sums.
    """

    cuts: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, blocks_S3: Tensor) -> Prefix:
        """For the table of `blocks`; waits for the device once a batch."""
        cuts = tuple((context, target) for _, context, target in blocks_S3.tolist())
        return cls(cuts, tuple(map(sum, cuts)))

    def __call__(self, q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, dropout: float, layer: float = 1.0) -> Tensor:
        """See `Attend`."""
        from torch.nn.attention.bias import causal_lower_right  # loads torch's compiler: a second

        scaled_BHLK, scale = _scaled(q_BHLK, layer)
        # Splits, not slices: the gradient of a slice is as large as what it was cut from, that of a split is one copy of all.
        split = [_rows(x).split(self.sizes) for x in (scaled_BHLK, k_BHLK, v_BHLK)]
        pieces = []
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            for (context, target), *block in zip(self.cuts, *split, strict=True):
                q, k, v = (x.transpose(0, 1)[None] for x in block)  # [1, H, C + T, K]
                parts = [x.split((context, target), dim=2) for x in (q, k, v)]
                (q_context, q_target), (k_context, _), (v_context, _) = parts
                if context:
                    pieces.append(_fused(q_context, k_context, v_context, dropout_p=dropout, scale=scale))
                if target:
                    bias = causal_lower_right(target, context + target)
                    pieces.append(_fused(q_target, k, v, attn_mask=bias, dropout_p=dropout, scale=scale))
        y_RHK = torch.cat(pieces, dim=2)[0].transpose(0, 1)
        return _sequences(y_RHK, q_BHLK)


class _Reorder(torch.autograd.Function):
    """x[order]; its gradient is grad[inverse], a gather too, where indexing would add row by row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grads[0].index_select(0, inverse), None, None


@dataclass(frozen=True)
class Varlen:
    """Two calls of torch's flash kernel for packed sequences, whatever the number of blocks.

    The first takes the context rows of all blocks one behind the other, the second their target rows, with keys and values in
    place. Blocks without a target are left out of the second call, so that no kernel meets an empty one.

    Attributes:
        order: [R], context rows of all blocks, then target rows.
        inverse: [R], where each row stands in `order`.
        contexts: number of context rows.
        context_ends, target_ends, key_ends: int32, cumulative rows of the blocks in each call, from 0.
        key_rows: rows of the blocks that have targets; None if that is all of them.
        longest: rows of the longest block.
        kernel: `torch.nn.attention.varlen.varlen_attn`, or one with the same arguments.
    """

    order: Tensor
    inverse: Tensor
    contexts: int
    context_ends: Tensor
    target_ends: Tensor
    key_ends: Tensor
    key_rows: Tensor | None
    longest: int
    kernel: Callable[..., Tensor]

    @classmethod
    def of(cls, blocks_S3: Tensor, kernel: Callable[..., Tensor] | None = None) -> Varlen:
        """For the table of `blocks`; waits for the device a few times a batch. `kernel` None takes torch's.

        Raises:
            RuntimeError: torch's kernel does not align a causal window as GLM needs it.
        """
        _, context_S, target_S = blocks_S3.unbind(1)
        size_S = context_S + target_S
        row_R = torch.arange(int(size_S.sum()), device=blocks_S3.device)
        block_R = torch.repeat_interleave(torch.arange(len(size_S), device=row_R.device), size_S, output_size=len(row_R))
        is_target_R = row_R - blocks_S3[block_R, 0] >= context_S[block_R]
        order = torch.argsort(is_target_R, stable=True)
        answers_S = target_S > 0
        return cls(
            order=order,
            inverse=torch.argsort(order),
            contexts=int(context_S.sum()),
            context_ends=_ends(context_S[context_S > 0]),
            target_ends=_ends(target_S[answers_S]),
            key_ends=_ends(size_S[answers_S]),
            key_rows=None if bool(answers_S.all()) else row_R[answers_S[block_R]],
            longest=int(size_S.max()),
            kernel=kernel or flash_varlen(blocks_S3.device),
        )

    def __call__(self, q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, dropout: float, layer: float = 1.0) -> Tensor:
        """See `Attend`; `dropout` is 0."""
        scaled_BHLK, scale = _scaled(q_BHLK, layer)
        in_place = [_rows(x) for x in (scaled_BHLK, k_BHLK, v_BHLK)]
        sizes = self.contexts, len(self.order) - self.contexts
        reordered = [_Reorder.apply(x, self.order, self.inverse).split(sizes) for x in in_place]
        pieces = []
        if sizes[0]:
            q, k, v = (x[0] for x in reordered)
            both = self.kernel(
                q, k, v, self.context_ends, self.context_ends, self.longest, self.longest, scale=scale, window_size=(-1, -1)
            )
            pieces.append(both)
        if sizes[1]:
            q, (k, v) = reordered[0][1], in_place[1:]
            if self.key_rows is not None:
                k, v = k[self.key_rows], v[self.key_rows]
            causal = self.kernel(
                q, k, v, self.target_ends, self.key_ends, self.longest, self.longest, scale=scale, window_size=(-1, 0)
            )
            pieces.append(causal)
        return _sequences(_Reorder.apply(torch.cat(pieces), self.inverse, self.order), q_BHLK)


def _ends(size_S: Tensor) -> Tensor:
    """[0, s1, s1 + s2, ...], int32."""
    return F.pad(size_S.cumsum(0), (1, 0)).to(torch.int32)


@lru_cache(maxsize=8)
def flash_varlen(device: torch.device) -> Callable[..., Tensor]:
    """`torch.nn.attention.varlen.varlen_attn`, once it has shown that it aligns a causal window to the bottom right.

    Its documentation does not say how it aligns queries to a greater number of keys. Aligned to the top left it would hide
    most of the context from the targets, and training would merely learn less.

    Raises:
        RuntimeError: it aligns otherwise.
    """
    from torch.nn.attention.varlen import varlen_attn

    k = torch.zeros(4, 1, 64, device=device, dtype=torch.bfloat16)
    v = k + torch.tensor([0.0, 3.0, 6.0, 15.0], device=device, dtype=k.dtype)[:, None, None]
    queries, keys = (torch.tensor([0, rows], device=device, dtype=torch.int32) for rows in (2, 4))
    seen: Any = varlen_attn(k[:2], k, v, queries, keys, 2, 4, window_size=(-1, 0))
    means = [round(float(value), 2) for value in seen[:, 0, 0]]
    if means != [3.0, 6.0]:  # of the first three values, and of all four
        raise RuntimeError(f"torch's varlen kernel aligns causal windows otherwise ({means}); set attention backend prefix")
    kernel: Callable[..., Tensor] = varlen_attn  # type: ignore[assignment]  # a pair only where an auxiliary output is asked for
    return kernel

"""What plain PyTorch does in many passes over the tokens, done in few: functions with their backward pass written out.

They are for uncompiled blocks; a compiler fuses the plain operations better, so each has its plain form beside it. The
numbers are those of the plain form up to rounding (tests/test_model_fused.py). A step of benchmarks.dit_step at 2,304
video tokens spent 0.9 of 8.3 s in what they replace: joining the streams, splitting and joining fused layers, norms,
rotations. Shapes: B batch, S tokens, H heads, K channels of a head, D = H * K, G runs of tokens modulated alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from model.attention import EPS, RMSNorm, split_heads
from model.rope import rotate

SHORT = 1 << 15  # numbers in a run of tokens: below it a call for each run costs more than the passes it saves


class Stream(NamedTuple):
    """What one stream brings to the attention: fused projections (B, S, 3 D), and norms of its queries and keys."""

    qkv: Tensor
    q_norm: RMSNorm
    k_norm: RMSNorm


# ------------------------------------------------------------------------------- queries, keys and values, streams joined


def joined_heads(table_SP2: Tensor, heads: int, streams: Sequence[Stream]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys normed and rotated, values as they are: (B, S, H, K) each, the streams one after the other."""
    if torch.compiler.is_compiling():
        parts = [split_heads(one.qkv, heads) for one in streams]
        q = torch.cat([one.q_norm(q) for one, (q, _, _) in zip(streams, parts)], dim=1)
        k = torch.cat([one.k_norm(k) for one, (_, k, _) in zip(streams, parts)], dim=1)
        return rotate(q, table_SP2), rotate(k, table_SP2), torch.cat([v for _, _, v in parts], dim=1)
    flat = [one for stream in streams for one in (stream.qkv, stream.q_norm.weight, stream.k_norm.weight)]
    return _JoinedHeads.apply(table_SP2, heads, *flat)  # type: ignore[return-value]


class _JoinedHeads(torch.autograd.Function):
    """Everything goes straight to its place in joined buffers, laid out (B, H, S, K): attention on a CPU is 5 % faster
    on them. Kept for the backward pass: the projections, and one number per token and head."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, heads: int, *flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkvs = flat[::3]
        shape = (qkvs[0].shape[0], heads, sum(one.shape[1] for one in qkvs), qkvs[0].shape[2] // 3 // heads)
        joined = [qkvs[0].new_empty(shape).transpose(1, 2) for _ in range(3)]
        scales, at = [], 0
        for number, qkv in enumerate(qkvs):
            span = slice(at, at := at + qkv.shape[1])
            q, k, v = split_heads(qkv, heads)
            for x, weight, into in zip((q, k), flat[3 * number + 1 :], joined):
                scales.append(_inverse_rms(x))
                wide = scales[-1].dtype
                _turn_into(into[:, span], (x.to(wide) * weight.to(wide)).mul_(scales[-1]), table[span])
            joined[2][:, span] = v
        ctx.heads = heads
        ctx.save_for_backward(table, *flat, *scales)
        return joined[0], joined[1], joined[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        table, *rest = ctx.saved_tensors
        flat, scales = rest[: len(rest) // 5 * 3], rest[len(rest) // 5 * 3 :]  # of a stream 3 inputs and 2 scales
        found: list[Tensor | None] = [None, None]
        at = 0
        for number, qkv in enumerate(flat[::3]):
            span = slice(at, at := at + qkv.shape[1])
            grad = torch.empty_like(qkv)
            q, k, _ = split_heads(qkv, ctx.heads)
            dq, dk, dv = split_heads(grad, ctx.heads)
            weights = []
            for which, (x, into) in enumerate(((q, dq), (k, dk))):
                turned = _turned_back(grads[which][:, span], table[span])
                weights.append(
                    _norm_backward(into, turned, x, flat[3 * number + 1 + which], scales[2 * number + which])
                )
            dv.copy_(grads[2][:, span])
            found += [grad, *weights]
        return tuple(found)


def _inverse_rms(x_BSHK: Tensor) -> Tensor:
    """(B, S, H, 1), in at least fp32."""
    wide = torch.promote_types(x_BSHK.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x_BSHK, dim=-1, keepdim=True, dtype=wide)
    return norm.square_().div_(x_BSHK.shape[-1]).add_(EPS).rsqrt_()


def _turn_into(into: Tensor, x: Tensor, table: Tensor) -> None:
    """x (at least fp32) rotated by the table (S, P, 2), written to `into`."""
    turn = torch.view_as_complex(table)[:, None]
    if into.dtype == x.dtype == table.dtype:
        torch.mul(_pairs(x), turn, out=_pairs(into))
    else:
        into.copy_(torch.view_as_real(_pairs(x) * turn).flatten(-2))


def _turned_back(x: Tensor, table: Tensor) -> Tensor:
    """The opposite rotation of x, in at least fp32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.view_as_real(_pairs(wide) * torch.view_as_complex(table)[:, None].conj()).flatten(-2)


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def _norm_backward(into: Tensor, grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Of x * scale * weight, scale being 1 / rms(x): the gradient of x goes to `into`, that of the weight is returned.

    grad is overwritten.
    """
    width, wide_weight = x.shape[-1], weight.to(grad.dtype)
    normed = x * scale
    product = (grad * normed).reshape(-1, width)
    of_weight = product.sum(dim=0).to(weight.dtype)
    along = (product @ wide_weight).div_(width).view(scale.shape)
    grad.mul_(wide_weight).sub_(normed.mul_(along))
    if into.dtype == grad.dtype:
        torch.mul(grad, scale, out=into)
    else:
        into.copy_(grad.mul_(scale))
    return of_weight


# ------------------------------------------------------------------------------------------------- fused linear layers


def linear_split(layer: Any, x_BSD: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """layer(x) (B, S, sum of sizes) as tensors (B, S, size) of their own."""
    if type(layer) is not nn.Linear or torch.compiler.is_compiling():
        return layer(x_BSD).split(tuple(sizes), dim=-1)
    return _LinearSplit.apply(x_BSD, layer.weight, layer.bias, tuple(sizes))  # type: ignore[return-value]


class _LinearSplit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
        ctx.sizes = sizes
        ctx.save_for_backward(x, weight)
        return tuple(F.linear(x, w, b) for w, b in zip(weight.split(sizes), bias.split(sizes)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = [grad.flatten(0, -2) for grad in grads]
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            parts = weight.split(ctx.sizes)
            of_x = torch.mm(rows[0], parts[0])
            for row, part in zip(rows[1:], parts[1:]):
                torch.addmm(of_x, row, part, out=of_x)
            of_x = of_x.view_as(x)
        if ctx.needs_input_grad[1]:
            of_weight = torch.empty_like(weight)
            for row, part in zip(rows, of_weight.split(ctx.sizes)):
                torch.mm(row.t(), x.flatten(0, -2), out=part)
        if ctx.needs_input_grad[2]:
            of_bias = torch.cat([row.sum(dim=0) for row in rows])
        return of_x, of_weight, of_bias, None


def linear_joined(layer: Any, left: Tensor, right: Tensor) -> Tensor:
    """layer of left (B, S, X) and right (B, S, Y) side by side, without putting them there."""
    if type(layer) is not nn.Linear or torch.compiler.is_compiling():
        return layer(torch.cat((left, right), dim=-1))
    return _LinearJoined.apply(left, right, layer.weight, layer.bias)  # type: ignore[return-value]


class _LinearJoined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(left, right, weight)
        width = left.shape[-1]
        out = torch.addmm(bias, left.flatten(0, -2), weight[:, :width].t())
        torch.addmm(out, right.flatten(0, -2), weight[:, width:].t(), out=out)
        return out.view(*left.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left, right, weight = ctx.saved_tensors
        width, rows = left.shape[-1], grad.flatten(0, -2)
        of_weight = None
        if ctx.needs_input_grad[2]:
            of_weight = torch.empty_like(weight)
            torch.mm(rows.t(), left.flatten(0, -2), out=of_weight[:, :width])
            torch.mm(rows.t(), right.flatten(0, -2), out=of_weight[:, width:])
        return (
            torch.mm(rows, weight[:, :width]).view_as(left),
            torch.mm(rows, weight[:, width:]).view_as(right),
            of_weight,
            rows.sum(dim=0) if ctx.needs_input_grad[3] else None,
        )


# ------------------------------------------------------------------------------------------------ norm and modulation


def norm_modulate(x_BSD: Tensor, shift_BGD: Tensor, scale_BGD: Tensor) -> Tensor:
    """LayerNorm without weights, then * (1 + scale) + shift; the S tokens are G equal runs, one modulation each."""
    short = x_BSD[0].numel() < shift_BGD.shape[1] * SHORT
    if short or torch.compiler.is_compiling():
        normed = F.layer_norm(x_BSD, x_BSD.shape[-1:], eps=EPS).unflatten(1, (shift_BGD.shape[1], -1))
        return torch.addcmul(shift_BGD[:, :, None], normed, 1 + scale_BGD[:, :, None]).flatten(1, 2)
    return _NormModulate.apply(x_BSD, shift_BGD, scale_BGD)  # type: ignore[return-value]


class _NormModulate(torch.autograd.Function):
    """A run's 1 + scale and shift are the weight and the bias of the norm: its own backward gives all three gradients
    in one pass, and the normed tokens need not be kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, EPS)
        runs = normed.unflatten(1, (shift.shape[1], -1))
        ctx.save_for_backward(x, shift, scale, mean, rstd)
        return torch.addcmul(shift[:, :, None], runs, 1 + scale[:, :, None]).flatten(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, scale, mean, rstd = ctx.saved_tensors
        groups = shift.shape[1]
        runs = [one.unflatten(1, (groups, -1)).flatten(0, 1) for one in (grad, x, mean, rstd)]
        weights, biases = (1 + scale).flatten(0, 1), shift.flatten(0, 1)
        every: list[tuple[Tensor, ...]] = [
            torch.ops.aten.native_layer_norm_backward(g, one, one.shape[-1:], m, r, w, b, [True, True, True])
            for g, one, m, r, w, b in zip(*runs, weights, biases)
        ]
        of_x, of_scale, of_shift = every[0] if len(every) == 1 else map(torch.stack, zip(*every))
        return of_x.view_as(x), of_shift.view_as(shift), of_scale.view_as(scale)

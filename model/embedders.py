"""What enters the transformer: patches of the video, time, the pooled text, and the refined text tokens.

Module names are those of the released checkpoint. Shapes: B batch, F frames, L text tokens, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.attention import EPS, attend, split_heads

FREQUENCIES = 256


class PatchEmbed(nn.Module):
    """Video (B, C, T, H, W) -> tokens (B, N, D), in the order frame, row, column."""

    def __init__(self, channels: int, width: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(patches(x, self.proj.kernel_size), self.proj.weight.flatten(1), self.proj.bias)


def patches(x: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Video (B, C, T, H, W) -> (B, N, C * patch), each row one patch: a strided convolution as a matrix product."""
    b, c, t, h, w = x.shape
    pt, ph, pw = patch
    x = x.reshape(b, c, t // pt, pt, h // ph, ph, w // pw, pw)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


def unpatch(x: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """Tokens (B, N, C * patch) -> video (B, C, T, H, W): the inverse of `patches`."""
    x = x.unflatten(2, (-1, *patch)).unflatten(1, grid)
    sides = [n * step for n, step in zip(grid, patch)]
    return x.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(x.shape[0], -1, *sides)


class TimeEmbed(nn.Module):
    """Times (...) in [0, 1000] -> (..., D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(sinusoid(t).to(next(self.parameters()).dtype))


def sinusoid(t: Tensor) -> Tensor:
    """Times (...) -> (..., 256) in fp32: cosines, then sines, of t at frequencies from 1 down to 1/10000."""
    half = FREQUENCIES // 2
    steps = torch.arange(half, device=t.device, dtype=torch.float32)
    angles = t.float()[..., None] * torch.exp(-math.log(10000) / half * steps)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class VectorEmbed(nn.Module):
    """Pooled text (B, P) -> (B, D)."""

    def __init__(self, pooled_width: int, width: int) -> None:
        super().__init__()
        self.in_layer = nn.Linear(pooled_width, width)
        self.out_layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))


class TextProjection(nn.Module):
    """Mean of the text states (B, text width) -> (B, D)."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(text_width, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class RefinerMLP(nn.Module):
    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_width)
        self.fc2 = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x)))


class RefinerBlock(nn.Module):
    """One block over the text tokens: attention and MLP, each behind a gate that time and text decide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.self_attn_qkv = nn.Linear(width, 3 * width)
        self.self_attn_proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = RefinerMLP(width, 4 * width)  # 4 in the released model, whatever the ratio of the large blocks
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor | None) -> Tensor:
        gate_attention, gate_mlp = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        q, k, v = split_heads(self.self_attn_qkv(self.norm1(x)), self.heads)
        x = x + gate_attention * self.self_attn_proj(attend(q, k, v, mask))
        return x + gate_mlp * self.mlp(self.norm2(x))


class RefinerBlocks(nn.Module):
    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(RefinerBlock(width, heads) for _ in range(depth))


class TextRefiner(nn.Module):
    """Text states (B, L, text width) -> (B, L, D), mixed by a few blocks that know the time."""

    def __init__(self, text_width: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.input_embedder = nn.Linear(text_width, width)
        self.t_embedder = TimeEmbed(width)
        self.c_embedder = TextProjection(text_width, width)
        self.individual_token_refiner = RefinerBlocks(width, heads, depth)

    def forward(self, text: Tensor, t: Tensor, mask_BL: Tensor | None) -> Tensor:
        """t (B,); mask (B, L) bool, None when all tokens count."""
        condition = self.t_embedder(t) + self.c_embedder(masked_mean(text, mask_BL))
        x = self.input_embedder(text)
        mask = None if mask_BL is None else _refiner_mask(mask_BL)
        for block in self.individual_token_refiner.blocks:
            x = block(x, condition, mask)
        return x


def masked_mean(x_BLD: Tensor, mask_BL: Tensor | None) -> Tensor:
    """Mean over the tokens that count, summed in fp32; zeros (not NaN) for a text without tokens."""
    wide = x_BLD.to(torch.promote_types(x_BLD.dtype, torch.float32))
    if mask_BL is None:
        return wide.mean(dim=1).to(x_BLD.dtype)
    total = (wide * mask_BL[..., None]).sum(dim=1)
    return (total / mask_BL.sum(dim=1, keepdim=True).clamp(min=1)).to(x_BLD.dtype)


def _refiner_mask(mask_BL: Tensor) -> Tensor:
    """(B, 1, 1, L): tokens that count, and the first one always, so that the softmax of an empty text is no NaN."""
    first = torch.arange(mask_BL.shape[1], device=mask_BL.device) == 0
    return (mask_BL | first)[:, None, None]

"""Rotary positions over (frame, row, column), in HunyuanVideo's convention: neighbouring channels form a pair.

Shapes: B batch, S tokens, H heads, K channels of a head, P = K / 2 pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rope_table(
    grid: tuple[int, int, int], axes: tuple[int, int, int], theta: float, text: int, device: torch.device
) -> Tensor:
    """Token grid (frames, rows, columns) -> rotations (S, P, 2), cosine and sine, float32; S = frames * rows * columns + text.

    axes: how many channels of a head belong to time, height and width (each even; their sum is K). Positions start at 0
    on each axis and are not rescaled. The `text` tokens behind the grid are not rotated.
    """
    places = torch.meshgrid(*(torch.arange(n, device=device, dtype=torch.float32) for n in grid), indexing="ij")
    angles = [
        place.reshape(-1, 1) * theta ** -(torch.arange(0, channels, 2, device=device, dtype=torch.float32) / channels)
        for place, channels in zip(places, axes, strict=True)
    ]
    angles_SP = torch.nn.functional.pad(torch.cat(angles, dim=1), (0, 0, 0, text))
    return torch.stack((angles_SP.cos(), angles_SP.sin()), dim=-1)


def rotate(x_BSHK: Tensor, table_SP2: Tensor) -> Tensor:
    """Rotate the channel pairs of queries or keys (B, S, H, K) by the table (S, P, 2); in fp32, returned in x's dtype."""
    cos, sin = table_SP2[:, None].unbind(-1)
    wide = x_BSHK.to(torch.promote_types(x_BSHK.dtype, torch.float32))
    real, imaginary = wide.unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1)
    return pairs.flatten(-2).to(x_BSHK.dtype)

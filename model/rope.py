"""Rotary positions over (frame, row, column), in HunyuanVideo's convention: neighbouring channels form a pair.

Shapes: B batch, S tokens, H heads, K channels of a head, P = K / 2 pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rope_table(
    grid: tuple[int, int, int], axes: tuple[int, ...], theta: float, text: int, device: torch.device
) -> Tensor:
    """Token grid (frames, rows, columns) -> rotations (S, P, 2): cosine, sine, fp32; S = product of grid + text.

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
    """Rotate the channel pairs of queries or keys (B, S, H, K) by the table (S, P, 2), in fp32; the dtype stays x's."""
    wide = x_BSHK.to(torch.promote_types(x_BSHK.dtype, torch.float32)).unflatten(-1, (-1, 2))
    # One product of complex numbers does in one pass what real arithmetic needs six for: 16 x faster forward and
    # backward, uncompiled. Inductor has no code for complex numbers, but fuses the six passes.
    turn = _turn_real if torch.compiler.is_compiling() else _turn_complex
    return turn(wide, table_SP2[:, None]).flatten(-2).to(x_BSHK.dtype)


def _turn_complex(pairs: Tensor, table: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(table))


def _turn_real(pairs: Tensor, table: Tensor) -> Tensor:
    (real, imaginary), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
    return torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1)

"""Losses, each one number per sample, computed in at least float32."""

from __future__ import annotations

import torch
from torch import Tensor


def velocity_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error per sample: (B, C, T, H, W) twice -> (B,), float32 or the wider type that came."""
    wide = torch.promote_types(predicted.dtype, torch.float32)
    return (predicted.to(wide) - target.to(wide)).square().flatten(1).mean(dim=1)

"""Losses, each one number per sample, computed in at least float32."""

from __future__ import annotations

import torch
from torch import Tensor


def velocity_loss(predicted: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean squared error per sample: (B, C, T, H, W) twice -> (B,), float32 or the wider type that came.

    counts (T,) bool: frames whose error counts; those of an image that was given do not.
    """
    wide = torch.promote_types(predicted.dtype, torch.float32)
    error = (predicted.to(wide) - target.to(wide)).square()
    if counts is None or bool(counts.all()):
        return error.flatten(1).mean(dim=1)
    return error[:, :, counts].flatten(1).mean(dim=1)

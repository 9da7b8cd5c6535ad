"""How alike two pictures are: PSNR and SSIM, and the shrinking that multi-scale losses share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW_PX = 11
SIGMA_PX = 1.5


def psnr(a: Tensor, b: Tensor, peak: float = 2.0) -> float:
    """dB over two tensors of one shape; peak: largest possible difference. Infinite when they are equal."""
    error = float((a.double() - b.double()).pow(2).mean())
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def ssim(a: Tensor, b: Tensor, peak: float = 2.0) -> Tensor:
    """Pictures (N, C, H, W) -> mean structural similarity (N,), at most 1; only windows that lie inside count.

    Gaussian window of 11 px, sigma 1.5 (Wang et al. 2004), smaller for smaller pictures. peak: largest difference.
    """
    window = _gaussian(min(WINDOW_PX, (min(a.shape[-2:]) - 1) // 2 * 2 + 1), a)
    small, large = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_a, mean_b = _blur(a, window), _blur(b, window)
    var_a = _blur(a * a, window) - mean_a**2
    var_b = _blur(b * b, window) - mean_b**2
    covar = _blur(a * b, window) - mean_a * mean_b
    # The luminance term is defined on values from 0 up; here they are in [-peak / 2, peak / 2].
    up_a, up_b = mean_a + peak / 2, mean_b + peak / 2
    luminance = (2 * up_a * up_b + small) / (up_a**2 + up_b**2 + small)
    return (luminance * (2 * covar + large) / (var_a + var_b + large)).mean(dim=(1, 2, 3))


def halved(pictures: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H/2, W/2), by area."""
    return F.avg_pool2d(pictures, 2)


def _gaussian(size: int, like: Tensor) -> Tensor:
    offset = torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
    weights = torch.exp(-(offset**2) / (2 * SIGMA_PX**2))
    return weights / weights.sum()


def _blur(pictures: Tensor, window: Tensor) -> Tensor:
    """Every channel with the window, down and across, without padding."""
    channels = pictures.shape[1]
    down = window.view(1, 1, -1, 1).expand(channels, -1, -1, -1)
    across = window.view(1, 1, 1, -1).expand(channels, -1, -1, -1)
    return F.conv2d(F.conv2d(pictures, down, groups=channels), across, groups=channels)

"""A 3D patch discriminator: says of every patch of a video (or image) how real it looks, and its hinge losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Video (B, 3, T, H, W) in [-1, 1] -> scores (B, 1, T', H', W'), unbounded; T may be 1, H and W at least 16.

    After pix2pix's PatchGAN (arXiv 1611.07004) with time as third axis. Group norm instead of batch norm: a score
    depends on its own video alone.
    """

    def __init__(self, width: int = 32, levels: int = 3):
        super().__init__()
        layers: list[nn.Module] = [_conv(3, width, (1, 2, 2)), nn.LeakyReLU(0.2)]
        for level in range(1, levels):
            inner, outer = width * 2 ** (level - 1), width * 2**level
            layers += [_conv(inner, outer, (2, 2, 2)), nn.GroupNorm(8, outer), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv3d(width * 2 ** (levels - 1), 1, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, video: Tensor) -> Tensor:
        return self.layers(video)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge: mean of max(0, 1 - real) and of max(0, 1 + fake), halved. 1 for a discriminator that knows nothing."""
    return (F.relu(1.0 - real.float()).mean() + F.relu(1.0 + fake.float()).mean()) / 2


def generator_loss(fake: Tensor) -> Tensor:
    """Minus the mean score of what was made."""
    return -fake.float().mean()


def build_discriminator(seed: int, width: int = 32) -> PatchDiscriminator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PatchDiscriminator(width)


def _conv(inner: int, outer: int, stride: tuple[int, int, int]) -> nn.Conv3d:
    return nn.Conv3d(inner, outer, (3, 4, 4), stride, padding=(1, 1, 1))

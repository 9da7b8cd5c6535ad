"""Start weights: what the pyramid computes before it has seen anything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from model.similarity import psnr
from model.vae_sizes import build_vae as build


def build_vae(*chosen: Any) -> Any:
    return build(*chosen).eval()


def smooth(frames: int = 9, size: int = 64) -> torch.Tensor:
    coarse = torch.rand(1, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    return F.interpolate(coarse, (frames, size, size), mode="trilinear", align_corners=True)


def pyramid(video: torch.Tensor) -> torch.Tensor:
    """Closed form: means over 8 x 8 px of the first frame and 4 x 8 x 8 of the others, interpolated three times."""
    first, rest = F.avg_pool3d(video[:, :, :1], (1, 8, 8)), F.avg_pool3d(video[:, :, 1:], (4, 8, 8))
    pictures = torch.cat([first, rest.repeat_interleave(4, 2)], dim=2).transpose(1, 2).flatten(0, 1)
    for _ in range(3):
        pictures = F.interpolate(pictures, scale_factor=2, mode="bilinear", align_corners=False)
    return pictures.unflatten(0, (1, -1)).transpose(1, 2)


@torch.no_grad()
@pytest.mark.parametrize("size", ["nano", "small"])
def test_the_pyramid_averages_and_interpolates(size: str) -> None:
    video = smooth()
    made = build_vae(size, 0, "pyramid")(video).sample
    assert psnr(made, pyramid(video)) > 26.0  # what is left of the random weights blurs it a little
    assert psnr(made, video) > psnr(build_vae(size, 0)(video).sample, video) + 7.0


@torch.no_grad()
def test_the_pyramid_is_the_closed_form_without_its_random_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.vae_start.NOISE", 0.0)
    monkeypatch.setattr("model.vae_start.REFERENCE", 1000.0)  # limit case: the norms' gain no longer varies
    vae = build_vae("small", 0, "pyramid")
    video = smooth()
    assert torch.allclose(vae(video).sample, pyramid(video), atol=2e-3)
    grey = torch.full((1, 3, 1, 32, 32), 0.3)
    assert torch.allclose(vae(grey).sample, grey, atol=2e-3)


@torch.no_grad()
@pytest.mark.parametrize("start", ["random", "pyramid"])
def test_the_posterior_begins_narrow(start: str) -> None:
    posterior = build_vae("nano", 0, start).encode(smooth(5, 32)).latent_dist
    assert torch.allclose(posterior.std, torch.full_like(posterior.std, 2.718281828**-4))

"""A trained VAE as a diffusers folder: latents of mean zero and a measured scaling factor, so that a cache takes it."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from typing import Any

import torch
from torch import Tensor, nn

from model.vae_sizes import set_tiling


@torch.no_grad()
def latent_moments(vae: Any, videos: list[Tensor]) -> tuple[Tensor, float]:
    """(mean per channel (C,), standard deviation around it over all channels) of the latents of videos in [-1, 1]."""
    set_tiling(vae, None)
    means = [vae.encode(video).latent_dist.mean.double().transpose(0, 1).flatten(1) for video in videos]
    latents = torch.cat(means, dim=1)
    mean = latents.mean(dim=1)
    return mean, float((latents - mean[:, None]).pow(2).mean().sqrt())


@torch.no_grad()
def move_latents(vae: Any, shift: Tensor) -> None:
    """Subtract shift (C,) from all latents, exactly: it goes into the biases of the two 1x1x1 convolutions around them.

    diffusers' class has a scaling factor and no shift; a model that trains on latents wants both.
    """
    quant: nn.Conv3d = vae.quant_conv
    post: nn.Conv3d = vae.post_quant_conv
    weight, bias = post.weight, post.bias
    assert quant.bias is not None and bias is not None
    channels = len(shift)
    quant.bias[:channels] -= shift.to(quant.bias)
    bias += (weight.double().flatten(1) @ shift.to(weight.device).double()).to(bias)


def export(vae: Any, videos: list[Tensor], folder: str, facts: dict[str, Any], dtype: str = "float32") -> float:
    """Write `folder` anew: config.json with the measured scaling_factor, safetensors weights, training.json with facts.

    vae: left as it is. videos (B, 3, T, H, W) in [-1, 1], what the latents are measured on. Returns the factor.
    """
    vae = copy.deepcopy(vae).float()
    shift, _ = latent_moments(vae, videos)
    move_latents(vae, shift)
    _, deviation = latent_moments(vae, videos)
    factor = 1.0 / deviation
    vae.register_to_config(scaling_factor=factor)
    beside = os.path.dirname(os.path.abspath(folder))
    os.makedirs(beside, exist_ok=True)
    part = tempfile.mkdtemp(prefix=".vae-", suffix=".part", dir=beside)
    try:
        vae.to(getattr(torch, dtype)).save_pretrained(part, safe_serialization=True)
        with open(os.path.join(part, "training.json"), "w", encoding="utf-8") as file:
            file.write(json.dumps(facts | {"scaling_factor": factor}, indent=1) + "\n")
        os.chmod(part, 0o755)
        _replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return factor


def _replace(part: str, folder: str) -> None:
    """Put a finished folder in another one's place; what was there goes only after it has been moved away."""
    old = f"{folder}.old"
    shutil.rmtree(old, ignore_errors=True)
    if os.path.exists(folder):
        os.rename(folder, old)
    os.rename(part, folder)
    shutil.rmtree(old, ignore_errors=True)

"""Sizes of AutoencoderKLHunyuanVideo (4 x 8 x 8 -> 16 channels), and how one is built to be trained from scratch."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from compat import mend_torchvision
from model.vae_start import STARTS

# The keyword arguments of diffusers' class that make a size; everything else is as released.
VAE_SIZES: dict[str, dict[str, Any]] = {
    "nano": {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 1},  # 80 k parameters
    "small": {"block_out_channels": (16, 32, 64, 64), "layers_per_block": 1, "norm_num_groups": 4},  # 2.9 M
    "medium": {"block_out_channels": (32, 64, 128, 128), "layers_per_block": 1, "norm_num_groups": 8},  # 11.5 M
    "base": {"block_out_channels": (64, 128, 256, 256), "layers_per_block": 2, "norm_num_groups": 16},  # 62 M
    "hunyuan": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32},  # 246 M
}


def build_vae(size: str, seed: int, start: str = "random") -> nn.Module:
    """diffusers' AutoencoderKLHunyuanVideo with the start weights that the seed gives, on the CPU, tiling off.

    start: of model.vae_start.STARTS.
    """
    mend_torchvision()
    logging.getLogger("diffusers.models.modeling_utils").setLevel(logging.ERROR)  # it warns at every change of dtype
    from diffusers import AutoencoderKLHunyuanVideo

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLHunyuanVideo(latent_channels=16, **VAE_SIZES[size])
    STARTS[start](vae)
    set_tiling(vae, None)
    return vae


def set_tiling(vae: Any, tile: tuple[int, int] | None) -> None:
    """Work in tiles of (frames, px), each overlapping the next by a half, blended linearly; None: in one piece.

    frames and px are multiples of 8 and 16. Without this call diffusers' class tiles clips
    of more than 16 frames in time.
    """
    vae.use_tiling = vae.use_framewise_encoding = vae.use_framewise_decoding = tile is not None
    if tile is None:
        return
    frames, px = tile
    if frames % 8 or px % 16:
        raise ValueError(f"a tile must be a multiple of 8 frames and of 16 px, got {tile}")
    vae.tile_sample_min_num_frames, vae.tile_sample_stride_num_frames = frames, frames // 2
    vae.tile_sample_min_height = vae.tile_sample_min_width = px
    vae.tile_sample_stride_height = vae.tile_sample_stride_width = px // 2

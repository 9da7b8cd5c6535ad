"""What a VAE is worth: PSNR and SSIM on held-out footage, in one piece and in tiles, and pictures to look at."""

from __future__ import annotations

from statistics import fmean as mean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.similarity import psnr, ssim
from model.vae_sizes import set_tiling
from train import vae_data
from train.vae_data import Source
from train.vae_step import frames_of

MAX_CLIPS = 12
MAX_PICTURES = 6


class Judged(NamedTuple):
    """Means over clips (dB, SSIM of 1 at best); pictures: rows of original, made, and made in tiles, RGB uint8."""

    psnr: float
    ssim: float
    psnr_tiled: float
    clips: int
    rows: list[np.ndarray]

    def record(self) -> dict[str, float]:
        return {"psnr": self.psnr, "ssim": self.ssim, "psnr_tiled": self.psnr_tiled, "clips": self.clips}


def held_out(sources: list[Source], frames: int, size: int) -> list[Tensor]:
    """Clips (3, frames or 1, size, size) uint8 of at most MAX_CLIPS sources, spread evenly over them; no upscaling."""
    large = [one for one in sources if min(one.width, one.height) >= size]
    chosen = [large[i * len(large) // MAX_CLIPS] for i in range(MAX_CLIPS)] if len(large) > MAX_CLIPS else large
    return [vae_data.read(vae_data.middle(one, frames), size) for one in chosen]


@torch.no_grad()
def judge(vae: Any, clips: list[Tensor], tile: tuple[int, int], device: torch.device) -> Judged:
    """Encode (the mean) and decode every clip, whole and in tiles. Raises ValueError when there are no clips."""
    if not clips:
        raise ValueError("no held-out clips to judge a VAE on")
    dtype = next(vae.parameters()).dtype
    psnrs, ssims, tiled_psnrs, rows = [], [], [], []
    for clip in clips:
        video = vae_data.to_signed(clip[None], device, dtype)
        made, in_tiles = (_round_trip(vae, video, one) for one in (None, tile))
        video = video.float()
        psnrs.append(psnr(made, video))
        ssims.append(float(ssim(frames_of(made), frames_of(video)).mean()))
        tiled_psnrs.append(psnr(in_tiles, video))
        if len(rows) < MAX_PICTURES:
            rows.append(np.concatenate([_picture(one) for one in (video, made, in_tiles)], axis=1))
    set_tiling(vae, None)
    return Judged(mean(psnrs), mean(ssims), mean(tiled_psnrs), len(clips), rows)


def _round_trip(vae: Any, video: Tensor, tile: tuple[int, int] | None) -> Tensor:
    set_tiling(vae, tile)
    return vae.decode(vae.encode(video).latent_dist.mean).sample.float().clamp(-1.0, 1.0)


def _picture(video: Tensor) -> np.ndarray:
    """The last frame as uint8 (H, W, 3)."""
    return ((video[0, :, -1].permute(1, 2, 0) + 1.0) * 127.5).round().clamp(0, 255).byte().cpu().numpy()

"""Whether picture and sound belong together: a small pair of encoders in SyncNet's manner, and what it listens to.

A scorer is a module: clips (N, 3, T, H, W) in [-1, 1] and sound (N, BANDS, STEPS * T) -> cosines (N,) in [-1, 1].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

BANDS = 16  # geometric bands of the spectrum, from LOWEST_HZ up
RATE = 16_000  # of the sound that the cache reads; the bands end at half of it
STEPS = 4  # of the sound per picture frame, as SyncNet has
LOWEST_HZ = 60.0
SILENT = 0.02  # features of a track without sound are 0, but for rounding
SIDE_PX = 32  # clips are shrunk to this: loudness is seen in coarse motion
WIDTH = 32
SMALLEST = 1e-4  # probability, so that a hopeless pair's loss (9.2) and gradient stay finite


class SyncPair(nn.Module):
    """Two small convolutional encoders whose features agree where sound and picture do. 0.1 M parameters."""

    def __init__(self, width: int = WIDTH):
        super().__init__()
        self.picture = nn.Sequential(
            nn.Conv3d(3, width, 3, stride=(1, 2, 2), padding=1), nn.SiLU(),
            nn.Conv3d(width, width, 3, stride=(1, 2, 2), padding=1), nn.SiLU(),
            nn.AdaptiveAvgPool3d((None, 2, 2)),
        )  # fmt: skip
        self.sound = nn.Sequential(
            nn.Conv1d(BANDS, width, 5, padding=2), nn.SiLU(),
            nn.Conv1d(width, 4 * width, STEPS, stride=STEPS), nn.SiLU(),
        )  # fmt: skip
        self.picture_out = nn.Conv1d(4 * width, width, 3, padding=1)
        self.sound_out = nn.Conv1d(4 * width, width, 3, padding=1)

    def forward(self, clips: Tensor, sound: Tensor) -> Tensor:
        small = F.adaptive_avg_pool3d(clips.float(), (clips.shape[2], SIDE_PX, SIDE_PX))
        seen = self.picture_out(self.picture(small).permute(0, 1, 3, 4, 2).flatten(1, 3))
        heard = self.sound_out(self.sound(sound.float()))
        return F.cosine_similarity(_changes(seen), _changes(heard), dim=1)


def _changes(features: Tensor) -> Tensor:
    """(N, D, T) -> (N, D T) without the mean over time: what stands still says nothing of what belongs together."""
    return (features - features.mean(dim=2, keepdim=True)).flatten(1)


def sync_loss(cosine: Tensor) -> Tensor:
    """Cosines (N,) -> minus the log of the probability (1 + cosine) / 2 that the pair belongs together: 0 at 1, log 2
    at 0."""
    return -((1 + cosine) / 2).clamp(min=SMALLEST).log()


def pair_loss(cosine: Tensor, together: Tensor) -> Tensor:
    """What a pair is trained with: binary cross entropy of (1 + cosine) / 2 against `together` (N,) bool."""
    return torch.where(together, sync_loss(cosine), sync_loss(-cosine)).mean()


def sound_features(wave: Tensor, rate: int, fps: float, frames: int) -> Tensor:
    """Mono sound (N, samples) in [-1, 1] -> log energies (N, BANDS, STEPS * frames) of about unit range.

    Each step is a Hann window of two steps' length around its middle; sound that is missing at the end is silence, and
    silence is 0.
    """
    hop = rate / fps / STEPS
    length = 2 * round(hop)
    starts = [round((step + 0.5) * hop) for step in range(STEPS * frames)]
    padded = F.pad(wave, (length // 2, max(0, starts[-1] + length - wave.shape[1])))
    windows = torch.stack([padded[:, start : start + length] for start in starts], dim=1)
    power = torch.fft.rfft(windows * torch.hann_window(length, device=wave.device)).abs().square() / length
    edges = torch.logspace(0, 1, BANDS + 1, base=rate / 2 / LOWEST_HZ, dtype=torch.float64) * LOWEST_HZ
    centres = torch.arange(power.shape[-1], dtype=torch.float64) * rate / length
    inside = ((centres >= edges[:-1, None]) & (centres < edges[1:, None])).to(power)
    return ((inside @ power.transpose(1, 2)) + 1e-5).log10() / 5 + 1


def sound_settings() -> dict[str, Any]:
    """Everything that changes the features of a given sound."""
    return {"version": 1, "rate": RATE, "bands": BANDS, "steps": STEPS, "lowest_hz": LOWEST_HZ}


def load_sync(path: str, device: torch.device | str = "cpu") -> nn.Module:
    """Weights of a SyncPair (safetensors), or any scorer as a TorchScript file. Frozen. Raises FileNotFoundError."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: no synchronisation scorer there (safetensors of model/sync.py, or TorchScript)"
        )
    if path.endswith(".safetensors"):
        pair: Any = SyncPair()
        pair.load_state_dict(load_file(path), strict=True)
    else:
        pair = torch.jit.load(path, map_location=device)
    return pair.requires_grad_(False).eval().to(device)

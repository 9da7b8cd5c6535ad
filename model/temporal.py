"""How differently two clips move: a pyramid of differences in time, or the features of a video encoder given by path.

`load_temporal(path)` gives a module: two batches of clips (N, 3, T, H, W) in [-1, 1] -> distances (N,), 0 for equal
ones. LatentSync (arXiv 2412.09262) calls the second kind TREPA, with VideoMAE as the encoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compat import mend_torchvision

SCALES = 3  # full, half and quarter size
LAGS = (1, 2, 4)  # frames
MIN_SIDE_PX = 8


class DifferencePyramid(nn.Module):
    """Mean absolute difference of the changes over 1, 2 and 4 frames, averaged over lags and three sizes.

    It is blind to what stands still, however wrong, and needs no weights. A single frame has no motion: 0.
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        off = a.float() - b.float()  # the difference of changes is the change of the difference
        found = []
        for _ in range(SCALES):
            found += [_change(off, lag) for lag in LAGS if lag < off.shape[2]]
            if min(off.shape[-2:]) < 2 * MIN_SIDE_PX:
                break
            off = F.avg_pool3d(off, (1, 2, 2))
        return torch.stack(found).mean(dim=0) if found else off.new_zeros(len(off))


class Encoded(nn.Module):
    """Squared distance of the encoder's features, each of length 1: 2 - 2 cos, averaged over its tokens."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        one, other = (_unit_tokens(self.encoder(clip.float())) for clip in (a, b))
        return (one - other).square().sum(dim=-1).mean(dim=1)


class HuggingFace(nn.Module):
    """A transformers video model: clips (N, 3, T, H, W) -> last hidden states (N, tokens, D).

    It is shown as many frames as it was trained on, at its size, with ImageNet's mean and deviation.
    """

    def __init__(self, folder: str):
        super().__init__()
        mend_torchvision()
        from transformers import AutoModel  # heavy: only where it is used

        self.network = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        self.frames, self.side = int(self.network.config.num_frames), int(self.network.config.image_size)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1, 1))

    def forward(self, clips: Tensor) -> Tensor:
        shown = torch.linspace(0, clips.shape[2] - 1, self.frames, device=clips.device).round().long()
        sized = F.interpolate(clips[:, :, shown], (self.frames, self.side, self.side), mode="trilinear")
        pixels = ((sized + 1) / 2 - self.get_buffer("mean")) / self.get_buffer("std")
        return self.network(pixel_values=pixels.transpose(1, 2)).last_hidden_state


def load_temporal(path: str | None, device: torch.device | str = "cpu") -> nn.Module:
    """The built-in pyramid for None, a transformers folder, or a TorchScript file: (N, 3, T, H, W) -> features
    (N, D) or (N, tokens, D). Frozen. Raises FileNotFoundError."""
    if path is None:
        return DifferencePyramid().to(device)
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no video encoder there (a TorchScript file or a transformers folder)")
    encoder: Any = HuggingFace(path) if Path(path).is_dir() else torch.jit.load(path, map_location=device)
    return Encoded(encoder).requires_grad_(False).eval().to(device)


def _change(clip: Tensor, lag: int) -> Tensor:
    return (clip[:, :, lag:] - clip[:, :, :-lag]).abs().mean(dim=(1, 2, 3, 4))


def _unit_tokens(features: Tensor) -> Tensor:
    """(N, D) or (N, ..., D) -> (N, tokens, D) of length 1."""
    return F.normalize(features.float().reshape(len(features), -1, features.shape[-1]), dim=-1)

"""The built-in codec: video <-> latents by a linear transform without weights, 4 x 8 x 8 -> 16 channels.

The stand-in for a trained VAE on machines without one. Three orthonormal transforms one after another, of which 16
coefficients are kept: colour (grey, red - blue, green - magenta), time (cosine over 4 frames), space (an 8 x 8 cosine
transform lapped over the block borders: Malvar's LOT in the form of Tran, Liang, Tu 2003, "Lapped transform via
time-domain pre- and post-filtering"). Decoding is the transpose, so encoding what was decoded gives the same latents.

The first frame is a group of its own, as with the VAEs it stands in for, and so is an image. It has no motion to spend
channels on, so it keeps finer detail in the last four; the first twelve mean the same everywhere, on the same scale:
a picture that doesn't move has equal values there in all its latent frames.

Legend: B batch, C colours or channels, T frames, G latent frames, H, W px, h, w latent px, u, v frequencies.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

CHANNELS = 16
GROUP = 4  # frames per latent frame after the first
BLOCK = 8  # px per latent px
FREQUENCIES = 4  # of 8 per axis: no kept coefficient has a higher one
VERSION = 1


class Kept(NamedTuple):
    """One kept coefficient: colour axis, frequencies down, across and in time, and what it is divided by."""

    colour: int
    down: int
    across: int
    time: int
    scale: float


# Which 16: those that gave the highest PSNR on photographs and on clips of real and generated footage. Scales: the
# root mean square of each coefficient in a clip (in a frame, for those without motion), averaged over clips, rounded,
# equal for down and across. `python -m benchmarks.codec_psnr FOOTAGE` prints both figures for any footage.
# fmt: off
_SHARED = [(0, 0, 0, 6.5), (0, 0, 1, 0.95), (0, 1, 0, 0.95), (0, 1, 1, 0.46), (0, 0, 2, 0.46), (0, 2, 0, 0.46),
           (0, 0, 3, 0.31), (0, 3, 0, 0.31), (1, 0, 0, 2.8), (1, 0, 1, 0.32), (1, 1, 0, 0.32), (2, 0, 0, 1.5)]
_DETAIL = [(0, 1, 2, 0, 0.27), (0, 2, 1, 0, 0.27), (2, 0, 1, 0, 0.19), (2, 1, 0, 0, 0.19)]
_MOTION = [(0, 0, 0, 1, 1.1), (0, 0, 1, 1, 0.5), (0, 1, 0, 1, 0.5), (0, 0, 0, 2, 0.5)]
# fmt: on
FIRST = [Kept(c, u, v, 0, s) for c, u, v, s in _SHARED] + [Kept(*one) for one in _DETAIL]
# The constant part of 4 equal frames is sqrt(4) times that of one.
LATER = [Kept(c, u, v, 0, s * math.sqrt(GROUP)) for c, u, v, s in _SHARED] + [Kept(*one) for one in _MOTION]


class Codec:
    """The Vae interface over encode and decode: no weights, float32, any device."""

    channels = CHANNELS

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)

    def encode(self, video: torch.Tensor) -> tuple[torch.Tensor, None]:
        return encode(video.to(self.device)), None

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """One group of frames after the other: a clip at once takes six times its own memory."""
        latents = latents.to(self.device)
        if latents.requires_grad or latents.shape[2] < 3:
            return decode(latents)
        groups = [_rest(one) for one in latents[:, :, 1:].split(1, dim=2)]
        return torch.cat([decode(latents[:, :, :1]), *groups], dim=2)

    def decode_with_gradient(self, latents: torch.Tensor) -> torch.Tensor:
        return decode(latents.to(self.device))  # linear: the same, wherever gradients are kept

    def settings(self) -> dict[str, Any]:
        return settings()


def settings() -> dict[str, Any]:
    return {"class": "codec", "version": VERSION, "channels": CHANNELS}


def encode(video: torch.Tensor) -> torch.Tensor:
    """Video (B, 3, T, H, W) in [-1, 1] -> latents (B, 16, 1 + (T-1)/4, H/8, W/8) float32, about unit variance.

    Raises ValueError unless T is 1 or 4n+1 and H, W are multiples of 8.
    """
    _, colours, frames, height, width = video.shape
    if colours != 3 or frames % GROUP != 1 or height % BLOCK or width % BLOCK:
        raise ValueError(
            f"the codec takes (B, 3, 1 or 4n+1 frames, multiple of 8, multiple of 8), got {tuple(video.shape)}"
        )
    planes = torch.einsum("kc,bcthw->bkthw", _colours(video.device), video.float())
    spectra = _forward(_forward(planes, 3), 4)  # (B, 3, T, h, u, w, v)
    first = _keep(spectra[:, :, :1].unsqueeze(3), FIRST)
    rest = spectra[:, :, 1:].unflatten(2, (-1, GROUP))
    over_time = torch.einsum("kt,bcgthuwv->bcgkhuwv", _cosines(GROUP, video.device), rest)
    return torch.cat([first, _keep(over_time, LATER)], dim=2)


def decode(latents: torch.Tensor) -> torch.Tensor:
    """Latents (B, 16, G, h, w) -> video (B, 3, 1 + 4 (G-1), 8h, 8w) float32, in [-1, 1] but for rounding over it."""
    if latents.dim() != 5 or latents.shape[1] != CHANNELS:
        raise ValueError(f"latents must be (B, {CHANNELS}, G, h, w), got {tuple(latents.shape)}")
    parts = [_first(latents[:, :, :1]), _rest(latents[:, :, 1:])]
    return torch.cat(parts, dim=2) if latents.shape[2] > 1 else parts[0]


def _first(latents: torch.Tensor) -> torch.Tensor:
    """The latent of the first frame (B, 16, 1, h, w) -> video (B, 3, 1, H, W)."""
    return _pictures(_spread(latents.float(), FIRST, 1).squeeze(3))


def _rest(latents: torch.Tensor) -> torch.Tensor:
    """Later latents (B, 16, G, h, w) -> video (B, 3, 4 G, H, W): groups know nothing of each other."""
    over_time = _spread(latents.float(), LATER, GROUP)
    return _pictures(torch.einsum("kt,bcgkhuwv->bcgthuwv", _cosines(GROUP, latents.device), over_time).flatten(2, 3))


def _pictures(spectra: torch.Tensor) -> torch.Tensor:
    """Spectra (B, 3, T, h, u, w, v) -> video (B, 3, T, H, W)."""
    planes = _backward(_backward(spectra, 4), 3)
    return torch.einsum("kc,bkthw->bcthw", _colours(spectra.device), planes)


def _keep(spectra: torch.Tensor, kept: list[Kept]) -> torch.Tensor:
    """(B, 3, G, frequencies in time, h, u, w, v) -> (B, 16, G, h, w), scaled."""
    chosen = [spectra[:, one.colour, :, one.time, :, one.down, :, one.across] / one.scale for one in kept]
    return torch.stack(chosen, dim=1)


def _spread(latents: torch.Tensor, kept: list[Kept], times: int) -> torch.Tensor:
    """The transpose of _keep: what was not kept is zero."""
    batch, _, groups, height, width = latents.shape
    spectra = latents.new_zeros(batch, 3, groups, times, height, FREQUENCIES, width, FREQUENCIES)
    for channel, one in enumerate(kept):
        spectra[:, one.colour, :, one.time, :, one.down, :, one.across] = latents[:, channel] * one.scale
    return spectra


def _forward(planes: torch.Tensor, axis: int) -> torch.Tensor:
    """Lapped transform along the first px axis at or after `axis`, which becomes two: blocks, frequencies."""
    axis = axis if planes.dim() == 5 else axis + 1  # the axis before has been split already
    moved = _lap(planes.movedim(axis, -1)).unflatten(-1, (-1, BLOCK))
    spectrum = moved @ _cosines(BLOCK, planes.device)[:FREQUENCIES].T
    return spectrum.movedim((-2, -1), (axis, axis + 1))


def _backward(spectra: torch.Tensor, axis: int) -> torch.Tensor:
    """The transpose of _forward: blocks and frequencies become px again."""
    axis = axis if axis == 3 else axis + 1
    moved = spectra.movedim((axis, axis + 1), (-2, -1)) @ _cosines(BLOCK, spectra.device)[:FREQUENCIES]
    return _lap(moved.flatten(-2), transpose=True).movedim(-1, axis)


def _lap(signal: torch.Tensor, transpose: bool = False) -> torch.Tensor:
    """Mix the 4 px on both sides of each border between blocks, orthonormally; the picture's edges stay as they are."""
    if signal.shape[-1] == BLOCK:
        return signal
    half = BLOCK // 2
    mixer = _mixer(signal.device)
    inner = signal[..., half:-half].unflatten(-1, (-1, BLOCK)) @ (mixer if transpose else mixer.T)
    return torch.cat([signal[..., :half], inner.flatten(-2), signal[..., -half:]], dim=-1)


def _mixer(device: torch.device) -> torch.Tensor:
    """The 8 x 8 orthonormal pre-filter of the LOT: butterflies around a rotation of the odd half."""
    half = BLOCK // 2
    eye = torch.eye(half, dtype=torch.float64)
    flip = eye.flip(0)
    butterfly = torch.cat([torch.cat([eye, flip], 1), torch.cat([flip, -eye], 1)]) / math.sqrt(2)
    turn = flip @ _cosine_matrix(half).T @ _cosine_matrix(half, shift=0.5) @ flip
    return (butterfly @ torch.block_diag(eye, turn) @ butterfly).float().to(device)


def _cosines(size: int, device: torch.device) -> torch.Tensor:
    """Orthonormal DCT-II (frequency, position)."""
    return _cosine_matrix(size).float().to(device)


def _cosine_matrix(size: int, shift: float = 0.0) -> torch.Tensor:
    """cos(pi (position + 1/2) (frequency + shift) / size), rows of unit length: DCT-II, or DCT-IV with shift 1/2."""
    frequency = torch.arange(size, dtype=torch.float64)[:, None] + shift
    position = torch.arange(size, dtype=torch.float64)[None, :] + 0.5
    matrix = torch.cos(math.pi * position * frequency / size)
    return matrix / matrix.norm(dim=1, keepdim=True)


def _colours(device: torch.device) -> torch.Tensor:
    """Orthonormal axes of colour (axis, RGB): grey, red - blue, green - magenta."""
    axes = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-0.5, 1.0, -0.5]], dtype=torch.float64)
    return (axes / axes.norm(dim=1, keepdim=True)).float().to(device)

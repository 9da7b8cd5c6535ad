"""Image to video: what each published variant feeds to the transformer. The transformer knows none of them.

A variant is one function: (noisy latents (B, C, T, H, W), image latent (B, C, 1, H, W), t (B,)) -> Conditioned.
Latents are scaled to unit variance. The image latent is encoded from the image's own pixels: HunyuanVideo's VAE is not
causal in its values, so the first latent frame of a clip is not the latent of its first picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Conditioned(NamedTuple):
    x: Tensor  # the transformer's input (B, C in, T, H, W)
    t: Tensor  # (B,), or (B, T) where frames stand at times of their own
    counts: Tensor  # (T,) bool: frames whose error the loss counts


class Variant(NamedTuple):
    """pad_front: clean latents are lengthened in front before noise is added, and cut again after sampling;
    token_stride: of the picture's tokens that a language model sees, each so-many-th joins the text."""

    condition: Callable[[Tensor, Tensor, Tensor], Conditioned]
    in_channels: Callable[[int], int]
    pad_front: bool = False
    token_stride: int = 2


def text_to_video(noisy: Tensor, t: Tensor) -> Conditioned:
    """No image: what the variants are variants of."""
    return Conditioned(noisy, t, _all_frames(noisy))


def token_replace(noisy: Tensor, image: Tensor, t: Tensor) -> Conditioned:
    """HunyuanVideo-I2V: frame 0 is the clean image, stands at t = 0, and is out of the loss. C channels."""
    frames = noisy.shape[2]
    first = torch.arange(frames, device=noisy.device) == 0
    x = torch.cat((image.to(noisy.dtype), noisy[:, :, 1:]), dim=2)
    return Conditioned(x, torch.where(first, 0.0, t[:, None]), ~first)


def concat_mask(noisy: Tensor, image: Tensor, t: Tensor) -> Conditioned:
    """HunyuanVideo-I2V's latent concat: noisy, image (zeros behind frame 0), mask (1 on frame 0). 2 C + 1 channels."""
    still = _first_frame_only(image, noisy)
    mask = _first_frame_only(torch.ones_like(image[:, :1]), noisy)
    return Conditioned(torch.cat((noisy, still, mask), dim=1), t, _all_frames(noisy))


def concat(noisy: Tensor, image: Tensor, t: Tensor) -> Conditioned:
    """SkyReels-V1: noisy, image (zeros behind frame 0). 2 C channels. CogVideoX1.5 feeds the same, front-padded."""
    return Conditioned(torch.cat((noisy, _first_frame_only(image, noisy)), dim=1), t, _all_frames(noisy))


VARIANTS: dict[str, Variant] = {
    "token_replace": Variant(token_replace, lambda channels: channels, token_stride=4),
    "concat_mask": Variant(concat_mask, lambda channels: 2 * channels + 1),
    "concat": Variant(concat, lambda channels: 2 * channels),
    "first_frame_copy": Variant(concat, lambda channels: 2 * channels, pad_front=True),
}


def extra_frames(frames: int, patch_t: int) -> int:
    """How many copies of frame 0 make the number of latent frames a multiple of the temporal patch (21 by 2 -> 1)."""
    return -frames % patch_t


def pad_front(latents: Tensor, patch_t: int) -> Tensor:
    """CogVideoX1.5: clean latents (B, C, T, H, W), lengthened in front by copies of frame 0. All of them count."""
    copies = latents[:, :, :1].expand(-1, -1, extra_frames(latents.shape[2], patch_t), -1, -1)
    return torch.cat((copies, latents), dim=2)


def cut_front(latents: Tensor, frames: int) -> Tensor:
    """The last `frames` latent frames: drops, after sampling, what `pad_front` put in front."""
    return latents[:, :, latents.shape[2] - frames :]


def image_scaling(image: Tensor, scaling_factor: float | Tensor, how: str) -> Tensor:
    """A scaled image latent as CogVideoX1.5's two codes feed it: `multiply` (its trainer), `divide` (its sampler).

    The latents are z * s as stored; its sampler feeds z / s because the published weights were trained that way.
    Raises ValueError for another word.
    """
    if how not in ("multiply", "divide"):
        raise ValueError(f"image_latent_scaling must be `multiply` or `divide`, got {how!r}")
    return image if how == "multiply" else image / scaling_factor**2


# ------------------------------------------------------------------------------------------------- semantic injection

IMAGE_START, IMAGE_END = 5, 581  # where the 576 image tokens stand in the language model's sequence


def image_tokens(states: Tensor, stride: int) -> Tensor:
    """Hidden states of the language model (B, L, D) -> every stride-th image token (B, 576 / stride, D).

    stride: 4 for token_replace, 2 for concat_mask. Raises ValueError when the sequence holds no whole image.
    """
    if states.shape[1] < IMAGE_END:
        raise ValueError(f"a sequence with an image has at least {IMAGE_END} tokens, got {states.shape[1]}")
    return states[:, IMAGE_START:IMAGE_END:stride]


def put_image_first(image: Tensor, text: Tensor, text_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Image tokens (B, M, D) in front of text tokens (B, L, D) -> (B, M + L, D) and its mask, a prefix still."""
    joined = torch.cat((image.to(text.dtype), text), dim=1)
    return joined, None if text_mask is None else F.pad(text_mask, (image.shape[1], 0), value=True)


def drop_image(image: Tensor, black: Tensor, dropped: Tensor) -> Tensor:
    """Where `dropped` (B,) bool is True, the tokens of a black image (M, D) instead of the sample's own (B, M, D)."""
    return torch.where(dropped[:, None, None], black.to(image.dtype), image)


# ---------------------------------------------------------------------------------------------------- channel surgery


def widen_input(state: dict[str, Tensor], in_channels: int) -> dict[str, Tensor]:
    """Weights of a text-to-video model -> weights that take more input channels: old ones copied, new ones zero.

    With the concat variants the first step then equals the text-to-video model's. Raises ValueError for fewer channels.
    """
    weight = state["img_in.proj.weight"]
    more = in_channels - weight.shape[1]
    if more < 0:
        raise ValueError(f"in_channels must be at least the {weight.shape[1]} of the weights, got {in_channels}")
    zeros = weight.new_zeros(weight.shape[0], more, *weight.shape[2:])
    return state | {"img_in.proj.weight": torch.cat((weight, zeros), dim=1)}


def add_ofs(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a model without `ofs` -> of one with it, whose offset embedding gives zeros until it is trained."""
    new = {name.replace("time_in", "ofs_in", 1): one for name, one in state.items() if name.startswith("time_in.")}
    for name in ("ofs_in.mlp.2.weight", "ofs_in.mlp.2.bias"):
        new[name] = torch.zeros_like(new[name])
    return state | new


def _first_frame_only(image: Tensor, noisy: Tensor) -> Tensor:
    """(B, C, 1, H, W) -> (B, C, T, H, W): the image on frame 0, zeros behind it."""
    return F.pad(image.to(noisy.dtype), (0, 0, 0, 0, 0, noisy.shape[2] - 1))


def _all_frames(noisy: Tensor) -> Tensor:
    return torch.ones(noisy.shape[2], dtype=torch.bool, device=noisy.device)

"""Losses on decoded pixels: the one-step estimate of a clip against the clip, both through the VAE's decoder.

A clip is decoded a few latent frames at a time, and each chunk's gradient is taken before the next is decoded: memory
is that of a chunk, however long the clip. Chunks overlap by one latent frame, since a decoder sees the first one as a
single picture: k latent frames make 1 + 4 (k - 1) frames. Estimate and clip are cut alike.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.perceptual import load_perceptual
from model.sync import SILENT, STEPS, load_sync, sync_loss
from model.temporal import load_temporal
from model.vae import Vae, load_vae
from pipelines import Losses, Recipe, RecipeError

DECODED = ("perceptual", "temporal", "sync")


class Judges(NamedTuple):
    """The frozen networks that some stage's losses ask for."""

    vae: Vae
    perceptual: nn.Module | None
    temporal: nn.Module | None
    sync: nn.Module | None


def asked(losses: Losses) -> list[str]:
    """Which losses need pixels."""
    return [name for name in DECODED if getattr(losses, name) is not None]


def load_judges(recipe: Recipe, losses: Losses, device: torch.device) -> Judges | None:
    """What `losses` need, or None when they need no pixels. Raises RecipeError for weights that are not there."""
    if not asked(losses):
        return None
    try:
        return Judges(
            vae=load_vae(recipe.cache.vae, device, recipe.cache.tiling, recipe.cache.precision),
            perceptual=load_perceptual(losses.perceptual_weights, device) if losses.perceptual else None,
            temporal=load_temporal(losses.temporal_encoder, device) if losses.temporal else None,
            sync=load_sync(losses.sync_scorer, device) if losses.sync and losses.sync_scorer else None,
        )
    except FileNotFoundError as error:
        raise RecipeError(f"losses: {error}") from None


def decoded_losses(judges: Judges, losses: Losses, estimate: Tensor, clip: Tensor, sound: Tensor | None) -> Tensor:
    """The weighted sum of the losses on pixels for each sample (B,) of latents (B, C, T, H, W).

    sound (B, bands, STEPS * frames), or None: without sound, or in silence, there is nothing to be in step with.
    """

    def judge(latents: Tensor, sample: int, first: int, last: int) -> Tensor:
        with torch.no_grad():
            wanted = judges.vae.decode_with_gradient(clip[sample : sample + 1, :, first:last])
        heard = None if sound is None else heard_in(sound[sample : sample + 1], first, last)
        return _judged(judges, losses, judges.vae.decode_with_gradient(latents), wanted, heard)

    return _InChunks.apply(estimate, judge, losses.decode_frames)  # type: ignore[return-value]


def heard_in(sound: Tensor, first: int, last: int) -> Tensor | None:
    """Of a clip's sound (1, bands, steps) what belongs to latent frames [first, last) decoded on their own; None where
    nothing is heard."""
    heard = sound[:, :, STEPS * 4 * first : STEPS * (4 * last - 3)]
    return heard if bool((heard > SILENT).any()) else None


def chunks(frames: int, size: int) -> list[tuple[int, int]]:
    """Latent frames [first, last) of each chunk; neighbours share one, so every frame of the clip is decoded."""
    if frames == 1:
        return [(0, 1)]
    return [(first, min(first + size, frames)) for first in range(0, frames - 1, size - 1)]


def _judged(judges: Judges, losses: Losses, made: Tensor, wanted: Tensor, heard: Tensor | None) -> Tensor:
    """Pixels (1, 3, T, H, W) twice -> one number."""
    total = made.new_zeros(())
    if judges.perceptual is not None and losses.perceptual:
        frames = [clip.transpose(1, 2).flatten(0, 1) for clip in (made, wanted)]
        total = total + losses.perceptual * judges.perceptual(*frames).mean()
    if judges.temporal is not None and losses.temporal:
        total = total + losses.temporal * judges.temporal(made, wanted).mean()
    if judges.sync is not None and losses.sync and heard is not None and made.shape[2] > 1:
        total = total + losses.sync * sync_loss(judges.sync(made, heard)).mean()
    return total


class _InChunks(torch.autograd.Function):
    """judge(latents of a chunk, sample, first, last) -> a number; the weighted mean over each sample's chunks (B,).

    The gradient with respect to the latents is made on the way forward, chunk by chunk: nothing else is kept.
    """

    @staticmethod
    def forward(ctx: Any, estimate: Tensor, judge: Any, size: int) -> Tensor:  # type: ignore[override]
        spans = chunks(estimate.shape[2], size)
        weights = [1 + 4 * (last - first - 1) for first, last in spans]
        values, gradient = estimate.new_zeros(len(estimate)), torch.zeros_like(estimate)
        for sample in range(len(estimate)):
            for (first, last), weight in zip(spans, weights):
                share, place = weight / sum(weights), (slice(sample, sample + 1), slice(None), slice(first, last))
                values[sample] += share * _one(ctx, estimate[place], judge, sample, first, last, share, gradient[place])
        ctx.save_for_backward(gradient)
        return values

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return outer.view(-1, 1, 1, 1, 1) * gradient, None, None


def _one(
    ctx: Any, latents: Tensor, judge: Any, sample: int, first: int, last: int, share: float, gradient: Tensor
) -> Tensor:
    """A chunk's value; its gradient is added into its place."""
    if not ctx.needs_input_grad[0]:
        return judge(latents, sample, first, last).detach()
    with torch.enable_grad():
        leaf = latents.detach().clone().requires_grad_()
        value = judge(leaf, sample, first, last)
        if not value.requires_grad:  # nothing to be judged by: silence where only sound is asked for
            return value
        (found,) = torch.autograd.grad(value, leaf, allow_unused=True)
    if found is not None:
        gradient += share * found
    return value.detach()

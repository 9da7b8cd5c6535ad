"""How a micro-batch gets its images, and what the network is then fed.

A micro-batch of clips is given its first frames as a whole or not at all, with the stage's probability; pictures never
are. The image latents come from the cache, where they were encoded from the frame's own pixels. What is given stands in
the batch, so that a step needs to know of no variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cache.buckets import Bucket
from cache.read import LatentCache, Sample
from model.conditioning import (
    VARIANTS,
    Conditioned,
    add_ofs,
    cut_front,
    extra_frames,
    image_scaling,
    pad_front,
    text_to_video,
    widen_input,
)  # fmt: skip
from model.published import shapes_of
from pipelines import Image2Video, Recipe, RecipeError, Stage
from train import semantic
from train.draws import generator
from train.flow import network_time
from train.semantic import Seen

CLEAN, NOISED = "first_frame", "noised_first_frame"  # of the cache's conditions


class Given(NamedTuple):
    """The images of a micro-batch: latents (B, C, 1, H, W) and how they are fed. padded: frames put in front of the
    clip's own latent frames; seen: tokens that stand in front of the text, where the cache holds them."""

    variant: str
    image: Tensor
    padded: int = 0
    seen: Seen | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> Given:
        seen = self.seen.to(device, dtype) if self.seen else None
        return self._replace(image=self.image.to(device, dtype), seen=seen)


# ------------------------------------------------------------------------------------------------------- what is asked


def check(recipe: Recipe, name: str) -> None:
    """Raises RecipeError when a stage asks for images that the cache is not told to hold."""
    rule = recipe.stages[name].image_to_video
    if rule is None:
        return
    wanted = [CLEAN, NOISED] if VARIANTS[rule.variant].pad_front else [CLEAN]
    if recipe.stages[name].lora and network(rule, 1) != {"in_channels": 1}:
        raise RecipeError(f"stages.{name}: adapters learn no new input channels: use token_replace, or take `lora` out")
    missing = [one for one in wanted if one not in recipe.cache.conditions]
    if missing:
        raise RecipeError(
            f"stages.{name}.image_to_video: {rule.variant} needs {' and '.join(missing)} in the cache: set "
            f"cache.conditions to [{', '.join(dict.fromkeys([*recipe.cache.conditions, *wanted]))}] and encode again"
        )


def asks(stage: Stage, bucket: str, *name: str | int) -> Image2Video | None:
    """The rule by which a micro-batch is given its images, or None. name: of its first sample, which decides for all."""
    rule = stage.image_to_video
    if rule is None or Bucket.parse(bucket).frames == 1:
        return None
    return rule if generator(*name, "image to video").random() < rule.probability else None


def padding(rule: Image2Video | None, frames: int) -> int:
    """Latent frames that the rule puts in front of so many."""
    return extra_frames(frames, rule.pad_to) if rule and VARIANTS[rule.variant].pad_front else 0


def network(rule: Image2Video | None, channels: int) -> dict[str, Any]:
    """What a rule changes about a network on latents of so many channels: arguments of DiT."""
    if rule is None:
        return {"in_channels": channels}
    return {"in_channels": VARIANTS[rule.variant].in_channels(channels)} | ({"ofs": True} if rule.ofs else {})


def adapted(weights: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """Start weights with what this network has beyond theirs: further input channels and an offset embedding, at zero.

    Raises ValueError for weights of a network with more input channels.
    """
    ofs = any(name.startswith("ofs_in.") for name, _ in model.named_parameters())
    if ofs and not any(name.startswith("ofs_in.") for name in weights):
        weights = add_ofs(dict(weights))
    channels = int(model.in_channels)  # type: ignore[arg-type]
    into = shapes_of(weights).get("img_in.proj.weight")
    return weights if into is None or into[1] == channels else widen_input(dict(weights), channels)


# ------------------------------------------------------------------------------------------------------ what is given


def training_image(rule: Image2Video, sample: Sample, *name: str | int) -> Tensor:
    """(C, 1, H, W): one of the sample's noised images for the variants that are trained on them, else the clean one."""
    if not VARIANTS[rule.variant].pad_front:
        return sample.conditions[CLEAN]
    drawn = sample.conditions[NOISED]
    return drawn[int(generator(*name, "noised image").integers(len(drawn)))]


def training_given(
    rule: Image2Video, cache: LatentCache, samples: Sequence[Sample], names: Sequence[tuple[str | int, ...]]
) -> Given:
    """The images of a micro-batch that is given them. names: of the samples' draws."""
    images = [training_image(rule, sample, *name) for sample, name in zip(samples, names)]
    given = give(rule, images, samples[0].latent.shape[1], cache.settings)
    return given._replace(seen=semantic.in_training(rule, cache, samples, names))


def validation_given(stage: Stage, bucket: str, samples: Sequence[Sample], cache: LatentCache) -> Given | None:
    """Clips of a stage that trains on images are validated with theirs, always and without noise."""
    rule = stage.image_to_video
    if rule is None or Bucket.parse(bucket).frames == 1:
        return None
    given = give(rule, [one.conditions[CLEAN] for one in samples], samples[0].latent.shape[1], cache.settings)
    return given._replace(seen=semantic.as_it_is(rule, cache, samples))


def give(rule: Image2Video, images: Sequence[Tensor] | Tensor, frames: int, settings: dict[str, Any]) -> Given:
    """Images (C, 1, H, W) each, for clips of so many latent frames. settings: the cache's, which know the scaling."""
    image = torch.stack([one.float() for one in images])
    scale = torch.tensor(settings["latents"]["vae"].get("scale", [1.0])).view(1, -1, 1, 1, 1)
    image = image_scaling(image, scale.to(image.device), rule.image_latent_scaling)
    return Given(rule.variant, image, padding(rule, frames))


def lengthened(data: Tensor, padded: int) -> Tensor:
    """Clean latents (B, C, T, H, W) with `padded` copies of frame 0 in front."""
    return pad_front(data, data.shape[2] + padded) if padded else data


def shortened(latents: Tensor, given: Given | None) -> Tensor:
    """Drops, after sampling, the frames that were put in front."""
    return cut_front(latents, latents.shape[2] - given.padded) if given else latents


# -------------------------------------------------------------------------------------------------------- what is fed


def told(model: nn.Module, guidance: float, batch: Tensor) -> Tensor | None:
    """What a network that embeds its guidance is told of each sample (B,); None for any other network."""
    if getattr(model, "guidance_in", None) is None:
        return None
    return network_time(torch.full((len(batch),), guidance, dtype=torch.float32, device=batch.device))


def fed(x_t: Tensor, t: Tensor, given: Given | None, in_channels: int) -> Conditioned:
    """The input of a network with so many channels for noisy latents (B, C, T, H, W) at t (B,) in [0, 1].

    Without images the channels that would hold them are zero.
    """
    if given is None:
        return widened(text_to_video(x_t, t), in_channels)
    return widened(VARIANTS[given.variant].condition(x_t, given.image, t), in_channels)


def placed(noise: Tensor, given: Given) -> Tensor:
    """Where sampling starts: noise (B, C, T, H, W), but for the frames that are the image itself."""
    counts = VARIANTS[given.variant].condition(noise, given.image, noise.new_ones(len(noise))).counts
    return torch.where(counts.view(1, 1, -1, 1, 1), noise, given.image.to(noise.dtype))


def widened(plain: Conditioned, in_channels: int) -> Conditioned:
    more = in_channels - plain.x.shape[1]
    return plain._replace(x=F.pad(plain.x, (0, 0, 0, 0, 0, 0, 0, more))) if more else plain

"""Semantic injection: what a LLaVA sees in a clip's first frame stands in front of the caption's tokens.

The cache holds the tokens (condition `image_tokens`, model/image_tokens.py); a stage with images takes every 4th of the
picture's or every 2nd, as its variant says. In training a black picture's stand in for them now and then, drawn apart
from whether the text is dropped. Sampling without a prompt sees a black picture too, as HunyuanVideo-I2V's does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cache.black import read_black
from cache.read import LatentCache, Sample
from model.conditioning import VARIANTS, drop_image
from pipelines import Image2Video, RecipeError
from train.draws import generator

TOKENS = "image_tokens"  # of the cache's conditions


class Seen(NamedTuple):
    """Image tokens of each sample (B, M, D), and those of a black picture (M, D)."""

    tokens: Tensor
    black: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Seen:
        return Seen(self.tokens.to(device, dtype), self.black.to(device, dtype))


def every(rule: Image2Video, settings: dict[str, Any]) -> int | None:
    """Each so-many-th of the stored tokens is taken; None where the cache (of these settings) holds none.

    Raises RecipeError for tokens that are stored too sparsely, or that are no text states of this network.
    """
    held = settings["latents"]["conditions"].get(TOKENS)
    if held is None:
        return None
    wanted, stored, width = VARIANTS[rule.variant].token_stride, held["stride"], settings["text"]["encoder"]["width"]
    if wanted % stored:
        raise RecipeError(
            f"{rule.variant} takes every {wanted}th image token, the cache holds every {stored}th: "
            f"set cache.image_tokens.stride to a divisor of {wanted} and encode again"
        )
    if held["width"] != width:
        raise RecipeError(
            f"image tokens stand among the text's and must be as wide: they are {held['width']} wide, the text states "
            f"{width}; name one LLaVA as cache.text and cache.image_tokens.model"
        )
    return wanted // stored


def in_training(
    rule: Image2Video, cache: LatentCache, samples: Sequence[Sample], names: Sequence[tuple[str | int, ...]]
) -> Seen | None:
    """What is seen of each sample, black where its draw says so. names: of the samples' draws."""
    seen = as_it_is(rule, cache, samples)
    if seen is None:
        return None
    drops = torch.tensor([bool(generator(*name, "semantic").random() < rule.semantic_drop) for name in names])
    return seen._replace(tokens=drop_image(seen.tokens, seen.black, drops))


def as_it_is(rule: Image2Video, cache: LatentCache, samples: Sequence[Sample]) -> Seen | None:
    """What is seen of each sample, as validation and sampling want it; None where the cache holds no tokens."""
    step = every(rule, cache.settings)
    if step is None:
        return None
    tokens = torch.stack([one.conditions[TOKENS][::step].float() for one in samples])
    return Seen(tokens, _black(cache.folder)[::step].float())


@lru_cache(maxsize=4)
def _black(folder: str) -> Tensor:
    return read_black(folder)

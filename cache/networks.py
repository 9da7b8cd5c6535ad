"""The networks that a recipe's cache names: what encodes it, and what reads prompts and decodes samples beside it."""

from __future__ import annotations

import torch

from model.image_tokens import PROMPT, ImageSpec, ImageTokens
from model.text import TextEncoder, TextSpec, load_spec
from model.vae import Vae, load_vae
from pipelines import Recipe, RecipeError


def vae_of(recipe: Recipe, device: torch.device | str = "cpu") -> Vae:
    """Raises MissingWeights."""
    return load_vae(recipe.cache.vae, device, recipe.cache.tiling, recipe.cache.precision)


def text_spec(recipe: Recipe) -> TextSpec:
    chosen = recipe.cache
    return TextSpec(
        chosen.text, chosen.text_pooled, chosen.text_length, chosen.text_layer,
        chosen.template, chosen.image_template, chosen.precision,
    )  # fmt: skip


def text_of(recipe: Recipe, device: torch.device | str = "cpu") -> TextEncoder:
    """Raises MissingWeights."""
    return load_spec(text_spec(recipe), device)


def image_spec(recipe: Recipe) -> ImageSpec:
    """Raises RecipeError where the recipe names no LLaVA."""
    chosen = recipe.cache.image_tokens
    folder = chosen.model or recipe.cache.text
    if folder == "bytes":
        raise RecipeError("cache.image_tokens.model: must be the folder of a LLaVA to make the condition image_tokens")
    return ImageSpec(folder, recipe.cache.text_layer, chosen.stride, chosen.prompt or PROMPT, recipe.cache.precision)


def image_tokens_of(recipe: Recipe, device: torch.device | str = "cpu") -> ImageTokens | None:
    """None where no condition asks for them. Raises RecipeError, MissingWeights."""
    return ImageTokens(image_spec(recipe), device) if "image_tokens" in recipe.cache.conditions else None

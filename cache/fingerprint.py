"""What a latent is made by: the settings whose change changes bytes, their 8 digits, and how two of them differ."""

from __future__ import annotations

from typing import Any

from media import storage
from pipelines import Recipe, fingerprint

# Raised by hand when the bytes of a sample change though no setting did; a golden test fails first.
LATENT_VERSION = 1
TEXT_VERSION = 1


class CacheError(ValueError):
    """The cache is not what was asked for, or is broken. The message says what to do."""


class NoCache(CacheError, FileNotFoundError):
    """There is no cache, or none of these settings: a command ends with 2."""


def latent_settings(recipe: Recipe) -> dict[str, Any]:
    """Everything that changes the bytes of a latent; views and sets only choose among samples and are not in it.

    Raises RecipeError for image tokens without a model, MissingWeights.
    """
    from cache.pixels import pixel_settings
    from model.vae import vae_settings

    chosen = recipe.cache
    conditions: dict[str, Any] = {name: {} for name in sorted(chosen.conditions)}
    if "noised_first_frame" in conditions:
        conditions["noised_first_frame"] = {"draws": chosen.noise_draws, "log_sigma": [-3.0, 0.5]}
    if "image_tokens" in conditions:
        from cache.networks import image_spec
        from model.image_tokens import settings

        conditions["image_tokens"] = settings(image_spec(recipe))
    if "sound" in conditions:
        from model.sync import sound_settings

        conditions["sound"] = sound_settings()
    return {
        "encode_version": LATENT_VERSION,
        "vae": vae_settings(chosen.vae, chosen.tiling, chosen.precision),
        "pixels": pixel_settings(),
        "keeps": "mean and logvar" if chosen.logvar else "mean",
        "dtype": chosen.dtype,
        "conditions": conditions,
    }


def text_settings(recipe: Recipe) -> dict[str, Any]:
    """Everything that changes the text states of a given caption. Captions themselves are hashed one by one."""
    from cache.networks import text_spec
    from model.text import encoder_settings

    return {"encode_version": TEXT_VERSION, "encoder": encoder_settings(text_spec(recipe)), "dtype": recipe.cache.dtype}


def cache_folder(recipe: Recipe, settings: dict[str, Any]) -> str:
    return storage.join(storage.absolute(recipe.workspace), f"latents-{fingerprint(settings)}")


def differences(ours: Any, theirs: Any, place: str = "") -> list[str]:
    """One line per leaf that differs: `vae.tiling: asked for True, there is False`."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted({*ours, *theirs})
        inner = (differences(ours.get(key), theirs.get(key), f"{place}.{key}".lstrip(".")) for key in keys)
        return [line for lines in inner for line in lines]
    return [] if ours == theirs else [f"{place}: asked for {ours!r}, there is {theirs!r}"]

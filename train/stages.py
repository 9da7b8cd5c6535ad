"""The stages of a recipe: their order, the network they train, where its weights come from, what they may ask for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cache.buckets import Bucket
from cache.read import open_cache
from media import storage
from model.dit import DiT
from model.dit_start import hand_on
from model.flops import training_flops
from model.published import read_published
from model.sizes import SIZES
from model.weights import MissingWeights
from pipelines import Image2Video, Recipe, RecipeError, Stage, resolved
from train import adapters, checkpoint, conditions, phases

IDENTITY = "identity"
NEW = ("scratch", IDENTITY)  # starts of a network that has learnt nothing
TEXT_TOKENS = 64  # a middling caption: what text costs is small beside the video
# What a resumed run may not change: these decide which samples a step holds, or what its weights mean.
FIXED = ("feeds", "micro_batches", "mix", "tokens", "seed", "precision", "lora", "image_to_video")


def stage_of(recipe: Recipe, name: str) -> Stage:
    """Raises RecipeError for an unknown stage, or one that asks for what training cannot do."""
    if name not in recipe.stages:
        close = difflib.get_close_matches(name, recipe.stages, n=1)
        hint = f", did you mean '{close[0]}'?" if close else ""
        raise RecipeError(f"no stage '{name}'{hint}; recipe '{recipe.name}' has {', '.join(recipe.stages)}")
    stage = recipe.stages[name]
    conditions.check(recipe, name)
    phases.check(recipe, name)
    if stage.lora:
        with torch.device("meta"):  # a mistyped target is told before anything is read or set aside
            adapters.put_on(DiT(**size_of(recipe)), stage.lora, stage.seed)
    return stage


def run_folder(recipe: Recipe, name: str) -> str:
    return storage.join(storage.absolute(recipe.workspace), "runs", name)


def size_of(recipe: Recipe) -> dict[str, Any]:
    if recipe.model not in SIZES:
        raise RecipeError(f"model: no size '{recipe.model}', there are {', '.join(SIZES)}")
    return SIZES[recipe.model]


def cost_of(recipe: Recipe) -> Callable[[Bucket], float]:
    """FLOPs of training on one sample of a bucket, attention included; with captions of middling length."""
    size = size_of(recipe)
    return lambda bucket: training_flops(size, bucket.tokens(size["patch"]), TEXT_TOKENS)


class Widths(NamedTuple):
    """What the cache decides about a network: latent channels, width of text states and of the pooled vector."""

    channels: int
    text: int
    pooled: int


def widths_of(settings: dict[str, Any]) -> Widths:
    """From a cache's settings, which every checkpoint carries."""
    encoder = settings["text"]["encoder"]
    return Widths(int(settings["latents"]["vae"]["channels"]), int(encoder["width"]), int(encoder["pooled_width"]))


def build(
    size: dict[str, Any], widths: Widths, seed: int, checkpointing: str = "none", images: Image2Video | None = None,
    start: str | None = None, meta: bool = False,
) -> DiT:  # fmt: skip
    """The network with the start weights that the seed gives, whatever was drawn before; on the CPU. images: how it is
    given them, if it makes video of images. start: `identity` hands its input on (model/dit_start.py). meta: without
    any numbers, for train/network.py to fill."""
    chosen = size | {
        "out_channels": widths.channels, "text_width": widths.text, "pooled_width": widths.pooled,
        "checkpointing": checkpointing, **conditions.network(images, widths.channels),
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.device("meta" if meta else "cpu"):
        torch.manual_seed(seed)
        model = DiT(**chosen)
    if start == IDENTITY and not meta:
        with identity_fits():
            hand_on(model, seed)
    return model


@contextmanager
def identity_fits() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise RecipeError(f"start: {IDENTITY}: {error}") from None


def start_weights(recipe: Recipe, name: str) -> Mapping[str, Tensor] | None:
    """Weights that a stage begins with: of the stage before, of `start`, or None for those of build().

    Raises RecipeError when they are not there.
    """
    source = _source(recipe, name)
    if source in (None, *NEW):
        return None
    if source in recipe.stages:
        return _of_stage(recipe, name, str(source))
    return _of_path(name, str(source))


def frozen_weights(recipe: Recipe, name: str) -> Mapping[str, Tensor] | None:
    """What a stage with `lora:` puts its adapters on: kept in its run's folder from the start on. None is build()'s."""
    kept = adapters.base_of(run_folder(recipe, name))
    return start_weights(recipe, name) if kept is None else kept


def fixed(recipe: Recipe, name: str) -> dict[str, Any]:
    """What must be equal when a run goes on, as plain data."""
    plain = resolved(recipe)
    return {"model": plain["model"]} | {key: plain["stages"][name][key] for key in FIXED}


def empty_set(recipe: Recipe, name: str) -> str | None:
    """A set without clips that feeds a stage at the end of the curriculum: one that goes on from another and that none
    goes on from. Of a stage in the middle the trainer says itself what is missing."""
    source = _source(recipe, name)
    if source not in recipe.stages or any(_source(recipe, other) == name for other in recipe.stages):
        return None
    cache = open_cache(recipe)
    return next((feed.set for feed in recipe.stages[name].feeds if not len(cache.ledger(feed.set))), None)


def complete(recipe: Recipe, name: str) -> bool:
    """Whether the stage has been trained to its last step, or its last phase to its end."""
    found = checkpoint.latest(run_folder(recipe, name))
    return found is not None and over(recipe.stages[name], found)


def over(stage: Stage, found: checkpoint.Checkpoint) -> bool:
    return found.step >= stage.steps or bool(found.state.get("phase", {}).get("finished"))


def _source(recipe: Recipe, name: str) -> str | None:
    """What a stage starts from: what it says, or the stage before."""
    names = list(recipe.stages)
    before = names.index(name) - 1
    return recipe.stages[name].start or (names[before] if before >= 0 else None)


def _of_stage(recipe: Recipe, name: str, source: str) -> dict[str, Tensor]:
    found = checkpoint.latest(run_folder(recipe, source))
    if found is None or not over(recipe.stages[source], found):
        state = "has no checkpoint" if found is None else f"is at step {found.step} of {recipe.stages[source].steps}"
        raise RecipeError(
            f"stages.{name} starts from stage '{source}', which {state}: run `python -m train.run --stage {source}`, "
            f"or say where to start with `start:` (a stage, a path, {' or '.join(NEW)})"
        )
    learnt, lora = checkpoint.load(found, ("model",))["model"], recipe.stages[source].lora
    if lora is None:
        return learnt
    base = adapters.base_of(run_folder(recipe, source))
    if base is None:
        raise RecipeError(f"stages.{name} starts from stage '{source}', whose frozen weights are not there any more")
    return adapters.merged(base, learnt, lora)


def _of_path(name: str, source: str) -> Mapping[str, Tensor]:
    try:
        return read_published(source)
    except MissingWeights as error:
        raise RecipeError(f"stages.{name}.start: no stage, and {error}") from None
    except ValueError as error:
        raise RecipeError(f"stages.{name}.start: {error}") from None

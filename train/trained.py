"""What a stage has learnt, for those that use it: the sample and export commands, and the stage that starts from it."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from model.dit import DiT
from pipelines import Recipe, RecipeError, check
from train import adapters, checkpoint, stages

State = dict[str, Tensor]


class Trained(NamedTuple):
    """recipe: that of the run; weights: all of the network's under the released names, adapters merged; base and
    adapters: apart, for a stage with `lora:`, else None."""

    recipe: Recipe
    step: int
    cache: dict[str, Any]
    weights: State
    base: State | None
    adapters: State | None


def trained(recipe: Recipe, stage: str, raw: bool = False) -> Trained:
    """The newest checkpoint of a stage: the average of its weights, or with `raw` the weights themselves.

    Raises RecipeError when there is none.
    """
    folder = stages.run_folder(recipe, stage)
    found = checkpoint.latest(folder)
    if found is None:
        raise RecipeError(f"{folder}: no checkpoint, run `python -m train.run --stage {stage}`")
    used = check(found.state["recipe"])
    group = "model" if raw else "average"
    learnt = checkpoint.load(found, (group,))[group]
    lora = used.stages[stage].lora
    if lora is None:
        return Trained(used, found.step, found.state["cache"], learnt, None, None)
    base = adapters.base_of(folder)
    if base is None:
        raise RecipeError(f"{folder}: the frozen weights that its adapters belong to are not there any more")
    return Trained(used, found.step, found.state["cache"], adapters.merged(base, learnt, lora), base, learnt)


def network(found: Trained, stage: str, adapted: bool = False) -> DiT:
    """The network with the trained weights, on the CPU. adapted: with the adapters apart, as they were trained."""
    images = found.recipe.stages[stage].image_to_video
    model = stages.build(stages.size_of(found.recipe), stages.widths_of(found.cache), 0, images=images, meta=True)
    lora = found.recipe.stages[stage].lora
    if not adapted or lora is None or found.base is None or found.adapters is None:
        model.load_state_dict(found.weights, assign=True)
        return model
    adapters.put_on(model, lora, 0)
    model.load_state_dict(found.base | found.adapters, assign=True)
    return model

"""pipelines.yaml -> frozen, checked settings.

One file holds every threshold and every stage. It is read strictly: an unknown key, a key written twice, a number that
YAML reads as text, an alias, a set looser than its parent are errors that name the place and the remedy.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, StrictStr, ValidationError

import recipe_file
from recipe_clips import (
    SCORES,
    Bound,
    Cache,
    Concepts,
    Count,
    Curate,
    Embed,
    Frozen,
    ImageTokens,
    Name,
    Positive,
    Proxies,
    Set,
    Share,
    Shots,
    Signal,
    Signals,
    Start,
    View,
    WeightedSignal,
)
from recipe_file import RecipeError, suggest
from recipe_stages import (
    End,
    Feed,
    Flow,
    Image2Video,
    Lora,
    Losses,
    Phase,
    Stage,
    Unfreeze,
    VaeLosses,
    VaePhase,
    VaeStage,
)

# The recipe's settings have one door, this one, whichever file they are written in.
__all__ = [
    "SCORES",
    "Bound",
    "Cache",
    "Concepts",
    "Count",
    "Curate",
    "Embed",
    "End",
    "Feed",
    "Flow",
    "Frozen",
    "Image2Video",
    "ImageTokens",
    "Lora",
    "Losses",
    "Name",
    "Phase",
    "Positive",
    "Proxies",
    "Recipe",
    "RecipeError",
    "Set",
    "Share",
    "Shots",
    "Signal",
    "Signals",
    "Stage",
    "Start",
    "Unfreeze",
    "VaeLosses",
    "VaePhase",
    "VaeStage",
    "View",
    "WeightedSignal",
    "check",
    "fingerprint",
    "load",
    "resolved",
]


class Recipe(Frozen):
    """Everything a run needs, resolved: no defaults left to other files, no names left to look up."""

    name: Name
    footage: tuple[StrictStr, ...]
    workspace: StrictStr
    curate: Curate = Curate()
    sets: dict[Name, Set]
    views: dict[Name, View]
    cache: Cache = Cache()
    model: Name = "tiny"
    stages: dict[Name, Stage]
    vae_stages: dict[Name, VaeStage] = Field(default_factory=dict)

    def bounds(self, set_name: str) -> dict[str, Bound]:
        """Effective bounds of a set: the intersection along its line of parents."""
        chosen = self.sets[set_name]
        merged = dict(self.bounds(chosen.parent)) if chosen.parent else {}
        for score, bound in chosen.keep.items():
            merged[score] = _intersect(merged.get(score, Bound()), bound)
        return merged

    def media(self, set_name: str) -> str | None:
        chosen = self.sets[set_name]
        return chosen.media or (self.media(chosen.parent) if chosen.parent else None)


def load(config: str | Path | None = None, recipe: str | None = None, overrides: tuple[str, ...] = (),
         **top: Any) -> Recipe:  # fmt: skip
    """Read, merge and check a recipe. overrides: `dotted.key=yaml`; top: footage=..., workspace=... that are not None.

    Raises RecipeError with the place of the fault and what to do about it.
    """
    data = recipe_file.read(config, recipe, overrides)
    data |= {key: value for key, value in top.items() if value is not None}
    return check(data)


def check(data: dict[str, Any]) -> Recipe:
    """Plain data -> Recipe. Raises RecipeError naming every wrong key by its path."""
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError("\n".join(dict.fromkeys(_explain(fault) for fault in error.errors()))) from None
    _check_sets(recipe)
    _check_stages(recipe)
    return recipe


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Plain JSON data of a recipe, every default written out: what lies beside each output."""
    return recipe.model_dump(mode="json")


def fingerprint(settings: Any) -> str:
    """8 hex digits of settings (JSON data or a settings object): equal settings, equal digits."""
    plain = settings.model_dump(mode="json") if isinstance(settings, BaseModel) else settings
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


# -------------------------------------------------------------------------------------------------------------- errors


def _explain(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{place}: unknown key{suggest(str(fault['loc'][-1]), _keys_beside(fault['loc']))}"
    if fault["type"] == "missing":
        return f"{place}: must be given"
    got = fault.get("input")
    if isinstance(got, str) and fault["type"] in {"float_type", "int_type"} and _is_number(got):
        return f"{place}: YAML reads {got} as text; write it with a dot: {_with_dot(got)}"
    return f"{place}: {fault['msg'][0].lower() + fault['msg'][1:]}, got {got!r}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _with_dot(text: str) -> str:
    mantissa, _, exponent = text.lower().partition("e")
    sign = exponent if exponent[:1] in "+-" else f"+{exponent}"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{sign}" if exponent else text


def _keys_beside(place: tuple[Any, ...]) -> list[str]:
    """The keys that are allowed where an unknown one was found: down the annotations, along the place's parts."""
    model: Any = Recipe
    for part in place[:-1]:
        inner = model.model_fields.get(str(part)) if hasattr(model, "model_fields") else None
        models = _models_in(inner.annotation) if inner is not None else []
        model = models[0] if models else model
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[Any]:
    """Settings classes inside an annotation such as dict[Name, Set] or Signal | None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


# ---------------------------------------------------------------------------------------------------------------- sets


def _intersect(outer: Bound, inner: Bound) -> Bound:
    lows = [b for b in (outer.min, inner.min) if b is not None]
    highs = [b for b in (outer.max, inner.max) if b is not None]
    return Bound(min=max(lows) if lows else None, max=min(highs) if highs else None)


def _check_sets(recipe: Recipe) -> None:
    for name, chosen in recipe.sets.items():
        _check_line(recipe, name)
        for score, bound in chosen.keep.items():
            place = f"sets.{name}.keep.{score}"
            if score not in SCORES:
                raise RecipeError(f"{place}: unknown key{suggest(score, SCORES)}")
            if bound.min is not None and bound.max is not None and bound.min > bound.max:
                raise RecipeError(f"{place}: min {bound.min} is above max {bound.max}")
            if chosen.parent:
                _check_stricter(place, bound, recipe.bounds(chosen.parent).get(score, Bound()), chosen.parent)


def _check_line(recipe: Recipe, name: str) -> None:
    seen = [name]
    while (parent := recipe.sets[seen[-1]].parent) is not None:
        if parent not in recipe.sets:
            raise RecipeError(f"sets.{seen[-1]}.parent: no set '{parent}'{suggest(parent, recipe.sets)}")
        if parent in seen:
            raise RecipeError(f"sets.{name}.parent: a set cannot be its own ancestor ({' -> '.join([*seen, parent])})")
        seen.append(parent)
    media = {found for one in seen if (found := recipe.sets[one].media) is not None}
    if len(media) > 1:
        raise RecipeError(f"sets.{name}.media: must be its parent's or narrower, got {' and '.join(sorted(media))}")


def _check_stricter(place: str, bound: Bound, parent: Bound, parent_name: str) -> None:
    if bound.min is not None and parent.min is not None and bound.min < parent.min:
        raise RecipeError(f"{place}.min: {bound.min} is looser than {parent.min} of its parent '{parent_name}'")
    if bound.max is not None and parent.max is not None and bound.max > parent.max:
        raise RecipeError(f"{place}.max: {bound.max} is looser than {parent.max} of its parent '{parent_name}'")


def _check_stages(recipe: Recipe) -> None:
    for view_name, view in recipe.views.items():
        if view.frames % 4 != 1:
            raise RecipeError(
                f"views.{view_name}.frames: must be 1 or 4n+1 (the VAE's stride in time), got {view.frames}"
            )
        if view.frames > 1 and view.fps is None:
            raise RecipeError(f"views.{view_name}.fps: must be given for a view of more than one frame")
    for name, stage in recipe.stages.items():
        for index, feed in enumerate(stage.feeds):
            for kind, known in (("set", recipe.sets), ("view", recipe.views)):
                chosen = getattr(feed, kind)
                if chosen not in known:
                    place = f"stages.{name}.feeds.{index}.{kind}"
                    raise RecipeError(f"{place}: no {kind} '{chosen}'{suggest(chosen, known)}")

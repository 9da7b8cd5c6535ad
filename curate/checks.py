"""What must hold before `curate run` begins: paths that travel, picks that are there, scores that are measured."""

from __future__ import annotations

import os
import sys

import pipelines
from media import storage
from pipelines import Recipe, RecipeError

FACTS = ("duration_s", "width", "height", "short_side", "fps", "aspect", "cropped")  # scores that need no signal


def settled(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths, as it travels. Raises RecipeError for a relative workspace in a Ray copy."""
    if "runtime_resources" in os.getcwd() and not os.path.isabs(recipe.workspace) and "://" not in recipe.workspace:
        raise RecipeError(
            f"workspace: {recipe.workspace} is relative, and this job runs in a copy that Ray will delete; "
            "give an absolute --workspace"
        )
    data = pipelines.resolved(recipe)
    data["workspace"] = storage.absolute(recipe.workspace)
    data["footage"] = [storage.absolute(pattern) for pattern in recipe.footage]
    for chosen in data["sets"].values():
        if chosen["clips"]:
            chosen["clips"] = storage.absolute(chosen["clips"])
    return pipelines.check(data)


def check_picks(recipe: Recipe) -> None:
    """A list that a stage needs must be there. One that nothing needs yet may come later: clip ids are known after a first run."""
    needed = {feed.set for stage in recipe.stages.values() for feed in stage.feeds}
    for name, chosen in recipe.sets.items():
        if chosen.clips and not storage.exists(chosen.clips):
            said = f"sets.{name}.clips: {chosen.clips}: no such file (one clip id per line, as `curate explain FILE` shows them)"
            if name in needed:
                raise RecipeError(said)
            print(f"{said}; the set is empty until it is there", file=sys.stderr)


def check_scores(recipe: Recipe) -> None:
    """Every signal that is on must exist, every score that a set bounds be measured. Raises RecipeError with the remedy."""
    from curate.select import LEFT
    from curate.signals import SIGNALS

    absent = [name for name, on in recipe.curate.signals if on is not None and name not in SIGNALS]
    if absent:
        raise RecipeError(f"curate.signals.{absent[0]}: is not built yet; there are {', '.join(SIGNALS)}")
    by_signal = {score: name for name, signal in SIGNALS.items() for score in signal.columns}
    by_signal |= {score: by_signal[source] for score, source in LEFT.items()}
    for set_name in recipe.sets:
        for score in recipe.bounds(set_name):
            signal = by_signal.get(score)
            if score not in FACTS and (signal is None or getattr(recipe.curate.signals, signal) is None):
                remedy = f"add `curate.signals.{signal}: {{}}`" if signal else "no signal measures it"
                raise RecipeError(f"sets.{set_name}.keep.{score}: is not measured in this recipe; {remedy}")

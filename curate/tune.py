"""Thresholds proposed from the scores themselves: which bounds keep a given share of what a set may draw from.

Every bounded score gives a clip its rank: the share of clips that are worse. A clip is as good as its worst rank, and
the cut lies where the wanted share of clips is at least that good: one quantile, the same for all scores.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import pipelines
from curate import select
from curate.checks import FACTS
from curate.tables import Tables
from pipelines import Bound, Recipe, RecipeError
from recipe_file import suggest


class Proposal(NamedTuple):
    """bounds: score -> proposed; alone: score -> share of the pool that its bound alone keeps; pool, kept: clips."""

    bounds: dict[str, Bound]
    alone: dict[str, float]
    pool: int
    kept: int


def show(recipe: Recipe, set_name: str, keep_share: float, as_json: bool) -> int:
    """Print a proposal for a set as YAML to paste. Raises RecipeError for a wrong name, share, or an empty pool."""
    from curate import grouping

    if set_name not in recipe.sets:
        raise RecipeError(f"--set-name {set_name}: no such set{suggest(set_name, recipe.sets)}")
    if not 0 < keep_share <= 1:
        raise RecipeError(f"--keep-share {keep_share:g}: must be above 0 and at most 1")
    tables = Tables(recipe)
    found = propose(recipe, set_name, grouping.facts(tables), keep_share, grouping.picks(tables))
    if as_json:
        plain = found._asdict() | {"bounds": {name: bound.model_dump() for name, bound in found.bounds.items()}}
        print(json.dumps({"what": "tune", "set": set_name} | plain))
    else:
        print(yaml_text(recipe, set_name, found, keep_share))
    return 0


def propose(
    recipe: Recipe, set_name: str, facts: pa.Table, keep_share: float, picks: dict[str, set[str]] | None = None
) -> Proposal:
    """facts -> bounds on the set's scores that keep keep_share of its pool, as nearly as ties allow.

    The pool: the usable clips of the set's medium that its parent keeps and that meet the set's bounds on plain facts
    (size, length, fps), which stay. Raises RecipeError where the set bounds no score, or no clip is in the pool.
    """
    scores = tuned_scores(recipe, set_name)
    pool = _pool(recipe, set_name, scores, facts, picks or {})
    if not len(pool):
        raise RecipeError(f"sets.{set_name}: no clip to choose from: its parent and its other bounds keep none")
    current, outer = directions(recipe, set_name), _parent_bounds(recipe, set_name)
    values = {score: select.numbers(pool, score) for score in scores}
    ranks = {score: rank(values[score], current[score]) for score in scores}
    worst = np.min(list(ranks.values()), axis=0)
    cut = np.sort(worst)[::-1][max(1, round(keep_share * len(worst))) - 1]
    bounds = {
        score: _stricter(_threshold(values[score], ranks[score] >= cut, current[score]), outer.get(score, Bound()))
        for score in scores
    }
    met = {score: _meets(values[score], bounds[score]) for score in scores}
    alone = {score: float(one.mean()) for score, one in met.items()}
    return Proposal(bounds, alone, len(pool), int(np.all(list(met.values()), axis=0).sum()))


def tuned_scores(recipe: Recipe, set_name: str) -> list[str]:
    """The scores that the set itself bounds, else those it inherits; sizes and lengths are no scores."""
    own, every = recipe.sets[set_name].keep, recipe.bounds(set_name)
    for bounds in (own, every):
        chosen = [
            score for score in pipelines.SCORES if score in bounds and score not in FACTS and _bounds(every[score])
        ]
        if chosen:
            return chosen
    raise RecipeError(
        f"sets.{set_name}: bounds no score, so nothing says which end is better; "
        "begin with a loose one, e.g. keep: {motion: {min: 0.0}}"
    )


def directions(recipe: Recipe, set_name: str) -> dict[str, Bound]:
    """score -> the set's own bound, else the one it inherits: which of min and max is proposed."""
    return recipe.bounds(set_name) | {
        score: bound for score, bound in recipe.sets[set_name].keep.items() if _bounds(bound)
    }


def rank(values: np.ndarray, bound: Bound) -> np.ndarray:
    """Scores (N,) -> (N,) in [0, 1): the share of clips that are worse, by the bound's direction; unknown is -1.

    A score bounded at both ends is best in its middle: twice the smaller of both shares.
    """
    known = ~np.isnan(values)
    ordered = np.sort(values[known])
    below = np.searchsorted(ordered, values, "left") / max(len(values), 1)
    above = (len(ordered) - np.searchsorted(ordered, values, "right")) / max(len(values), 1)
    if bound.min is None:
        found = above
    elif bound.max is None:
        found = below
    else:
        found = 2 * np.minimum(below, above)
    return np.where(known, found, -1.0)


def yaml_text(recipe: Recipe, set_name: str, found: Proposal, keep_share: float) -> str:
    """The proposal as it stands in pipelines.yaml, below the recipe's name."""
    parent = recipe.sets[set_name].parent
    source = f"that its parent '{parent}' keeps" if parent else "of footage"
    share = found.kept / found.pool
    lines = [
        f"# keeps {found.kept} of {found.pool} clips {source}: {share:.3f}, asked {keep_share:g}",
        "sets:",
        f"  {set_name}:",
        "    keep:",
    ]
    if abs(share - keep_share) > 0.5 / found.pool + 1e-9:
        lines.insert(1, "# ties and unknown scores leave no cut nearer to it")
    for score, bound in found.bounds.items():
        now = directions(recipe, set_name)[score]
        lines.append(f"      {score}: {_flow(bound)}  # {_flow(now)} now; alone it keeps {found.alone[score]:.3f}")
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------------------- parts


def _pool(recipe: Recipe, set_name: str, scores: list[str], facts: pa.Table, picks: dict[str, set[str]]) -> pa.Table:
    """The clips that the set would keep without its bounds on these scores, but with its parent's."""
    plain = pipelines.resolved(recipe)
    for score in scores:
        plain["sets"][set_name]["keep"].pop(score, None)
    loose = pipelines.check(_childless(plain, set_name))
    return facts.filter(pc.is_null(select.judge(loose, set_name, facts, picks.get(set_name))))


def _childless(plain: dict, set_name: str) -> dict:
    """The recipe with this set's ancestors alone: a child's bounds may have come to it by this set's."""
    line = [set_name]
    while (parent := plain["sets"][line[-1]]["parent"]) is not None:
        line.append(parent)
    feed = {"set": set_name, "view": next(iter(plain["views"]))}
    stage = {"feeds": [feed], "tokens": 1, "steps": 1, "lr": 1.0}
    return plain | {"sets": {name: plain["sets"][name] for name in line}, "stages": {"any": stage}}


def _parent_bounds(recipe: Recipe, set_name: str) -> dict[str, Bound]:
    parent = recipe.sets[set_name].parent
    return recipe.bounds(parent) if parent else {}


def _bounds(bound: Bound) -> bool:
    return bound.min is not None or bound.max is not None


def _threshold(values: np.ndarray, good: np.ndarray, direction: Bound) -> Bound:
    """The interval of the good values, in three digits, rounded outwards: no good clip is lost to rounding."""
    chosen = values[good & ~np.isnan(values)]
    if not len(chosen):
        return direction
    low = None if direction.min is None else _rounded(float(chosen.min()), np.floor)
    high = None if direction.max is None else _rounded(float(chosen.max()), np.ceil)
    return Bound(min=low, max=high)


def _rounded(value: float, how: np.ufunc) -> float:
    """Three significant digits, up or down."""
    if value == 0:
        return 0.0
    digits = 2 - int(np.floor(np.log10(abs(value))))
    return float(round(float(how(round(value * 10.0**digits, 6))) / 10.0**digits, max(digits, 0)))


def _stricter(bound: Bound, outer: Bound) -> Bound:
    """Rounding must not loosen what the parent asks for."""
    low = bound.min if bound.min is None or outer.min is None else max(bound.min, outer.min)
    high = bound.max if bound.max is None or outer.max is None else min(bound.max, outer.max)
    return Bound(min=low, max=high)


def _meets(values: np.ndarray, bound: Bound) -> np.ndarray:
    low = np.ones(len(values), bool) if bound.min is None else values >= bound.min
    high = np.ones(len(values), bool) if bound.max is None else values <= bound.max
    return low & high & ~np.isnan(values)


def _flow(bound: Bound) -> str:
    parts = [f"{name}: {limit!r}" for name, limit in (("min", bound.min), ("max", bound.max)) if limit is not None]
    return "{" + ", ".join(parts) + "}"

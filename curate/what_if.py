"""What other bounds would keep, answered from the tables: nothing is decoded and nothing is written."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import pipelines
from curate import concepts, select
from curate.tables import Tables
from pipelines import Recipe, RecipeError


class Kept(NamedTuple):
    """What a set keeps. hours: of its videos; entropy_bits: of its concepts as the weights draw them."""

    clips: int
    hours: float
    entropy_bits: float


class Change(NamedTuple):
    """A set before and after. gained: the rule that dropped a clip that is now kept -> clips; lost: the rule that now
    drops a clip that was kept -> clips. before or after is None where the set is not in that recipe."""

    before: Kept | None
    after: Kept | None
    gained: dict[str, int]
    lost: dict[str, int]


def show(recipe: Recipe, changed: Recipe, as_json: bool) -> int:
    """Print what `changed` would make of the sets of `recipe`. Raises RecipeError where that needs measuring."""
    from curate import grouping
    from curate.checks import check_picks, check_scores

    tables, other = Tables(recipe), Tables(changed)
    _check_measured(tables, other)
    check_picks(changed)
    check_scores(changed)
    found = changes(recipe, changed, grouping.facts(tables), grouping.picks(tables), grouping.picks(other))
    print(json.dumps({"what": "what-if", "sets": _plain(found)}) if as_json else "\n".join(lines(found)))
    return 0


def changes(
    recipe: Recipe,
    changed: Recipe,
    facts: pa.Table,
    picks: dict[str, set[str]] | None = None,
    other_picks: dict[str, set[str]] | None = None,
) -> dict[str, Change]:
    """facts (select.facts), the picks of each recipe -> every set of either recipe, before and after."""
    picks, other_picks = picks or {}, other_picks if other_picks is not None else picks or {}
    names = list(dict.fromkeys([*recipe.sets, *changed.sets]))
    return {
        name: _change(
            facts,
            select.judge(recipe, name, facts, picks.get(name)) if name in recipe.sets else None,
            select.judge(changed, name, facts, other_picks.get(name)) if name in changed.sets else None,
            (recipe.curate.concepts.law, changed.curate.concepts.law),
        )
        for name in names
    }


def lines(found: dict[str, Change]) -> list[str]:
    """For a terminal: one line per set, and below it what is gained and lost, by rule."""
    width = max([len(name) for name in found], default=0)
    said = []
    for name, one in found.items():
        said.append(f"{name:<{width}}  {_counts(one)}")
        if one.gained:
            said.append(f"{'':<{width}}    newly kept, dropped before by: {_sum(one.gained)}")
        if one.lost:
            said.append(f"{'':<{width}}    newly dropped by: {_sum(one.lost)}")
    return said


# ------------------------------------------------------------------------------------------------------------- compare


def _change(facts: pa.Table, before: pa.Array | None, after: pa.Array | None, laws: tuple[str, str]) -> Change:
    """Reasons (null is kept) under either recipe -> Change. A set that is absent keeps nothing, for no reason."""
    was, now = _kept(before, len(facts)), _kept(after, len(facts))
    return Change(
        None if before is None else _summed(facts, was, laws[0]),
        None if after is None else _summed(facts, now, laws[1]),
        _rules(before, now & ~was, "no such set"),
        _rules(after, was & ~now, "no such set"),
    )


def _kept(reasons: pa.Array | None, count: int) -> np.ndarray:
    return np.zeros(count, bool) if reasons is None else pc.is_null(reasons).to_numpy(zero_copy_only=False)


def _summed(facts: pa.Table, kept: np.ndarray, law: str) -> Kept:
    concept = select.numbers(facts, "concept", -1.0)[kept]
    hours = float(np.nansum(select.numbers(facts, "duration_s")[kept])) / 3600
    return Kept(int(kept.sum()), hours, concepts.entropy(concept, concepts.weights(concept, law)))


def _rules(reasons: pa.Array | None, rows: np.ndarray, absent: str) -> dict[str, int]:
    """Rule -> how many of these rows it drops, most first."""
    said = [absent] * int(rows.sum()) if reasons is None else reasons.filter(pa.array(rows)).to_pylist()
    counts = Counter(absent if reasons is None else select.rule_of(reason) for reason in said)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _check_measured(tables: Tables, other: Tables) -> None:
    """What-if changes sets. Raises RecipeError for a change that makes another table: only a run can tell then."""
    if tables.workspace != other.workspace:
        raise RecipeError("workspace: is not a what-if; give it with --workspace")
    for name, settings in other.settings.items():
        if name != "captions" and settings != tables.settings.get(name):
            raise RecipeError(
                f"this change makes another table `{name}`, which no table can answer; "
                "what-if is for sets.*, the law of concepts and val_share"
            )


# --------------------------------------------------------------------------------------------------------------- words


def _counts(one: Change) -> str:
    before, after = one.before or Kept(0, 0.0, 0.0), one.after or Kept(0, 0.0, 0.0)
    if before == after:
        return f"{before.clips} clips, {_hours(before.hours)}: unchanged"
    return (
        f"{before.clips} -> {after.clips} clips, {_hours(before.hours)} -> {_hours(after.hours)}, "
        f"concepts {before.entropy_bits:.2f} -> {after.entropy_bits:.2f} bits"
    )


def _hours(hours: float) -> str:
    return f"{hours:.3g} h"


def _sum(parts: dict[str, int]) -> str:
    return " + ".join(f"{count} {name}" for name, count in parts.items())


def _plain(found: dict[str, Change]) -> dict[str, Any]:
    return {
        name: {
            "before": one.before._asdict() if one.before else None,
            "after": one.after._asdict() if one.after else None,
            "gained": one.gained,
            "lost": one.lost,
        }
        for name, one in found.items()
    }


def load_both(config: str | None, recipe: str | None, overrides: tuple[str, ...], new: tuple[str, ...],
              **top: Any) -> tuple[Recipe, Recipe]:  # fmt: skip
    """The recipe as it is, and with the new values on top."""
    return (
        pipelines.load(config, recipe, overrides, **top),
        pipelines.load(config, recipe, (*overrides, *new), **top),
    )

"""Sets: bounds on scores -> a ledger of every clip, kept or dropped, with the reason. Reads tables, never decodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import pipelines
from curate import concepts, crop, split

LEDGER_VERSION = 2

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),
        ("weight", pa.float64()),
        ("split", pa.string()),
    ]
)

FACTS = ("clip_id", "video_id", "path", "media", "status", "reason", "start_s", "end_s", "fps", "width", "height")
CONCEPT = ("concept", "duplicate_of", "similarity")
LEFT = {"text_left": "text", "overlay_left": "overlay"}  # what of a score the crop does not take away


def facts(clips: pa.Table, scores: Mapping[str, pa.Table], concept_table: pa.Table | None) -> pa.Table:
    """clips + every signal's scores + concepts -> one row per clip, by clip_id: all that a set can judge by.

    Columns: those of FACTS, width and height after the crop (curate/crop.py), crop_* in px, duration_s, aspect, cropped, every score
    (null where there is none), text_left, overlay_left, concept, duplicate_of, similarity. Raises ValueError where two signals
    share a column.
    """
    joined = clips.select(list(FACTS)).sort_by("clip_id")
    for name, table in scores.items():
        _no_clash(name, joined, table)
        joined = _joined(joined, table)
    if concept_table is not None:
        joined = _joined(joined, concept_table.select(["clip_id", *CONCEPT]))
    else:
        for name in CONCEPT:
            joined = joined.append_column(name, pa.nulls(len(joined), concepts.SCHEMA.field(name).type))
    return _derived(joined)


def ledgers(
    recipe: pipelines.Recipe,
    table: pa.Table,
    picks: Mapping[str, set[str]] | None = None,
    previous: pa.Table | None = None,
) -> dict[str, pa.Table]:
    """facts -> {set name: ledger (clip_id, kept, reason, weight, split)}, a row for every clip in each, by clip_id.

    picks: the hand-picked clip ids of sets that have `clips`. The split is one for all sets: what one set validates on,
    no set trains on. previous: (clip_id, split) of the last ledgers, so that the split of known clips stays.
    Raises ValueError where kept + dropped is not all or a set keeps what its parent drops, KeyError where a set with
    `clips` has no picks.
    """
    reasons = {name: judge(recipe, name, table, (picks or {}).get(name)) for name in recipe.sets}
    kept = {name: pc.is_null(column).to_numpy(zero_copy_only=False) for name, column in reasons.items()}
    check_nesting(recipe, kept)
    validation = _validation(recipe, table, list(kept.values()), previous)
    return {
        name: _ledger(table, reasons[name], kept[name], validation, recipe.curate.concepts.law) for name in recipe.sets
    }


def check_nesting(recipe: pipelines.Recipe, kept: Mapping[str, np.ndarray]) -> None:
    """Kept clips, bool (N,), of every set: each set keeps a part of what its parent keeps; hand-picked ones are exempt.

    Raises ValueError naming the set: the recipe's check of bounds and this one must never disagree.
    """
    for name, chosen in recipe.sets.items():
        if chosen.parent is None or chosen.clips or recipe.sets[chosen.parent].clips:
            continue
        alone = int((kept[name] & ~kept[chosen.parent]).sum())
        if alone:
            raise ValueError(f"set '{name}' keeps {alone} clips that its parent '{chosen.parent}' drops")


def ledger(recipe: pipelines.Recipe, set_name: str, table: pa.Table, picks: set[str] | None = None) -> pa.Table:
    """facts -> the ledger of one set, as `ledgers` gives it where no other set is hand-picked."""
    chosen: dict[str, set[str]] = {name: set() for name, one in recipe.sets.items() if one.clips}
    if picks is not None:
        chosen[set_name] = picks
    return ledgers(recipe, table, chosen)[set_name]


def judge(recipe: pipelines.Recipe, set_name: str, table: pa.Table, picks: set[str] | None = None) -> pa.Array:
    """facts -> the reason of each clip's drop, null where it is kept: the first rule that fails.

    In order: the clip itself (too short, inside a transition), its medium, the picks, each bound in the order of
    pipelines.SCORES, and last that it is a duplicate: then the keeper is better, but this one would have done.
    """
    rules = [_unusable(table), _wrong_media(table, recipe.media(set_name))]
    if recipe.sets[set_name].clips is not None:
        if picks is None:
            raise KeyError(f"sets.{set_name}.clips names a list of picked clips, and none was given")
        rules.append(_unpicked(table, picks))
    bounds = recipe.bounds(set_name)
    rules += [_outside(table, score, bounds[score]) for score in pipelines.SCORES if score in bounds]
    rules.append(_duplicate(table, picks))
    return pc.coalesce(*rules) if len(table) else pa.array([], pa.string())


def rule_of(reason: str) -> str:
    """The rule that a reason begins with: "motion 0.12 < 0.3" -> "motion". What drops are counted by."""
    return reason.split(maxsplit=1)[0].rstrip(":,") if reason.strip() else "unknown"


def tally(table: pa.Table) -> dict[str, int]:
    """A ledger -> {"kept": n, rule: n, ...}; the numbers sum up to its rows."""
    counts = {"kept": 0}
    for kept, reason in zip(table["kept"].to_pylist(), table["reason"].to_pylist(), strict=True):
        name = "kept" if kept else rule_of(reason)
        counts[name] = counts.get(name, 0) + 1
    return {"kept": counts.pop("kept")} | dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def read_picks(text: str) -> set[str]:
    """A list of clip ids, one per line; blank lines and what follows a # are left out."""
    return {line.split("#")[0].strip() for line in text.splitlines()} - {""}


# --------------------------------------------------------------------------------------------------------------- facts


def _no_clash(name: str, joined: pa.Table, table: pa.Table) -> None:
    shared = (set(joined.column_names) & set(table.column_names)) - {"clip_id"}
    if shared:
        raise ValueError(f"scores.{name} must not repeat a column of another table, got {', '.join(sorted(shared))}")


def _joined(left: pa.Table, right: pa.Table) -> pa.Table:
    """Every row of left, by clip_id, with the columns of right or nulls."""
    known = {clip_id: row for row, clip_id in enumerate(right["clip_id"].to_pylist())}
    take = pa.array([known.get(clip_id) for clip_id in left["clip_id"].to_pylist()], pa.int64())
    for name in right.column_names:
        if name == "clip_id":
            continue
        left = left.append_column(name, right[name].combine_chunks().take(take))
    return left


def _derived(joined: pa.Table) -> pa.Table:
    cut = crop.crops(joined)
    width = numbers(joined, "width") - cut.px[:, 0] - cut.px[:, 2]
    height = numbers(joined, "height") - cut.px[:, 1] - cut.px[:, 3]
    video = np.array(joined["media"].to_pylist(), dtype=object) == "video"
    duration = np.where(video, numbers(joined, "end_s") - numbers(joined, "start_s"), 0.0)
    joined = joined.set_column(joined.column_names.index("width"), "width", _column(width))
    joined = joined.set_column(joined.column_names.index("height"), "height", _column(height))
    with np.errstate(invalid="ignore", divide="ignore"):
        aspect = np.where(height > 0, width / height, np.nan)
    derived = {"duration_s": duration, "aspect": aspect, "short_side": np.minimum(width, height), "cropped": cut.share}
    for name, score in LEFT.items():
        if score in joined.column_names:
            derived[name] = np.where(cut.heeded[score], 0.0, numbers(joined, score))
    for name, values in derived.items():
        joined = joined.append_column(name, _column(values))
    for side, name in enumerate(crop.COLUMNS):
        joined = joined.append_column(name, pa.array(cut.px[:, side]))
    return joined


def numbers(table: pa.Table, name: str, unknown: float = np.nan) -> np.ndarray:
    """A column as float64 (N,), nulls as `unknown`; all unknown where there is no such column."""
    if name not in table.column_names:
        return np.full(len(table), unknown)
    column = table[name].combine_chunks().cast(pa.float64())
    return pc.fill_null(column, unknown).to_numpy(zero_copy_only=False)


def _column(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)  # NaN becomes null: unknown


# --------------------------------------------------------------------------------------------------------------- rules


def _unusable(table: pa.Table) -> pa.Array:
    bad = pc.not_equal(table["status"], "ok")
    return pc.if_else(bad, pc.coalesce(table["reason"], "clip unusable"), None).combine_chunks().cast(pa.string())


def _wrong_media(table: pa.Table, media: str | None) -> pa.Array:
    """Video sets take videos only; image sets take images, and of videos the sharpest frame."""
    if media != "video":
        return pa.nulls(len(table), pa.string())
    bad = pc.not_equal(table["media"], "video")
    said = pc.binary_join_element_wise("media ", table["media"], ", set wants video", "")
    return pc.if_else(bad, said, None).combine_chunks().cast(pa.string())


def _unpicked(table: pa.Table, picks: set[str]) -> pa.Array:
    chosen = pc.is_in(table["clip_id"], value_set=pa.array(sorted(picks), pa.string()))
    return pc.if_else(chosen, None, "picks: not in the list").combine_chunks().cast(pa.string())


def _outside(table: pa.Table, score: str, bound: pipelines.Bound) -> pa.Array:
    values = numbers(table, score)
    low = np.zeros(len(values), bool) if bound.min is None else values < bound.min
    high = np.zeros(len(values), bool) if bound.max is None else values > bound.max
    unknown = np.isnan(values) & (bound.min is not None or bound.max is not None)
    reasons = np.full(len(values), None, dtype=object)
    for row in np.flatnonzero(low | high | unknown):
        reasons[row] = describe(score, None if unknown[row] else float(values[row]), bound)
    return pa.array(reasons, pa.string())


def _duplicate(table: pa.Table, picks: set[str] | None) -> pa.Array:
    """A picked clip is dropped for its keeper only where that is picked too: the hand that picked knew."""
    keeper = table["duplicate_of"].combine_chunks()
    if picks is not None:
        both = pc.is_in(keeper, value_set=pa.array(sorted(picks), pa.string()))
        keeper = pc.if_else(both, keeper, None)
    said = pc.binary_join_element_wise("duplicate of ", keeper, "")
    return pc.if_else(pc.is_valid(keeper), said, None).cast(pa.string())


def describe(score: str, value: float | None, bound: pipelines.Bound) -> str:
    """Why a value is outside its bound: "motion 0.12 < 0.3"; an unknown one: "motion unknown, set wants >= 0.3"."""
    if value is None:
        wants = [f"{sign} {limit:g}" for sign, limit in ((">=", bound.min), ("<=", bound.max)) if limit is not None]
        return f"{score} unknown, set wants {' and '.join(wants)}"
    sign, limit = ("<", bound.min) if bound.min is not None and value < bound.min else (">", bound.max)
    shown = f"{value:.3g}"
    return f"{score} {shown if limit is not None and float(shown) != limit else repr(value)} {sign} {limit:g}"


# -------------------------------------------------------------------------------------------------------------- ledger


def _validation(
    recipe: pipelines.Recipe, table: pa.Table, kept: Sequence[np.ndarray], previous: pa.Table | None
) -> np.ndarray:
    ids, videos = table["clip_id"].to_pylist(), table["video_id"].to_pylist()
    known = None
    if previous is not None:
        old: dict[str, Any] = dict(zip(previous["clip_id"].to_pylist(), previous["split"].to_pylist(), strict=True))
        known = pa.array([old.get(clip_id) for clip_id in ids], pa.string())
    group = split.groups(ids, videos, table["duplicate_of"].to_pylist())
    return split.splits(group, videos, recipe.curate.val_share, kept, known)


def _ledger(table: pa.Table, reason: pa.Array, kept: np.ndarray, validation: np.ndarray, law: str) -> pa.Table:
    weight = np.zeros(len(table))
    weight[kept] = concepts.weights(numbers(table, "concept", -1.0)[kept], law)
    made = pa.table(
        {
            "clip_id": table["clip_id"],
            "kept": kept,
            "reason": reason,
            "weight": weight,
            "split": np.where(validation, split.VAL, split.TRAIN).astype(object),
        },
        schema=SCHEMA,
    )
    counts = tally(made)
    if sum(counts.values()) != len(table):
        raise ValueError(f"kept + dropped must be all {len(table)} clips, got {counts}")
    return made

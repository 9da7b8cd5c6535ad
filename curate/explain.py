"""Why a clip is in a set or is not, in words: for a clip its scores and verdicts, for a file every clip and span."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

import pipelines
from curate import select
from media import storage
from pipelines import RecipeError

if TYPE_CHECKING:
    from curate.tables import Tables


def explain(tables: Tables, what: str) -> str:
    """what: a clip id, a video id, or a file (its path, or the end of it). Raises RecipeError where there is none."""
    from curate import grouping

    facts = grouping.facts(tables)
    ledgers = {name: tables.ledger(name) for name in tables.recipe.sets}
    if what in facts["clip_id"].to_pylist():
        return of_clip(tables.recipe, facts, ledgers, what)
    videos = tables.read("videos", ["video_id", "path", "media", "status", "reason"])
    rows = [row for row in videos.to_pylist() if _names(row, what)]
    if not rows:
        raise RecipeError(f"explain {what}: no clip, video or file of that name in {tables.workspace}")
    return "\n\n".join(of_file(tables.recipe, facts, ledgers, row) for row in rows)


def of_clip(recipe: pipelines.Recipe, facts: pa.Table, ledgers: Mapping[str, pa.Table], clip_id: str) -> str:
    """facts, ledgers by set -> every score, each set's verdict with what decided, duplicates, concept."""
    row = facts.filter(pc.equal(facts["clip_id"], clip_id)).to_pylist()[0]
    lines = [f"clip {clip_id}  {_place(row)}", f"  of {row['path']}  (video {row['video_id']})"]
    if row["status"] != "ok":
        return "\n".join([*lines, f"  dropped before anything was measured: {row['reason']}"])
    lines += ["", "scores", *_scores(row), "", "sets"]
    for name, table in ledgers.items():
        lines += _verdict(recipe, name, table, row)
    return "\n".join([*lines, "", *_relations(facts, row)])


def of_file(
    recipe: pipelines.Recipe, facts: pa.Table, ledgers: Mapping[str, pa.Table], video: Mapping[str, Any]
) -> str:
    """video: path, video_id, media, status, reason -> its state, and every clip and dropped span with its verdicts."""
    head = f"{video['path']}  {video['media'] or ''} {video['status']}{_because(video['reason'])}"
    rows = facts.filter(pc.equal(facts["video_id"], video["video_id"] or ""))
    if video["status"] == "alias" or not len(rows):
        return head if video["status"] == "alias" else f"{head}\n  no clips"
    order = sorted(rows.to_pylist(), key=lambda row: row["start_s"] or 0.0)
    lines = [head, f"  video {video['video_id']}, {len(order)} spans"]
    for row in order:
        lines.append(f"  {row['clip_id']}  {_place(row)}")
        if row["status"] != "ok":
            lines.append(f"      dropped: {row['reason']}")
            continue
        for name, table in ledgers.items():
            found = _row(table, row["clip_id"])
            lines.append(f"      {name}: {_outcome(found)}")
    return "\n".join(lines)


def _names(row: Mapping[str, Any], what: str) -> bool:
    path = row["path"] or ""
    return what == row["video_id"] or path == storage.absolute(what) or f"/{path}".endswith(f"/{what.lstrip('/')}")


def _place(row: Mapping[str, Any]) -> str:
    size = f"{row['width'] or 0:.0f}x{row['height'] or 0:.0f}"
    if row["media"] == "image":
        return f"image {size}"
    return f"[{row['start_s']:.3f} s, {row['end_s']:.3f} s)  {size}  {row['fps'] or 0:.3f} fps"


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""


def _scores(row: Mapping[str, Any]) -> list[str]:
    """What can be bounded first, with its meaning; then whatever else the signals say."""
    known = [name for name in pipelines.SCORES if name in row]
    other = [name for name in row if name not in (*known, *select.FACTS, *select.CONCEPT)]
    width = max(len(name) for name in (*known, *other))
    meant = [f"  {name:<{width}}  {_value(row[name]):>10}  {pipelines.SCORES[name]}" for name in known]
    return meant + [f"  {name:<{width}}  {_value(row[name]):>10}" for name in other]


def _value(value: Any) -> str:
    return "unknown" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _verdict(recipe: pipelines.Recipe, name: str, table: pa.Table, row: Mapping[str, Any]) -> list[str]:
    """The verdict, then each bound with the value it met, so that one sees how near the others were."""
    lines = [f"  {name}: {_outcome(_row(table, row['clip_id']))}"]
    for score, bound in recipe.bounds(name).items():
        value = row.get(score)
        met = (
            value is not None
            and (bound.min is None or value >= bound.min)
            and (bound.max is None or value <= bound.max)
        )
        wants = [f"{sign} {limit:g}" for sign, limit in ((">=", bound.min), ("<=", bound.max)) if limit is not None]
        lines.append(f"      {'met   ' if met else 'failed'}  {score} {_value(value)}, wants {' and '.join(wants)}")
    return lines


def _row(table: pa.Table, clip_id: str) -> Mapping[str, Any]:
    found = table.filter(pc.equal(table["clip_id"], clip_id)).to_pylist()
    return (
        found[0] if found else {"kept": False, "reason": "not in the ledger: run `curate`", "weight": 0.0, "split": ""}
    )


def _outcome(found: Mapping[str, Any]) -> str:
    if found["kept"]:
        return f"kept, weight {found['weight']:.3f}, {found['split']}"
    return f"dropped: {found['reason']}"


def _relations(facts: pa.Table, row: Mapping[str, Any]) -> list[str]:
    lines = []
    if row["duplicate_of"]:
        lines.append(f"duplicate of {row['duplicate_of']} (similarity {row['similarity']:.3f}), which is kept instead")
    copies = facts.filter(pc.equal(facts["duplicate_of"], row["clip_id"]))
    for copy in copies.to_pylist():
        lines.append(f"kept instead of {copy['clip_id']} (similarity {copy['similarity']:.3f})  {copy['path']}")
    if row["concept"] is None:
        return [*lines, "no concept"]
    alike = pc.sum(pc.equal(facts["concept"], row["concept"])).as_py()
    return [*lines, f"concept {row['concept']}, {alike} clips"]

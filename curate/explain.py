"""Why a clip is in a set or is not, in words: for a clip its scores and verdicts, for a file every clip and span."""

from __future__ import annotations

import difflib
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

MOST = 20  # files that are explained at once
NEAR = 3  # names that are offered for one that is unknown


def explain(tables: Tables, what: str) -> str:
    """what: a clip id, a video id, or a file (its path, or the end of it). Raises RecipeError where there is none."""
    from curate import grouping

    facts = grouping.facts(tables)
    ledgers = {name: tables.ledger(name) for name in tables.recipe.sets}
    videos = tables.read("videos", ["video_id", "path", "media", "status", "reason"])
    if what in facts["clip_id"].to_pylist():
        return of_clip(tables.recipe, facts, ledgers, what, videos)
    rows = [row for row in videos.to_pylist() if _names(row, what)]
    if not rows:
        raise RecipeError(f"explain {what}: {_why_not(tables, what, facts, videos)}")
    told = [of_file(tables.recipe, facts, ledgers, row) for row in rows[:MOST]]
    more = [f"... and {len(rows) - MOST} more files of that name: give more of the path"] if len(rows) > MOST else []
    return "\n\n".join([*told, *more])


def of_clip(recipe: pipelines.Recipe, facts: pa.Table, ledgers: Mapping[str, pa.Table], clip_id: str,
            videos: pa.Table | None = None) -> str:  # fmt: skip
    """facts, ledgers by set -> every score, each set's verdict with what decided, duplicates, concept. videos: video_id, path,
    status, reason, for what is wrong with the file and for its other names."""
    row = facts.filter(pc.equal(facts["clip_id"], clip_id)).to_pylist()[0]
    lines = [f"clip {clip_id}  {_place(row)}", f"  of {row['path']}  (video {row['video_id']})"]
    if videos is not None:
        named = videos.filter(pc.equal(videos["video_id"], row["video_id"])).to_pylist()
        lines += [f"  {_of_name(one)}" for one in named if one["status"] != "ok"]
    if row["status"] != "ok":
        return "\n".join([*lines, f"  dropped before anything was measured: {row['reason']}"])
    lines += ["", "scores", *_scores(row), "", "sets"]
    for name, table in ledgers.items():
        lines += _verdict(recipe, name, _rows(table, [clip_id]), row)
    return "\n".join([*lines, "", *_relations(facts, ledgers, row)])


def of_file(
    recipe: pipelines.Recipe, facts: pa.Table, ledgers: Mapping[str, pa.Table], video: Mapping[str, Any]
) -> str:
    """video: path, video_id, media, status, reason -> its state, and every clip and dropped span with its verdicts."""
    head = f"{video['path']}  {video['media'] or ''} {video['status']}{_because(video['reason'])}"
    rows = facts.filter(pc.equal(facts["video_id"], video["video_id"] or ""))
    if not len(rows):
        return f"{head}\n  no clips"
    order = sorted(rows.to_pylist(), key=lambda row: row["start_s"] or 0.0)
    dropped = sum(row["status"] != "ok" for row in order)
    counted = f"{len(order) - dropped} clips + {dropped} dropped spans"
    lines = [head, f"  video {video['video_id']}, {len(order)} spans = {counted}"]
    verdicts = {name: _rows(table, [row["clip_id"] for row in order]) for name, table in ledgers.items()}
    for row in order:
        lines.append(f"  {row['clip_id']}  {_place(row)}")
        if row["status"] != "ok":
            lines.append(f"      dropped: {row['reason']}")
            continue
        lines += [f"      {name}: {_outcome(found[row['clip_id']])}" for name, found in verdicts.items()]
    return "\n".join(lines)


def _of_name(video: Mapping[str, Any]) -> str:
    if video["status"] == "alias":
        return f"also {video['path']}"
    return f"the file is {video['status']}{_because(video['reason'])}"


def _why_not(tables: Tables, what: str, facts: pa.Table, videos: pa.Table) -> str:
    """What is wrong with a name that no table has: forgotten, not curated yet, or mistyped."""
    from curate.tables import forgotten

    stones = forgotten(tables.workspace)
    files = {row["path"]: row["video_id"] for row in tables.files().to_pylist()}  # the newest of a path is the last
    path = storage.absolute(what)
    if what in stones["clips"] | stones["videos"] or files.get(path) in stones["videos"]:
        return "it was forgotten (`curate forget`), and no table may tell of it any more"
    if path in files:
        return "it is known and not measured yet: run `curate`"
    if not storage.is_remote(path) and storage.exists(path):
        return "no footage of this recipe, or new: run `curate` with it among --footage"
    ids = [*facts["clip_id"].to_pylist(), *pc.unique(facts["video_id"]).to_pylist()]
    near = [one for one in ids if len(what) >= 4 and one.startswith(what)][:NEAR]
    names = {storage.name(one): one for one in videos["path"].to_pylist()}
    near = near or [names[name] for name in difflib.get_close_matches(storage.name(what), list(names), NEAR, 0.6)]
    near = near or difflib.get_close_matches(what, ids, NEAR, 0.75)
    said = f"no clip, video or file of that name in {tables.workspace}"
    return f"{said}, did you mean {' or '.join(near)}?" if near else said


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


def _verdict(recipe: pipelines.Recipe, name: str, found: Mapping[str, Mapping[str, Any]], row: Mapping[str, Any]):
    """The verdict, then each bound with the value it met, so that one sees how near the others were."""
    lines = [f"  {name}: {_outcome(found[row['clip_id']])}"]
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


def _rows(table: pa.Table, clip_ids: list[str]) -> dict[str, Mapping[str, Any]]:
    """clip_id -> its row of a ledger, for each of the clips."""
    there = table.filter(pc.is_in(table["clip_id"], value_set=pa.array(clip_ids, pa.string()))).to_pylist()
    absent = {"kept": False, "reason": "not in the ledger: run `curate`", "weight": 0.0, "split": ""}
    found: dict[str, Mapping[str, Any]] = dict.fromkeys(clip_ids, absent)
    return found | {row["clip_id"]: row for row in there}


def _outcome(found: Mapping[str, Any]) -> str:
    if found["kept"]:
        return f"kept, weight {found['weight']:.3f}, {found['split']}"
    return f"dropped: {found['reason']}"


def _relations(facts: pa.Table, ledgers: Mapping[str, pa.Table], row: Mapping[str, Any]) -> list[str]:
    lines = []
    if row["duplicate_of"]:
        keeper = facts.filter(pc.equal(facts["clip_id"], row["duplicate_of"])).to_pylist()
        where = f"  {keeper[0]['path']} {_place(keeper[0])}" if keeper else ""
        lines.append(f"duplicate of {row['duplicate_of']} (similarity {row['similarity']:.3f}), its keeper{where}")
        kept = [
            name for name, table in ledgers.items() if _rows(table, [row["duplicate_of"]])[row["duplicate_of"]]["kept"]
        ]
        lines.append(f"  the keeper is in {', '.join(kept) or 'no set'}")
    copies = facts.filter(pc.equal(facts["duplicate_of"], row["clip_id"]))
    for copy in copies.to_pylist():
        lines.append(f"kept instead of {copy['clip_id']} (similarity {copy['similarity']:.3f})  {copy['path']}")
    if not lines:
        lines = ["no duplicates"]
    if row["concept"] is None:
        return [*lines, "no concept"]
    alike = pc.sum(pc.equal(facts["concept"], row["concept"])).as_py()
    return [*lines, f"concept {row['concept']}, {alike} clips"]

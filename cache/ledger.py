"""Which bucket each clip of a view goes to, or why it goes to none: decided from tables, before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

import pyarrow as pa

from cache import index as tables
from cache.buckets import Bucket, Size, frames_within, nearest, sizes
from cache.pixels import Crop
from curate.tables import Tables
from pipelines import Recipe, RecipeError, View


class Clip(NamedTuple):
    """What the cache needs to know of a clip. Times in seconds, tick_s the length of a tick, sides in upright px."""

    clip_id: str
    path: str
    media: str
    start_s: float
    end_s: float
    start_tick: int
    tick_s: float
    width: int
    height: int
    crop: Crop

    @property
    def aspect(self) -> float:
        """Width / height of what the curated crop leaves."""
        across, down = self.crop.left + self.crop.right, self.crop.top + self.crop.bottom
        return max(1, self.width - across) / max(1, self.height - down)


class Placed(NamedTuple):
    """One clip in one bucket of a view, from start_tick on; or the reason why there is none."""

    clip: Clip
    start_tick: int
    start_s: float
    bucket: Bucket | None
    reason: str | None


def feeding_sets(recipe: Recipe, stage: str | None = None) -> dict[str, list[str]]:
    """View -> the sets that the stages (or this one) feed to it. Raises RecipeError for an unknown stage."""
    if stage is not None and stage not in recipe.stages:
        raise RecipeError(f"--stage {stage}: no such stage; there are {', '.join(recipe.stages)}")
    found: dict[str, list[str]] = {}
    for name in recipe.stages if stage is None else [stage]:
        for feed in recipe.stages[name].feeds:
            sets = found.setdefault(feed.view, [])
            if feed.set not in sets:
                sets.append(feed.set)
    return found


def clips_of(recipe: Recipe, sets: Iterable[str]) -> list[Clip]:
    """The clips that any of the sets keeps, by clip_id. Raises FileNotFoundError when `curate` has not made them."""
    source = Tables(recipe)
    kept: set[str] = set()
    for name in sets:
        rows = source.ledger(name)
        kept.update(rows.filter(rows["kept"])["clip_id"].to_pylist())
    crops = {clip_id: Crop(*px) for clip_id, px in source.crops().items()}
    columns = ["clip_id", "path", "media", "start_s", "end_s", "start_tick", "tb_num", "tb_den", "width", "height"]
    return [
        _clip(row, crops.get(row["clip_id"], Crop()))
        for row in source.read("clips", columns).to_pylist()
        if row["clip_id"] in kept
    ]


def place(clips: Sequence[Clip], view: View, held: Sequence[Size] = ()) -> list[Placed]:
    """Every clip in its bucket, or with its reason; several rows per clip where the view takes all its spans.

    held: sizes of this view's buckets that have samples (they matter to `aspects: auto`).
    """
    refused = {clip.clip_id: _refusal(clip, view) for clip in clips}
    fitting = [clip for clip in clips if refused[clip.clip_id] is None]
    choices = sizes(view, (clip.aspect for clip in fitting), held)
    found: list[Placed] = []
    for clip in clips:
        if reason := refused[clip.clip_id]:
            found.append(Placed(clip, clip.start_tick, clip.start_s, None, reason))
        else:
            size = nearest(choices, clip.aspect)
            bucket = Bucket(view.frames, size.height, size.width, view.fps if view.frames > 1 else None)
            found += [Placed(clip, tick, start_s, bucket, None) for tick, start_s in _spans(clip, view)]
    return found


def view_table(placed: Iterable[Placed], failed: dict[tuple[str, str, int], str]) -> pa.Table:
    """The ledger of a view. failed: (bucket, clip_id, start_tick) -> why its sample could not be made."""
    rows = []
    for one in placed:
        name = one.bucket.name if one.bucket else None
        why = failed.get((name, one.clip.clip_id, one.start_tick)) if name else one.reason
        rows.append((one.clip.clip_id, one.start_tick, None if why else name, why))
    return pa.Table.from_pylist([dict(zip(tables.VIEW.names, row)) for row in rows], schema=tables.VIEW)


def _refusal(clip: Clip, view: View) -> str | None:
    if view.frames == 1:
        return None
    if clip.media == "image":
        return f"an image: the view has {view.frames} frames"
    held = frames_within(clip.start_s, clip.end_s, view.fps or 1.0)
    if held < view.frames:
        return f"too short: {clip.end_s - clip.start_s:.3f} s hold {held} frames at {view.fps:g} fps, not {view.frames}"
    return None


def _spans(clip: Clip, view: View) -> Iterator[tuple[int, float]]:
    """(start tick, start in seconds) of the parts of a clip that the view takes. Parts don't overlap.

    `random` is drawn from the clip and the view's frames alone, so it stays the same in every run.
    """
    if view.frames == 1 or view.fps is None or view.span == "head":
        yield clip.start_tick, clip.start_s
        return
    spare = frames_within(clip.start_s, clip.end_s, view.fps) - view.frames
    starts = range(0, spare + 1, view.frames)
    if view.span == "random":
        starts = [Random(f"{clip.clip_id} {view.frames} {view.fps}").randint(0, spare)]
    for frames in starts:
        ticks = round(frames / view.fps / clip.tick_s)
        yield clip.start_tick + ticks, clip.start_s + ticks * clip.tick_s


def _clip(row: dict[str, Any], crop: Crop) -> Clip:
    tick_s = row["tb_num"] / row["tb_den"] if row["tb_den"] else 1.0
    return Clip(
        row["clip_id"], row["path"], row["media"], row["start_s"], row["end_s"],
        row["start_tick"] or 0, tick_s, row["width"], row["height"], crop,
    )  # fmt: skip

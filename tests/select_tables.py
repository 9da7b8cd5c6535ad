"""Recipes and facts for the tests of sets: only what a test speaks of is given."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

import pipelines
from curate import concepts, select

VIEWS = {"view": {"size": 64, "frames": 1}}


def make_recipe(sets: dict[str, Any], **curate: Any) -> pipelines.Recipe:
    """A recipe of these sets, one view, and one stage on the first set."""
    stage = {"feeds": ({"set": next(iter(sets)), "view": "view"},), "tokens": 64, "steps": 1, "lr": 1e-3}
    return pipelines.check({"name": "test", "footage": ("footage",), "workspace": "work", "curate": curate,
                            "sets": sets, "views": VIEWS, "stages": {"stage": stage}})  # fmt: skip


def make_facts(**columns: list[Any]) -> pa.Table:
    """Columns of `facts` -> the whole table, as `select.facts` makes it; what is not given is usual."""
    count = len(columns["clip_id"])
    usual = {"video_id": columns["clip_id"], "path": ["/f/x.mp4"] * count, "media": ["video"] * count,
             "status": ["ok"] * count, "reason": [None] * count, "start_s": [1.0] * count, "end_s": [5.0] * count,
             "fps": [25.0] * count, "width": [640] * count, "height": [360] * count}  # fmt: skip
    clips = pa.table({name: columns.get(name, usual.get(name)) for name in select.FACTS} | {
        "reason": pa.array(columns.get("reason", usual["reason"]), pa.string())})  # fmt: skip
    scores = {name: pa.table({"clip_id": columns["clip_id"], name: pa.array(values, pa.float64())})
              for name, values in columns.items() if name in pipelines.SCORES and name not in select.FACTS}  # fmt: skip
    grouped = {"clip_id": columns["clip_id"], "concept": columns.get("concept", [0] * count),
               "distance": [0.0] * count, "duplicate_of": columns.get("duplicate_of", [None] * count),
               "similarity": columns.get("similarity", [None] * count)}  # fmt: skip
    return select.facts(clips, scores, pa.table(grouped, schema=concepts.SCHEMA))

"""Captions of a unit's clips: sidecars beside the footage where there are some, else what was measured.

Colours are measured here, from the proxies of clips without a sidecar.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate import caption, colours
from curate.pictures import decode_jpegs
from curate.tables import SCHEMAS, Tables, read_part, typed
from media import storage

BATCH_CLIPS = 64  # clips whose proxies are held at once


class Plan(NamedTuple):
    """clips: rows of the unit; sidecar: path of footage -> path of its caption; inputs: what the captions depend on."""

    clips: pa.Table
    sidecar: dict[str, str]
    inputs: str


def plan(tables: Tables, part: str, listed: dict[str, str]) -> Plan:
    """What the captions of a part of `clips` are made from. listed: every path of the footage -> its size and tag."""
    clips = read_part(part)
    clips = clips.filter(pc.equal(clips["status"], "ok"))
    beside = {}
    for path in sorted(set(clips["path"].to_pylist())):
        there = [one for one in caption.sidecar_paths(path) if one in listed]
        if there:
            beside[path] = there[0]
    inputs = json.dumps([[path, one, listed[one]] for path, one in beside.items()])
    return Plan(clips, beside, inputs)


def make(tables: Tables, planned: Plan, part: str) -> pa.Table:
    """The rows of `captions` of one unit. part: the file name of its parts."""
    scores = _scores(tables, part)
    _add_colours(scores, tables, planned, part)
    texts = {path: _read(one) for path, one in planned.sidecar.items()}
    variants = tables.recipe.cache.caption_variants
    rows = []
    for clip in planned.clips.to_pylist():
        found = caption.describe(clip, scores.get(clip["clip_id"], {}), texts.get(clip["path"]))
        rows.append(
            {
                "clip_id": clip["clip_id"],
                "caption": found.caption.model_dump_json(),
                "source": found.source
                if found.reason is None
                else f"{found.source} (sidecar not used: {found.reason})",
                "texts": caption.renderings(found.caption, variants),
            }
        )
    return typed(rows, SCHEMAS["captions"])


def _add_colours(scores: dict[str, dict[str, Any]], tables: Tables, planned: Plan, part: str) -> None:
    """`colours` among the scores of every clip that has no sidecar."""
    silent = {clip["clip_id"] for clip in planned.clips.to_pylist() if clip["path"] not in planned.sidecar}
    if not silent:
        return
    with storage.open_read(storage.join(tables.folder("proxies"), part)) as file:
        for batch in pq.ParquetFile(file).iter_batches(BATCH_CLIPS, columns=["clip_id", "jpegs"]):
            for row in batch.to_pylist():
                if row["clip_id"] in silent and row["jpegs"]:
                    scores.setdefault(row["clip_id"], {})["colours"] = colours.named(decode_jpegs(row["jpegs"]))


def _read(path: str) -> tuple[str, str]:
    return storage.read_bytes(path).decode(errors="replace"), os.path.splitext(path)[1]


def _scores(tables: Tables, part: str) -> dict[str, dict[str, Any]]:
    """clip_id -> every score by name, from the parts of the same unit."""
    found: dict[str, dict[str, Any]] = {}
    for name in tables.signals:
        path = storage.join(tables.folder(f"scores.{name}"), part)
        for row in read_part(path).to_pylist():
            found.setdefault(row.pop("clip_id"), {}).update(row)
    return found

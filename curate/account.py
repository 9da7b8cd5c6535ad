"""Counts that add up: files by status, spans by reason, each set's kept and dropped. Asserted, and shown."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from commands import TooMuchLost
from curate.concepts import entropy
from curate.select import rule_of
from curate.tables import SCHEMAS, Tables
from media import storage
from pipelines import Recipe

LOST = ("failed", "quarantined")


def check_ledger(ledger: pa.Table, clips: int, name: str) -> None:
    """inputs = kept + dropped(reason): every clip is in the ledger once, and a dropped one says why."""
    kept = pc.sum(ledger["kept"]).as_py() or 0
    dropped = sum(count for _, count in dropped_by(ledger).items())
    unique = pc.count_distinct(ledger["clip_id"]).as_py()
    if not clips == unique == ledger.num_rows == kept + dropped:
        raise AssertionError(
            f"sets/{name}: {clips} clips went in, {ledger.num_rows} rows ({unique} different) came out: "
            f"{kept} kept + {dropped} dropped with a reason"
        )


def dropped_by(ledger: pa.Table) -> dict[str, int]:
    """Rule that a reason begins with -> rows dropped for it, most first. A row without a reason is not counted."""
    dropped = ledger.filter(pc.invert(ledger["kept"]))["reason"].to_pylist()
    return dict(Counter(rule_of(reason) for reason in dropped if reason).most_common())


def counts(tables: Tables) -> dict[str, Any]:
    """{"files": status -> n, "clips": {...}, "sets": name -> {...}} with every sum checked."""
    videos = tables.read("videos", ["video_id", "media", "status"])
    clips = tables.read("clips", ["clip_id", "status", "reason"])
    statuses = Counter(videos["status"].to_pylist())
    dropped = Counter(rule_of(reason) for reason in clips["reason"].to_pylist() if reason)
    found: dict[str, Any] = {
        "files": {"total": videos.num_rows, **dict(statuses.most_common())},
        "spans": {
            "total": clips.num_rows,
            "clips": pc.sum(pc.equal(clips["status"], "ok")).as_py() or 0,
            "dropped": dict(dropped),
        },
        "sets": {},
    }
    spans = found["spans"]
    assert spans["total"] == spans["clips"] + sum(dropped.values()), f"spans do not add up: {spans}"
    made = [name for name in tables.recipe.sets if storage.exists(tables.ledger_path(name))]
    concept = tables.read("concepts", ["clip_id", "concept"]) if made else SCHEMAS["concepts"].empty_table()
    for name in made:
        ledger = tables.ledger(name)
        check_ledger(ledger, clips.num_rows, name)
        found["sets"][name] = {
            "kept": pc.sum(ledger["kept"]).as_py() or 0,
            "val": pc.sum(pc.and_(ledger["kept"], pc.equal(ledger["split"], "val"))).as_py() or 0,
            "dropped": dropped_by(ledger),
            "concept_bits": concept_bits(ledger, concept),
        }
    return found


def concept_bits(ledger: pa.Table, concept: pa.Table) -> tuple[float, float]:
    """Entropy of the kept clips' concepts, in bits: each clip once, and drawn by its weight."""
    kept = ledger.filter(ledger["kept"])
    place = pc.index_in(kept["clip_id"], value_set=concept["clip_id"].combine_chunks())
    numbers = concept["concept"].take(place).to_numpy()
    return entropy(numbers), entropy(numbers, kept["weight"].to_numpy())


def show(recipe: Recipe, as_json: bool) -> int:
    """Print the counts of a workspace."""
    tables = Tables(recipe)
    found = counts(tables)
    if as_json:
        print(json.dumps({"what": "status"} | found))
        return 0
    files, spans = dict(found["files"]), found["spans"]
    print(f"files  {files.pop('total'):>6} = {_sum(files)}")
    for line in lost_lines(tables):
        print(f"       {line}")
    print(f"spans  {spans['total']:>6} = {_sum({'clips': spans['clips'], **spans['dropped']})}")
    for name, row in found["sets"].items():
        total = row["kept"] + sum(row["dropped"].values())
        before, after = row["concept_bits"]
        print(
            f"{name:<14} {total:>5} = {row['kept']} kept ({row['val']} val) + {_sum(row['dropped']) or '0 dropped'}; "
            f"concepts {before:.2f} -> {after:.2f} bits by weight"
        )
    return 0


def lost_lines(tables: Tables, most: int = 5) -> list[str]:
    videos = tables.read("videos", ["path", "status", "reason", "video_id"])
    lost = videos.filter(pc.is_in(videos["status"], pa.array(LOST))).to_pylist()
    lines = [f"{row['status']}: {row['path']}: {row['reason']}" for row in lost[:most]]
    return lines + ([f"... and {len(lost) - most} more"] if len(lost) > most else [])


def check_loss(tables: Tables) -> None:
    """Raises TooMuchLost when more of the media files failed than the recipe's max_loss, naming the first."""
    videos = tables.read("videos", ["path", "media", "status", "reason"])
    media = videos.filter(
        pc.and_(pc.not_equal(videos["status"], "alias"), pc.not_equal(videos["status"], "unsupported"))
    )
    lost = media.filter(pc.is_in(media["status"], pa.array(LOST))).to_pylist()
    limit = tables.recipe.curate.max_loss
    if media.num_rows and len(lost) / media.num_rows > limit:
        first = lost[0]
        raise TooMuchLost(
            f"{len(lost)} of {media.num_rows} media files failed, more than max_loss {limit:g}; "
            f"the first: {first['path']}: {first['reason']}; mend or replace them, leave one out with "
            "`curate forget FILE`, or raise curate.max_loss"
        )


def _sum(parts: dict[str, int]) -> str:
    return " + ".join(f"{count} {name}" for name, count in parts.items() if count)

"""What encoding would do: ledger, samples, frames, bytes, hours. Nothing is written."""

from __future__ import annotations

from typing import Any

from cache import index as tables
from cache.buckets import Bucket
from cache.fingerprint import cache_folder, latent_settings, text_settings
from cache.speed import hours
from cache.update import ledger_counts, ledgers, sizes_in_bytes
from pipelines import Recipe


def estimate(recipe: Recipe, stage: str | None = None) -> dict[str, Any]:
    """hours: at the speed of this cache's last run, None before the first."""
    placed, latents = ledgers(recipe, stage), latent_settings(recipe)
    folder = cache_folder(recipe, latents)
    size = sizes_in_bytes(recipe, placed, latents, text_settings(recipe))
    wanted = {(one.bucket.name, one.clip.clip_id, one.start_tick)
              for rows in placed.values() for one in rows if one.bucket}  # fmt: skip
    held = {name: _held(folder, name) for name in size}
    missing = dict.fromkeys(size, 0)
    for name, clip_id, tick in wanted:
        missing[name] += (clip_id, tick) not in held[name]
    return {
        "folder": folder,
        "ledger": ledger_counts(placed),
        "samples": missing,
        "frames": sum(count * Bucket.parse(name).frames for name, count in missing.items()),
        "bytes": sum(count * size[name] for name, count in missing.items()),
        "hours": hours(folder, missing),
    }


def _held(folder: str, bucket: str) -> set[tuple[str, int]]:
    index = tables.read_table(tables.index_path(folder, bucket), tables.INDEX)
    return set(zip(index["clip_id"].to_pylist(), index["start_tick"].to_pylist()))

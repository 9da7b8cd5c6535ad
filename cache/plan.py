"""The plan of a bucket: which samples are in which shard. Rows are only ever added, in new shards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from cache import index as tables
from cache.buckets import Bucket
from cache.ledger import Placed
from cache.pixels import Crop
from pipelines import Cache

MEMBER_BYTES = 2048  # about what tar headers, padding and JSON add to a sample
CAPTION_TOKENS = 64  # about how long a caption is


class Item(NamedTuple):
    """One sample to make: its name in the tar and where its pixels come from."""

    key: str
    clip_id: str
    start_tick: int
    start_s: float
    path: str
    crop: Crop


class Shard(NamedTuple):
    number: int
    items: tuple[Item, ...]


def extended(plan: pa.Table, made: set[int], wanted: Iterable[Placed], per_shard: int) -> pa.Table:
    """The plan with new shards for the wanted samples that it has not, by clip_id.

    A sample is its clip, its start and its crop: where one of them changed it is another sample. Shards that are made
    stay as they are; from the others go the samples that nobody wants any more.
    """
    fresh = {_identity_of(one): one for one in wanted}
    rows = [row for row in plan.to_pylist() if row["shard"] in made or _identity(row) in fresh]
    for row in rows:
        fresh.pop(_identity(row), None)
    keys = {row["key"] for row in rows}
    first = max((row["shard"] for row in rows), default=-1) + 1
    for count, (identity, one) in enumerate(sorted(fresh.items(), key=lambda pair: pair[0])):
        key = _free_key(one, keys)
        keys.add(key)
        rows.append(dict(zip(tables.PLAN.names, (first + count // per_shard, key, *identity))))
    return pa.Table.from_pylist(rows, schema=tables.PLAN)


def sample_bytes(bucket: Bucket, channels: int, text_width: int, chosen: Cache) -> int:
    """About how much a sample takes of a shard and of the text tar beside it."""
    numbers = math.prod(bucket.latent_shape(channels)) * (2 if chosen.logvar else 1)
    numbers += chosen.caption_variants * min(chosen.text_length, CAPTION_TOKENS) * text_width
    return numbers * getattr(torch, chosen.dtype).itemsize + MEMBER_BYTES


def shards(plan: pa.Table, made: set[int], wanted: Iterable[Placed]) -> Iterator[Shard]:
    """The planned shards that are not made yet, in order."""
    sources = {_identity_of(one): one for one in wanted}
    items: dict[int, list[Item]] = {}
    for row in plan.to_pylist():
        if row["shard"] not in made:
            one = sources[_identity(row)]
            item = Item(row["key"], row["clip_id"], row["start_tick"], one.start_s, one.clip.path, one.clip.crop)
            items.setdefault(row["shard"], []).append(item)
    return (Shard(number, tuple(found)) for number, found in sorted(items.items()))


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in tables.PLAN.names[2:])


def _identity_of(one: Placed) -> tuple[Any, ...]:
    return (one.clip.clip_id, one.start_tick, *one.clip.crop)


def _free_key(one: Placed, taken: set[str]) -> str:
    """The clip's id; for its further samples in the bucket with the start tick, and with a count if need be."""
    names = [one.clip.clip_id, f"{one.clip.clip_id}-{one.start_tick}"]
    found = next((name for name in names if name not in taken), None)
    count = 2
    while found is None:
        name = f"{names[1]}-{count}"
        found = None if name in taken else name
        count += 1
    return found
